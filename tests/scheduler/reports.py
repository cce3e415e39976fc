"""What a call tells of its key, its account and its upstream, as lua/pool/release.lua reads it."""

from typing import Any

import msgspec

from gateway.domain.accounts import rest_after
from gateway.domain.errors import TABLE, Fault, Lowers, Outcome
from tests.scheduler.provider import Call


def encode(said: dict[str, Any]) -> str:
    return msgspec.json.encode(said).decode()


def describe(call: Call, fault: Fault | None, server_s: float) -> dict[str, Any]:
    """The twin of what `KeyPool` writes."""
    said: dict[str, Any] = {
        "account": call.account,
        "key": call.key,
        "fingerprint": call.fingerprint,
        "model": call.model,
    }
    if fault is None:
        return said | {"is_success": True, "breaker": "well", "images": call.images, "usd_micros": 3500 * call.images}
    row, rest = TABLE[fault], rest_after(fault, server_s)
    said |= {"fault": fault.value, "is_unauthorized": fault is Fault.KEY_INVALID}
    if row.outcome is Outcome.NOT_SENT:
        said["is_unsent"] = True
    if row.ails_upstream or row.outcome is Outcome.REFUSED:
        said["breaker"] = "ill" if row.ails_upstream else "well"
    if row.lowers is not Lowers.NOTHING:
        said["lowers"] = row.lowers.value
    if rest:
        said |= {"scope": rest.scope.value, "state": rest.state.value, "seconds": rest.seconds}
        said |= {"seconds_max": rest.seconds_max, "busy": row.status == 429}
    return said
