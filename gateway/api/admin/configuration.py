"""`/admin/v1/configuration`: the settings in force, without secrets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor


@dataclass(frozen=True, slots=True, repr=False)
class ConfigurationSection:
    """The route of the configuration."""

    version: str
    describe: Callable[[], Sequence[Mapping[str, object]]]

    def handlers(self) -> Handlers:
        return {"/configuration": {"GET": self.show}}

    async def show(self, _: Request, __: Actor) -> Response:
        return json_response({"version": self.version, "data": self.describe()})
