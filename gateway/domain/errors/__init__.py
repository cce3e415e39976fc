"""The error table: every consequence of an error code is read from its row.

Retry, cooldown, response, metric label and log field read `ERROR_SPECS`. No other code decides by status or code.
Each provider maps its own codes to `ErrorCode`.
"""

from gateway.domain.errors.codes import (
    CapacityHint,
    CooldownKind,
    ErrorCode,
    ErrorSpec,
    KeyState,
    Origin,
    Outcome,
    Retry,
    Scope,
)
from gateway.domain.errors.exception import GatewayError, detach
from gateway.domain.errors.table import ERROR_SPECS

__all__ = [
    "ERROR_SPECS",
    "CapacityHint",
    "CooldownKind",
    "ErrorCode",
    "ErrorSpec",
    "GatewayError",
    "KeyState",
    "Origin",
    "Outcome",
    "Retry",
    "Scope",
    "detach",
]
