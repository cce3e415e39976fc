"""Error codes, and the exception that carries one between packages.

Retry, cooldown, response, metric label and log field read a code's row in `table.py`. No other code decides by status
or code. Each provider maps its own codes to `ErrorCode`.
"""

import math
from typing import Final, TypeVar

from gateway.domain.errors.spec import CapacityHint, CooldownKind, ErrorSpec, KeyState, Origin, Outcome, Retry, Scope
from gateway.domain.errors.table import ERROR_SPECS, ErrorCode
from gateway.domain.tenants import Rates

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
_E = TypeVar("_E", bound=BaseException)
_RETRY_AFTER_MAX_S: Final = 120
"""openai-python gives up at a longer wait (reference/openai-images.md 6.3)."""
_RETRY_AFTER_BOUND_S: Final = 60
"""AI SDK and openai-node before 6 ignore a wait of exactly this length, which others obey: never sent."""


class GatewayError(Exception):
    """The only exception that crosses packages.

    `detail` is for the log. It is shown to the caller only if the error's row sets `shows_detail`.
    """

    def __init__(
        self,
        error_code: ErrorCode,
        detail: str = "",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        upstream_code: int | None = None,
        cooldown_s: float | None = None,
        rates: Rates | None = None,
        note: str = "",
    ) -> None:
        super().__init__(f"{error_code.value}: {detail}" if detail else error_code.value)
        self.error_code = error_code
        self.row = error_code.spec
        self.detail = detail
        self.param = self.row.param if param is None else param
        self.retry_after_s = retry_after_s
        self.upstream_code = upstream_code  # the provider's own code, if there is one
        self.cooldown_s = cooldown_s  # documented by the provider for its code; replaces the table's
        self.rates = rates  # the status of the tenant's rate limits, if it was read
        self.note = note  # for the caller, after the message

    @property
    def message(self) -> str:
        """The message for the caller: never upstream text, keys or URLs."""
        text = self.detail if self.row.shows_detail and self.detail else self.row.message
        return f"{text} {self.note}" if self.note else text

    @property
    def retry_after(self) -> int | None:
        """The value of the header Retry-After, in whole seconds from 1 to 120; None if waiting cannot help."""
        if not self.row.sends_retry_after:
            return None
        wait_s = math.ceil(self.row.retry_after_s if self.retry_after_s is None else self.retry_after_s)
        wait_s = min(max(wait_s, 1), _RETRY_AFTER_MAX_S)
        return wait_s + 1 if wait_s == _RETRY_AFTER_BOUND_S else wait_s


def detach(error: _E) -> _E:
    """Removes the tracebacks of a stored or handled error and of its causes.

    Their frames hold the request's bytes, and often the error itself: a cycle that only the garbage collector frees.
    """
    chain: list[BaseException] = [error]
    while chain:
        part = chain.pop()
        chain += [cause for cause in (part.__cause__, part.__context__) if cause]
        part.__traceback__ = part.__cause__ = part.__context__ = None
    return error
