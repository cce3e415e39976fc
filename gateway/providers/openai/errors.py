"""Error codes of the providers that speak OpenAI's format, and the order in which they are read.

The provider's own code decides before the HTTP status: Zhipu reports an empty balance with 429, OpenAI with 400.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES
from gateway.providers.error_texts import refusal, word_error
from gateway.providers.minimax import MiniMax
from gateway.providers.replies import STATUS_ERRORS, UntrustedObject, UpstreamResponse, http_error

_PARAMS: Final = frozenset({"prompt", "size", "n", "quality", "background", "output_format", "image", "mask", "model"})
"""Fields that a client has set, so that an error may name them."""
_REJECTIONS: Final = frozenset({400, 404, 413, 422})
"""HTTP statuses with which a general word blames the request."""
_MINIMAX: Final = MiniMax()


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """How a provider's errors are read."""

    codes: Mapping[str, ErrorCode] = field(default_factory=dict)
    """Error code by `error.code`, or by its part before the first dot."""
    types: Mapping[str, ErrorCode] = field(default_factory=dict)
    """Error code by `error.type`, for errors without a known code."""
    is_relay: bool = False
    """The words may come from a server behind it: they never affect a key."""
    has_err_code: bool = False
    """It sends 302.AI's `error.err_code`, which decides first (reference/minimax.md 5.3)."""
    is_minimax: bool = False
    """It is MiniMax's host, whose errors are those of its own API (reference/minimax.md 1.5)."""


OPENAI_CODES: Final[Mapping[str, ErrorCode]] = {
    "invalid_api_key": ErrorCode.KEY_INVALID,
    "account_deactivated": ErrorCode.KEY_INVALID,  # OpenAI's error page; not in the reference
    "insufficient_quota": ErrorCode.INSUFFICIENT_BALANCE,
    "billing_hard_limit_reached": ErrorCode.INSUFFICIENT_BALANCE,
    "credit_balance_exhausted": ErrorCode.INSUFFICIENT_BALANCE,
    "organization_spend_limit_exceeded": ErrorCode.INSUFFICIENT_BALANCE,
    "project_spend_limit_exceeded": ErrorCode.INSUFFICIENT_BALANCE,
    "organization_usage_limit_exceeded": ErrorCode.INSUFFICIENT_BALANCE,
    "rate_limit_exceeded": ErrorCode.ACCOUNT_RATE_LIMITED,
    "slow_down": ErrorCode.ACCOUNT_GROWTH_LIMITED,
    "server_is_overloaded": ErrorCode.MODEL_UNAVAILABLE,
    "model_not_found": ErrorCode.KEY_MODEL_DENIED,  # also a model that the account has no access to
    "content_policy_violation": ErrorCode.CONTENT_INPUT,
    "moderation_blocked": ErrorCode.CONTENT_INPUT,
    "string_above_max_length": ErrorCode.PROMPT_TOO_LONG,
    "invalid_mask_image_format": ErrorCode.UPSTREAM_REJECTED,
    "unknown_parameter": ErrorCode.UPSTREAM_REJECTED,
    "missing_required_parameter": ErrorCode.UPSTREAM_REJECTED,
    "invalid_value": ErrorCode.UPSTREAM_REJECTED,
    "invalid_type": ErrorCode.UPSTREAM_REJECTED,
    "integer_above_max_value": ErrorCode.UPSTREAM_REJECTED,
    "integer_below_min_value": ErrorCode.UPSTREAM_REJECTED,
    "unknown_url": ErrorCode.UPSTREAM_UNSUPPORTED,
}
"""reference/openai-images.md 5.2."""

OPENAI_TYPES: Final[Mapping[str, ErrorCode]] = {
    "insufficient_quota": ErrorCode.INSUFFICIENT_BALANCE,
    "invalid_request_error": ErrorCode.UPSTREAM_REJECTED,
    "image_generation_user_error": ErrorCode.UPSTREAM_REJECTED,
    "rate_limit_error": ErrorCode.ACCOUNT_RATE_LIMITED,
    "service_unavailable_error": ErrorCode.MODEL_UNAVAILABLE,
    "server_error": ErrorCode.UPSTREAM_ERROR,
}
"""reference/openai-images.md 5.2."""

