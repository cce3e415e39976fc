"""Reports of a call on its key, account and upstream, in the form that lua/release.lua reads."""

from typing import Any

import msgspec

from gateway.domain.accounts import cooldown_for
from gateway.domain.errors import ERROR_SPECS, CapacityHint, ErrorCode, Outcome
from tests.scheduler.provider import Call


def encode(said: dict[str, Any]) -> str:
    return msgspec.json.encode(said).decode()


def describe(call: Call, error_code: ErrorCode | None, server_s: float) -> dict[str, Any]:
    """The twin of what `KeyPool` writes."""
    said: dict[str, Any] = {
        "account": call.account,
        "key": call.key,
        "fingerprint": call.fingerprint,
        "model": call.model,
    }
    if error_code is None:
        return said | {"is_success": True, "breaker": "well", "images": call.images, "usd_micros": 3500 * call.images}
    row, rest = ERROR_SPECS[error_code], cooldown_for(error_code, server_s)
    said |= {"error_code": error_code.value, "is_unauthorized": error_code is ErrorCode.KEY_INVALID}
    if row.outcome is Outcome.NOT_SENT:
        said["is_unsent"] = True
    if row.trips_breaker or row.outcome is Outcome.REFUSED:
        said["breaker"] = "ill" if row.trips_breaker else "well"
    if row.lowers is not CapacityHint.NOTHING:
        said["lowers"] = row.lowers.value
    if rest:
        said |= {"scope": rest.scope.value, "state": rest.state.value, "seconds": rest.seconds}
        said |= {"seconds_max": rest.seconds_max, "busy": row.status == 429}
    return said
