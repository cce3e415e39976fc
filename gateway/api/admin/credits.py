"""`/admin/v1/tenants/{name}/credit`: gives back quota."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import Schema, read_document
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor
from gateway.domain.billing import usd_micros
from gateway.domain.tenants import LIMIT_MAX
from gateway.metering.credits import Credit, Credits
from gateway.tenants.names import TenantNames


class _Credit(Schema):
    reason: Annotated[str, Meta(min_length=1, max_length=200)]
    images: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] | None = None
    usd: Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z")] | None = None
    reset: Literal["images_per_day", "images_per_month", "usd_per_month"] | None = None
    month: Annotated[str, Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])\Z")] = ""
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,64}\Z")] = ""


@dataclass(frozen=True, slots=True, repr=False)
class CreditSection:
    """The route of credits."""

    credits: Credits
    limits: BodyLimits
    names: TenantNames

    def handlers(self) -> Handlers:
        return {"/tenants/{name}/credit": {"POST": self.give}}

    async def give(self, request: Request, actor: Actor) -> Response:
        asked = await read_document(request, self.limits, _Credit)
        if sum(part is not None for part in (asked.images, asked.usd, asked.reset)) != 1:
            raise refused_value("images", "expected exactly one of 'images', 'usd' and 'reset'.")
        micros = None if asked.usd is None else usd_micros(asked.usd)
        if micros == 0:
            raise refused_value("usd", "expected more than 0.")
        if asked.month and asked.reset == "images_per_day":
            raise refused_value("month", "a quota of a day has none.")
        reset = asked.reset and asked.reset.replace("usd_", "usd_micros_")
        given = await self.credits.give(
            request.path_params["name"],
            Credit(asked.images, micros, reset),
            actor,
            reason=asked.reason,
            month=asked.month.replace("-", ""),
            credit_id=asked.id,
        )
        [shown] = await self.names.show([given])
        return json_response(shown)
