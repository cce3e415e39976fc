"""The errors of the providers that speak OpenAI's format.

Faults are named by MiniMax's codes: 1002 busy, 1004 no key, 1008 no balance, 1026 and 1027 unsafe, 1033 overloaded,
2013 invalid, 2049 wrong key, 2056 plan used up.
"""

from collections.abc import Mapping
from typing import Final

Errors = Mapping[int, tuple[int, Mapping[str, object]]]
"""HTTP status and error object of each fault; 0 is that of all others."""


def _openai(status: int, code: str | None, kind: str = "invalid_request_error") -> tuple[int, Mapping[str, object]]:
    return status, {"error": {"message": "refused", "type": kind, "param": None, "code": code}}


def _coded(status: int, code: str) -> tuple[int, Mapping[str, object]]:
    return status, {"error": {"code": code, "message": "refused"}}


OPENAI_ERRORS: Final[Errors] = {
    0: _openai(500, None, "server_error"),
    1002: _openai(429, "rate_limit_exceeded", "requests"),
    1004: _openai(401, None),
    1008: _openai(429, "insufficient_quota", "insufficient_quota"),
    1026: _openai(400, "moderation_blocked", "image_generation_user_error"),
    1027: _openai(400, "moderation_blocked", "image_generation_user_error"),
    1033: _openai(503, "server_is_overloaded", "service_unavailable_error"),
    2013: _openai(400, "invalid_value"),
    2049: _openai(401, "invalid_api_key"),
}
AZURE_ERRORS: Final[Errors] = {
    **OPENAI_ERRORS,
    1002: _coded(429, "429"),
    1026: _coded(400, "contentFilter"),
    2049: _coded(401, "401"),
}
H3_ERRORS: Final[Errors] = {
    **{code: (400, {"base_resp": {"status_code": code, "status_msg": "refused"}}) for code in (1026, 1027)},
    **{
        code: (
            status,
            {
                "type": "error",
                "error": {"type": kind, "message": "refused", "http_code": str(status)},
                "request_id": "0123456789abcdef",
            },
        )
        for code, status, kind in (
            (0, 500, "api_error"),
            (1002, 429, "rate_limit_error"),
            (1004, 401, "authentication_error"),
            (1008, 402, "insufficient_balance_error"),
            (1033, 503, "overloaded_error"),
            (2013, 400, "invalid_request_error"),
            (2049, 401, "authentication_error"),
        )
    },
}
ARK_ERRORS: Final[Errors] = {
    0: _coded(500, "InternalServiceError"),
    1002: _coded(429, "RateLimitExceeded.EndpointRPMExceeded"),
    1004: _coded(401, "AuthenticationError"),
    1008: _coded(403, "AccountOverdueError"),
    1026: _coded(400, "InputTextSensitiveContentDetected"),
    1027: _coded(400, "OutputImageSensitiveContentDetected"),
    1033: _coded(429, "ServerOverloaded"),
    2013: _coded(400, "InvalidParameter"),
    2049: _coded(401, "AuthenticationError"),
}
ZHIPU_ERRORS: Final[Errors] = {
    0: _coded(500, "500"),
    1002: _coded(429, "1302"),
    1004: _coded(401, "1001"),
    1008: _coded(429, "1113"),
    1026: _coded(400, "1301"),
    1027: _coded(400, "1301"),
    1033: _coded(429, "1305"),
    2013: _coded(400, "1214"),
    2049: _coded(401, "1000"),
    2056: _coded(429, "1308"),
}
QIANFAN_ERRORS: Final[Errors] = {
    0: _coded(500, "internal_error"),
    1002: _coded(429, "rpm_rate_limit_exceeded"),
    1004: _coded(401, "invalid_iam_token"),
    1008: _coded(403, "account_overdue"),
    1026: _coded(400, "unsafe_content"),
    1027: _coded(400, "unsafe_content"),
    1033: _coded(503, "server_overloaded"),
    2013: _coded(400, "invalid_argument"),
    2049: _coded(401, "invalid_iam_token"),
}
RECRAFT_ERRORS: Final[Errors] = {
    code: (status, {"code": word, "message": "refused"})
    for code, status, word in (
        (0, 500, "internal_error"),
        (1002, 429, "rate_limit_exceeded"),
        (1004, 401, "unauthorized"),
        (1008, 402, "not_enough_credits"),
        (1026, 400, "inappropriate_content"),
        (1027, 400, "inappropriate_content"),
        (1033, 503, "overloaded"),
        (2013, 400, "invalid_request_parameter"),
        (2049, 401, "unauthorized"),
    )
}
AI302_ERRORS: Final[Errors] = {
    **OPENAI_ERRORS,
    **{
        code: (status, {"error": {"err_code": err_code, "message": "refused", "type": "api_error"}})
        for code, status, err_code in ((0, 500, -10003), (1004, 401, -10001), (1008, 500, -10004), (2049, 401, -10002))
    },
}
