"""`/admin/v1/pool`: the organisation's upstream keys."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from gateway.domain.audit import Actor
from gateway.stores.keypool import KeyPool, KeyStatus
from gateway.web.admin import Handler
from gateway.web.bodies import json_response


class PoolSection:
    """What state every upstream key is in, and why."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool

    def handlers(self) -> Mapping[str, Mapping[str, Handler]]:
        return {"/pool": {"GET": self.list_keys}}

    async def list_keys(self, _: Request, __: Actor) -> Response:
        return json_response({"data": [_status(status) for status in await self._pool.statuses()]})


def _status(status: KeyStatus) -> dict[str, object]:
    return {
        "upstream": status.key.upstream,
        "account": status.key.account,
        "key": status.key.name,
        "fingerprint": status.key.secret.fingerprint,
        "state": status.state.value,
        "fault": status.fault,
        "model": status.model,
        "since": status.since_s,
        "until": status.until_s,
    }
