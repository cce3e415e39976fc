"""Credits: give back a tenant's quota in its current window. The bill does not change."""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.domain.audit import Actor
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.metering.reservations import PARTS
from gateway.redis import Client, load_script
from gateway.tenants.records import record
from gateway.tenants.store import no_tenant

KEPT_DAYS: Final = 40
"""For which a month's window and the ID of a credit are kept."""


class Credit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of images, money and a quota to reset, as credit.lua reads it."""

    images: int | None = None
    usd_micros: int | None = None
    reset: str | None = None
    """A field of Quotas."""


class _Reply(msgspec.Struct, frozen=True):
    decision: str
    day: str = ""
    month: str = ""
    credited: dict[str, int | str] = {}
    is_repeated: bool = False


class Credits:
    """Gives credits, each with its audit entry."""

    def __init__(
        self,
        redis: Client,
        audit_keep_s: int,
        calendar: Calendar = UTC_CALENDAR,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._audit_keep_s = audit_keep_s
        self._calendar = calendar
        self._clock = clock
        self._credit = load_script(redis, "metering/credit", PARTS["credit"])

    async def give(
        self, tenant: str, credit: Credit, actor: Actor, *, reason: str, month: str = "", credit_id: str = ""
    ) -> dict[str, object]:
        """Gives a credit, or returns the one that was given under `credit_id`.

        `month` is YYYYMM, the current one by default; images then count in the current day, too.
        Raises: GatewayError NOT_FOUND, INVALID_VALUE, CONFLICT, REDIS_UNAVAILABLE.
        Redis: one round trip, lua/credit.lua.
        """
        keys = [record(self._redis, tenant, kind) for kind in ("tenant", "audit")]
        body = msgspec.to_builtins(credit) | {"month": month, "reason": reason, "id": credit_id}
        offsets = self._calendar.offsets(self._clock())
        text = msgspec.json.encode(body, order="sorted")
        answer = await self._credit(keys, [text, offsets, actor.name, actor.request_id, self._audit_keep_s])
        reply = msgspec.json.decode(str(answer), type=_Reply)
        if reply.decision == "unknown":
            raise no_tenant(tenant)
        if reply.decision == "no_window":
            detail = f"'month': the tenant has used nothing in it, or it ended more than {KEPT_DAYS} days ago."
            raise GatewayError(ErrorCode.INVALID_VALUE, detail, param="month")
        if reply.decision == "reused":
            raise GatewayError(ErrorCode.CONFLICT, f"The ID '{credit_id}' belongs to another credit. Use a new one.")
        day, month = reply.day, reply.month
        return {
            "tenant": tenant,
            "day": f"{day[:4]}-{day[4:6]}-{day[6:]}",
            "month": f"{month[:4]}-{month[4:]}",
            "credited": reply.credited,
            "repeated": reply.is_repeated,
        }
