"""What an error that takes a key, account or upstream out of rotation means for an operator, in one sentence."""

from collections.abc import Mapping
from typing import Final

from gateway.domain.errors.table import ErrorCode

_REFUSED: Final = "The provider refused a call without a reason."
FAULTS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.BARE_UNAUTHORIZED: _REFUSED,
    ErrorCode.BARE_PAYMENT_REQUIRED: _REFUSED,
    ErrorCode.BARE_FORBIDDEN: _REFUSED,
    ErrorCode.BARE_RATE_LIMITED: _REFUSED,
    ErrorCode.BARE_REFUSAL: _REFUSED,
    ErrorCode.MODEL_DENIED_IN_TEXT: "The provider says that the account may not use the model.",
    ErrorCode.KEY_INVALID: "The provider rejects the key: it is wrong, revoked or of another region.",
    ErrorCode.ACCOUNT_UNVERIFIED: "The provider has not verified the account's owner.",
    ErrorCode.KEY_MODEL_DENIED: "The provider does not let the key use this model.",
    ErrorCode.IP_DENIED: "The provider does not accept this machine's address.",
    ErrorCode.INSUFFICIENT_BALANCE: "The account has no balance at the provider.",
    ErrorCode.KEY_LIMIT_REACHED: "The key has reached its limit at the provider.",
    ErrorCode.ACCOUNT_RATE_LIMITED: "The account is at the provider's rate limit.",
    ErrorCode.ACCOUNT_TOKEN_LIMITED: "The account is at the provider's token limit.",
    ErrorCode.ACCOUNT_CONNECTION_LIMITED: "The account is at the provider's limit of concurrent calls.",
    ErrorCode.ACCOUNT_GROWTH_LIMITED: "The account's traffic grew faster than the provider allows.",
    ErrorCode.QUOTA_EXHAUSTED_PLAN: "The account's plan at the provider is used up.",
    ErrorCode.QUOTA_EXHAUSTED_DAILY: "The account's day at the provider is used up.",
    ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR: "The key's hour at the provider is used up.",
    ErrorCode.QUOTA_EXHAUSTED_KEY_DAY: "The key's day at the provider is used up.",
    ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH: "The key's month at the provider is used up.",
    ErrorCode.UPSTREAM_ERROR: "The provider failed to process a call.",
    ErrorCode.UNEXPECTED_RESPONSE: "The response is not one of this provider's API.",
    ErrorCode.MODEL_UNAVAILABLE: "The provider cannot serve the model now.",
    ErrorCode.UPSTREAM_UNSUPPORTED: "The provider does not support the operation.",
    ErrorCode.EMPTY_RESPONSE: "The provider responded without images.",
    ErrorCode.UPSTREAM_TIMEOUT: "The provider reported a timeout of its own.",
    ErrorCode.CONNECT_FAILED: "The provider cannot be reached.",
    ErrorCode.NOT_SENT: "A call could not be sent to the provider.",
    ErrorCode.READ_TIMEOUT: "The provider did not respond in time.",
    ErrorCode.TASK_UNFINISHED: "The provider did not end a task in time.",
    ErrorCode.TASK_LOST: "The provider no longer knows a task.",
    ErrorCode.CONNECTION_LOST: "The connection to the provider broke during a call.",
    ErrorCode.INVALID_RESPONSE: "The provider's response is invalid.",
    ErrorCode.RESPONSE_TOO_LARGE: "The provider's response is too large.",
    ErrorCode.DOWNLOAD_FAILED: "The provider's images could not be downloaded.",
}
"""By error code: every one with a scope."""
_BY_NAME: Final = {error_code.value: text for error_code, text in FAULTS.items()}


def fault_of(error_code: str | None) -> str | None:
    """Returns the sentence of a code; None if there is none, as for a code of another version."""
    return _BY_NAME.get(error_code or "")
