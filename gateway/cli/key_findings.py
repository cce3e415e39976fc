"""What `imagegate check` reports of a provider key, and the fix, by error code."""

from typing import Final

from gateway.domain.errors import ErrorCode
from gateway.providers.protocol import KeyCheck

_REFUSED: Final = ("cannot tell", "no page gives the provider's own verdict on the key: check the secret and base_url")
_USED_UP: Final = ("plan used up", "wait until the window ends, or upgrade the plan")
_BUSY: Final = ("busy", "retry in a minute")
_WRONG_HOST: Final = ("wrong host", "base_url is probably not this provider's API")
_FINDINGS: Final = {
    ErrorCode.KEY_INVALID: ("invalid key", "correct the secret, or base_url if the key belongs to another region"),
    ErrorCode.ACCOUNT_UNVERIFIED: ("not verified", "verify the account's owner at the provider"),
    ErrorCode.KEY_LIMIT_REACHED: ("limit reached", "raise the key's limit at the provider"),
    ErrorCode.IP_DENIED: ("address refused", "allow this machine's address at the provider"),
    ErrorCode.INSUFFICIENT_BALANCE: ("no balance", "top up the account at the provider"),
    ErrorCode.QUOTA_EXHAUSTED_PLAN: _USED_UP,
    ErrorCode.QUOTA_EXHAUSTED_DAILY: _USED_UP,
    ErrorCode.ACCOUNT_RATE_LIMITED: _BUSY,
    ErrorCode.BARE_UNAUTHORIZED: _REFUSED,
    ErrorCode.BARE_PAYMENT_REQUIRED: _REFUSED,
    ErrorCode.BARE_FORBIDDEN: _REFUSED,
    ErrorCode.BARE_RATE_LIMITED: _BUSY,
    ErrorCode.BARE_REFUSAL: _WRONG_HOST,
    ErrorCode.CONNECT_FAILED: ("unreachable", ""),
    ErrorCode.NOT_SENT: ("unreachable", ""),
    ErrorCode.READ_TIMEOUT: ("no response", "the host accepts the connection but does not respond; retry later"),
    ErrorCode.CONNECTION_LOST: ("no response", "the host closes the connection; check whether base_url needs https"),
    ErrorCode.UPSTREAM_UNSUPPORTED: ("wrong host", "base_url has no such endpoint"),
    ErrorCode.INVALID_RESPONSE: _WRONG_HOST,
    ErrorCode.RESPONSE_TOO_LARGE: _WRONG_HOST,
    ErrorCode.UNEXPECTED_RESPONSE: _WRONG_HOST,
}
"""Result and fix by error code."""
_EXPLAINED: Final = frozenset(
    {
        ErrorCode.CONNECT_FAILED,
        ErrorCode.NOT_SENT,
        ErrorCode.READ_TIMEOUT,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.BARE_UNAUTHORIZED,
        ErrorCode.BARE_PAYMENT_REQUIRED,
        ErrorCode.BARE_FORBIDDEN,
        ErrorCode.BARE_REFUSAL,
        ErrorCode.UPSTREAM_UNSUPPORTED,
        ErrorCode.INVALID_RESPONSE,
        ErrorCode.UNEXPECTED_RESPONSE,
    }
)
"""Errors of the way to the provider, whose details say what was requested and what responded."""


def finding_of(probe: KeyCheck) -> tuple[str, str]:
    """Returns the result and its fix, which is empty if the key works."""
    if probe.error_code is None:
        return "ok" if probe.proves_balance else "ok, balance unknown", ""
    unknown = (probe.error_code.value.replace("_", " "), f"the upstream says: {probe.detail}")
    result, remedy = _FINDINGS.get(probe.error_code, unknown)
    return result, "; ".join(filter(None, (probe.detail, remedy))) if probe.error_code in _EXPLAINED else remedy