AZURE_CODES: Final[Mapping[str, ErrorCode]] = {
    # General knowledge: no page of Azure was read.
    "401": ErrorCode.KEY_INVALID,
    "429": ErrorCode.ACCOUNT_RATE_LIMITED,
    "DeploymentNotFound": ErrorCode.KEY_MODEL_DENIED,
    "contentFilter": ErrorCode.CONTENT_INPUT,
    "content_filter": ErrorCode.CONTENT_INPUT,
    **OPENAI_CODES,
}

_ARK: Final = {
    ErrorCode.UPSTREAM_REJECTED: (
        *("MissingParameter", "InvalidParameter", "InvalidArgumentError", "InvalidImageURL", "OutofContextError"),
    ),
    ErrorCode.CONTENT_INPUT: (
        *("InputTextSensitiveContentDetected", "InputImageSensitiveContentDetected", "InputTextRiskDetection"),
        *("InputImageRiskDetection", "PolicyViolation", "PrivacyInformation", "SensitiveContentDetected"),
        "ContentSecurityDetectionError",
    ),
    ErrorCode.CONTENT_OUTPUT: ("OutputImageSensitiveContentDetected", "OutputImageRiskDetection"),
    ErrorCode.KEY_INVALID: ("AuthenticationError", "InvalidAccountStatus"),
    ErrorCode.INSUFFICIENT_BALANCE: ("ServiceOverdue", "AccountOverdueError", "InsufficientBalance"),
    ErrorCode.KEY_MODEL_DENIED: (
        *("ServiceNotOpen", "ModelNotOpen", "AccessDenied", "PermissionDenied", "InvalidSubscription"),
    ),
    ErrorCode.UPSTREAM_UNSUPPORTED: ("InvalidEndpointOrModel", "UnsupportedModel", "InvalidEndpoint"),
    ErrorCode.ACCOUNT_RATE_LIMITED: (
        *("RateLimitExceeded", "AccountRateLimitExceeded", "QuotaExceeded", "SetLimitExceeded"),
    ),
    ErrorCode.ACCOUNT_GROWTH_LIMITED: ("RequestBurstTooFast",),
    ErrorCode.ACCOUNT_CONNECTION_LIMITED: ("InflightBatchsizeExceeded",),
    ErrorCode.MODEL_UNAVAILABLE: ("ServerOverloaded",),
    ErrorCode.UPSTREAM_ERROR: ("InternalServiceError",),
}
ARK_CODES: Final[Mapping[str, ErrorCode]] = {word: error_code for error_code, words in _ARK.items() for word in words}
"""reference/providers.md section 9: compiled by a third party from Volcengine's list."""

_ZHIPU: Final = {
    ErrorCode.KEY_INVALID: (1000, 1001, 1002, 1003, 1004, 1005),
    ErrorCode.ACCOUNT_UNVERIFIED: (1110, 1111, 1112, 1120, 1121),
    ErrorCode.INSUFFICIENT_BALANCE: (1113,),
    ErrorCode.UPSTREAM_ERROR: (500, 1200, 1230, 1234),
    ErrorCode.UPSTREAM_REJECTED: (1210, 1213, 1214, 1215),
    ErrorCode.PROMPT_TOO_LONG: (1261,),
    ErrorCode.UPSTREAM_UNSUPPORTED: (1211, 1212, 1221, 1222),
    ErrorCode.KEY_MODEL_DENIED: (1220, 1309, 1316, 1317, 1318, 1319, 1320, 1321),
    ErrorCode.CONTENT_INPUT: (1300, 1301),
    ErrorCode.ACCOUNT_RATE_LIMITED: (1302, 1303),
    ErrorCode.QUOTA_EXHAUSTED_DAILY: (1304,),
    ErrorCode.MODEL_UNAVAILABLE: (1305,),
    ErrorCode.QUOTA_EXHAUSTED_PLAN: (1308, 1310),
}
ZHIPU_CODES: Final[Mapping[str, ErrorCode]] = {
    str(code): error_code for error_code, codes in _ZHIPU.items() for code in codes
}
"""reference/providers.md section 12: third-party notes; the consequences are inferred."""

