"""The one table of faults: everything that follows from a fault is read from its row.

Retry, key state, response, metric label and log field all read `ERROR_SPECS`; nothing else in the program
decides by status or code. The providers own the dictionaries *their code -> Fault*.
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