QIANFAN_CODES: Final[Mapping[str, ErrorCode]] = {
    "invalid_model": ErrorCode.UPSTREAM_UNSUPPORTED,  # the only word that was seen
    "invalid_iam_token": ErrorCode.KEY_INVALID,
    "rpm_rate_limit_exceeded": ErrorCode.ACCOUNT_RATE_LIMITED,
    "tpm_rate_limit_exceeded": ErrorCode.ACCOUNT_TOKEN_LIMITED,
    "insufficient_quota": ErrorCode.INSUFFICIENT_BALANCE,
    "account_overdue": ErrorCode.INSUFFICIENT_BALANCE,
    "unsafe_content": ErrorCode.CONTENT_INPUT,
}
"""reference/providers.md section 13: general knowledge but for the first."""

OPENAI: Final = ErrorTable(OPENAI_CODES, OPENAI_TYPES)
AZURE: Final = ErrorTable(AZURE_CODES, OPENAI_TYPES)
ARK: Final = ErrorTable(ARK_CODES)
ZHIPU: Final = ErrorTable(ZHIPU_CODES)
QIANFAN: Final = ErrorTable(QIANFAN_CODES)
RECRAFT: Final = ErrorTable()
"""Its codes are not known (reference/providers.md section 7): the HTTP status alone decides."""
H3: Final = ErrorTable(OPENAI_CODES, OPENAI_TYPES, is_minimax=True)
RELAY: Final = ErrorTable(OPENAI_CODES, OPENAI_TYPES, is_relay=True)
AI302: Final = ErrorTable({**CODE_WORDS, **OPENAI_CODES}, OPENAI_TYPES, is_relay=True, has_err_code=True)


def raise_error(table: ErrorTable, reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the error of a response: by its code, by its type, else by its HTTP status unless that is 2xx."""
    error, is_success = envelope.inner("error"), 200 <= reply.status < 300
    text = error.text("message") or envelope.text("message") or envelope.text("error")
    if table.has_err_code and (err_code := error.integer("err_code")):
        raise refusal(ERR_CODES.get(err_code, ErrorCode.UPSTREAM_ERROR), f"{err_code} {text}", text, reply)
    if table.is_minimax and (not is_success or envelope.inner("base_resp").integer("status_code")):
        _MINIMAX.raise_error(reply, envelope)
    if error_code := find_code(table, error if error.fields else envelope, reply.status):
        detail = f"{_word(error if error.fields else envelope, 'code') or error.text('type')}: {text}"
        if table.is_relay:
            raise word_error(error_code, detail, text, reply)
        if STATUS_ERRORS.get(reply.status) is ErrorCode.UPSTREAM_TIMEOUT:  # takes precedence over the code
            raise http_error(reply, detail)
        refused = refusal(error_code, detail, text, reply)
        if (param := error.text("param")) in _PARAMS and refused.param is None:
            refused.param = param
        raise refused
    if not is_success:
        raise http_error(reply, text)


def find_code(table: ErrorTable, error: UntrustedObject, status: int = 200) -> ErrorCode | None:
    """Returns the meaning of an error object; None if its words are unknown."""
    word, kind = _word(error, "code"), error.text("type")
    error_code = table.codes.get(word) or table.codes.get(word.partition(".")[0])
    if error_code is ErrorCode.CONTENT_INPUT and _stage(error) == "output":
        return ErrorCode.CONTENT_OUTPUT
    if error_code:
        return error_code
    general = table.types.get(kind)
    is_blame_doubtful = general is ErrorCode.UPSTREAM_REJECTED and status not in _REJECTIONS
    return None if is_blame_doubtful else general


def item_error(table: ErrorTable, error: UntrustedObject) -> GatewayError | None:
    """Returns the error of one image of a response; None if its code is unknown."""
    error_code = find_code(table, error)
    detail = f"{_word(error, 'code')}: {error.text('message')}"
    return GatewayError(error_code, detail) if error_code else None


def _word(error: UntrustedObject, name: str) -> str:
    """Returns a code, which may be a number."""
    number = error.integer(name)
    return error.text(name) or ("" if number is None else str(number))


def _stage(error: UntrustedObject) -> str:
    return error.inner("moderation_details").text("moderation_stage")
