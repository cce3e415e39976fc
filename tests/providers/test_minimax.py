"""MiniMax's wire: the call's body, every documented code, and every shape of an answer."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.accounts import make_secret
from gateway.domain.errors import CooldownKind, ErrorCode, GatewayError, KeyState, Outcome, Retry, Scope
from gateway.domain.images import (
    Base64Image,
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ImageUrl,
    InputImage,
    Operation,
    ResponseFormat,
    Role,
    Size,
    SizePlan,
)
from gateway.domain.sizes import AspectRatios
from gateway.providers import PROVIDERS
from gateway.providers.minimax import CHARACTER_EDIT, CODES, NEWER_TYPES, OUTPUT, PIXELS, PRESETS, MiniMax
from gateway.providers.replies import UpstreamResponse
from tests.support.errors import attempt

MINIMAX = MiniMax()
URL = "https://cdn.hailuoai.com/a%2Fb_aigc.jpeg?Signature=x%2B"
JPEG = "/9j/4AAQSkZJRg=="
OK = {"status_code": 0, "status_msg": "success"}


@dataclass(frozen=True)
class Meaning:
    """One line of the table in reference/minimax.md section 3."""

    status: int
    type: str
    code: str
    outcome: Outcome
    retry: Retry
    state: KeyState = KeyState.READY
    param: str | None = None


def caller(code: str, param: str | None = "prompt") -> Meaning:
    return Meaning(400, "invalid_request_error", code, Outcome.REFUSED, Retry.NEVER, param=param)


COOL = Meaning(429, "rate_limit_error", "rate_limit_exceeded", Outcome.REFUSED, Retry.FREELY, KeyState.COOLING)
DENIED = Meaning(503, "server_error", "upstream_unavailable", Outcome.REFUSED, Retry.FREELY)
"""Another account's plan may take the model; no code says so, and nothing rests."""
WINDOW = Meaning(503, "server_error", "upstream_unavailable", Outcome.REFUSED, Retry.FREELY, KeyState.COOLING)
DEAD = Meaning(503, "server_error", "upstream_unavailable", Outcome.REFUSED, Retry.FREELY, KeyState.QUARANTINED)
UPSTREAM = Meaning(502, "server_error", "upstream_error", Outcome.REFUSED, Retry.ONCE)
AMBIGUOUS = Meaning(504, "server_error", "upstream_timeout", Outcome.UNKNOWN, Retry.NEVER)
NOT_FOR_IMAGES = Meaning(502, "server_error", "upstream_error", Outcome.REFUSED, Retry.NEVER)

DOCUMENTED: dict[int, Meaning] = {
    1000: UPSTREAM,
    1001: AMBIGUOUS,
    1002: COOL,
    1004: DEAD,
    1008: DEAD,
    1013: UPSTREAM,
    1024: UPSTREAM,
    1026: caller("content_policy_violation"),
    1027: caller("content_policy_violation"),
    1028: WINDOW,
    1030: WINDOW,
    1033: UPSTREAM,
    1039: COOL,
    1041: COOL,
    1042: caller("invalid_prompt"),
    1043: NOT_FOR_IMAGES,
    1044: NOT_FOR_IMAGES,
    2013: caller("invalid_value", None),
    20132: NOT_FOR_IMAGES,
    2037: NOT_FOR_IMAGES,
    2038: DEAD,
    2039: NOT_FOR_IMAGES,
    2042: NOT_FOR_IMAGES,
    2045: COOL,
    2046: COOL,
    2047: COOL,
    2048: NOT_FOR_IMAGES,
    2049: DEAD,
    2054: NOT_FOR_IMAGES,
    2056: WINDOW,
    2061: DEAD,
    2067: WINDOW,
    1400010161: DEAD,
}


def read(
    answer: object, *, status: int = 200, delivery: ResponseFormat = ResponseFormat.URL, wait: float | None = None
) -> ImageReply:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return MINIMAX.read_reply(UpstreamResponse(status, body, wait), delivery)


def error_of(answer: object, *, status: int = 200, wait: float | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as failed:
        read(answer, status=status, wait=wait)
    return failed.value


def refused(code: object, text: str = "") -> dict[str, object]:
    return {"base_resp": {"status_code": code, "status_msg": text}}


def meaning_of(error: GatewayError) -> Meaning:
    row = error.row
    return Meaning(row.status, row.type, row.code or "", row.outcome, row.retry, row.state, error.param)


def test_a_used_up_plan_carries_a_cooldown_of_five_hours_and_no_other_code_does() -> None:
    found = {code: error_of(refused(code)).cooldown_s for code in CODES}
    assert {2056: 18_000, 2067: 18_000} == {code: seconds for code, seconds in found.items() if seconds is not None}


def test_every_documented_code_is_mapped_and_no_other() -> None:
    assert set(DOCUMENTED) == set(CODES)


@pytest.mark.parametrize("code", DOCUMENTED)
@pytest.mark.parametrize("spelling", [int, str])
def test_code_means_what_the_reference_says(code: int, spelling: type[int] | type[str]) -> None:
    error = error_of(refused(spelling(code), "some text"))
    assert DOCUMENTED[code] == meaning_of(error)
    assert (error.upstream_code, error.detail) == (code, f"{code} some text")


@pytest.mark.parametrize("code", [1, 7, 1005, 2014, 99999, -1, -10001, 10**12, 10**30])
def test_unknown_code_is_the_upstreams_and_retires_no_key(code: int) -> None:
    error = error_of(refused(code))
    assert UPSTREAM == meaning_of(error)
    assert CooldownKind.NONE is error.row.pause


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("invalid params", caller("invalid_value", None)),
        ("invalid params, aspect_ratio is not supported", caller("invalid_value", "aspect_ratio")),
        ("invalid params, n: Expected `int` <= 9", caller("invalid_value", "n")),
        ("invalid params, prompt_optimizer", caller("invalid_value", None)),
        ("invalid params, width and height must come together", caller("invalid_value", "width")),
        ("invalid params, prompt length must be less than 1500", caller("string_above_max_length")),
        ("invalid params, your current Token Plan does not support model", DENIED),
        ("Credit does not support this model", DENIED),
        ("your current token plan not support model (2061)", DENIED),
        ("blocked by moderation", caller("content_policy_violation")),
        (
            "invalid params, subject_reference: cannot fetch https://x.org/credit.jpg",
            caller("invalid_value", "subject_reference"),
        ),
        ("invalid params, aspect_ratio is case-sensitive", caller("invalid_value", "aspect_ratio")),
    ],
)
def test_2013_is_told_apart_by_its_text(text: str, expected: Meaning) -> None:
    assert expected == meaning_of(error_of(refused(2013, text)))


@pytest.mark.parametrize("code", [1002, 1039, 1041, 2045, 2046, 2047])
def test_busy_accounts_are_left_for_another_account(code: int) -> None:
    assert Scope.ACCOUNT is error_of(refused(code)).row.scope


@pytest.mark.parametrize(("code", "scope"), [(2061, Scope.MODEL), (1004, Scope.KEY), (2049, Scope.KEY)])
def test_dead_keys_are_taken_out_no_further_than_needed(code: int, scope: Scope) -> None:
    assert scope is error_of(refused(code)).row.scope


def test_rate_limit_body_of_74_bytes_is_understood_with_its_pause() -> None:
    body = b'{"base_resp":{"status_code":1002,"status_msg":"rate limit exceeded(RPM)"}}'
    assert len(body) == 74
    assert error_of(body, wait=7.0).retry_after_s == 7.0


@pytest.mark.parametrize("base_resp", [OK, {"status_code": "0"}, {"status_code": " 0 "}, {}, None, "junk", []])
@pytest.mark.parametrize(
    "metadata", [{"success_count": "3"}, {"success_count": 1}, {"success_count": "x"}, None, [], 7]
)
def test_images_count_whatever_the_counters_say(base_resp: object, metadata: object) -> None:
    """The seed's example claims three images and holds one (reference/minimax.md 2.3)."""
    answer = {"id": "0f", "data": {"image_urls": [URL]}, "metadata": metadata, "base_resp": base_resp}
    assert ImageReply((ImageUrl(URL),), "0f") == read(answer)


@pytest.mark.parametrize("identity", [{}, {"id": None}, {"id": 7}, {"id": {}}])
def test_id_may_be_missing(identity: dict[str, object]) -> None:
    assert read(identity | {"data": {"image_urls": [URL]}, "base_resp": OK}).id == ""


@pytest.mark.parametrize(
    ("data", "delivery", "expected"),
    [
        ({"image_urls": [URL], "image_base64": [JPEG]}, ResponseFormat.URL, (ImageUrl(URL),)),
        (
            {"image_urls": [URL], "image_base64": [JPEG]},
            ResponseFormat.BASE64,
            (Base64Image(memoryview(JPEG.encode())),),
        ),
        ({"image_urls": [], "image_base64": [JPEG]}, ResponseFormat.URL, (Base64Image(memoryview(JPEG.encode())),)),
        ({"image_urls": [URL], "image_base64": None}, ResponseFormat.BASE64, (ImageUrl(URL),)),
        ({"image_urls": [None, "", " ", 7, {}, URL, "nolink", "ftp://x"]}, ResponseFormat.URL, (ImageUrl(URL),)),
        (
            {"image_base64": [None, "", 7, "!", JPEG, {"a": 1}]},
            ResponseFormat.BASE64,
            (Base64Image(memoryview(JPEG.encode())),),
        ),
    ],
)
def test_list_that_was_asked_for_is_taken_else_the_other(
    data: object, delivery: ResponseFormat, expected: object
) -> None:
    assert expected == read({"data": data, "base_resp": OK}, delivery=delivery).pictures


@pytest.mark.parametrize("error", [None, {}, "", []])
def test_empty_error_beside_a_success_is_no_failure(error: object) -> None:
    """`null` is absent: these images were made and billed, and must not be bought again."""
    answer = {"error": error, "data": {"image_urls": [URL]}, "base_resp": OK}
    assert (ImageUrl(URL),) == read(answer).pictures


def test_empty_error_beside_a_code_does_not_hide_it() -> None:
    assert ErrorCode.KEY_INVALID is error_of({"error": None, **refused(1004)}).error_code


@pytest.mark.parametrize(
    "data",
    [None, {}, [], {"image_urls": None}, {"image_urls": []}, {"image_urls": [""]}, {"image_base64": [None]}],
)
@pytest.mark.parametrize("metadata", [None, {}, {"success_count": "0", "failed_count": "0"}, {"success_count": "x"}])
def test_success_without_images_is_an_empty_answer_tried_once_more(data: object, metadata: object) -> None:
    error = error_of({"data": data, "metadata": metadata, "base_resp": OK})
    assert ErrorCode.EMPTY_RESPONSE is error.error_code
    assert UPSTREAM == meaning_of(error)


@pytest.mark.parametrize(
    ("data", "success"),
    [
        ({"image_urls": []}, "1"),
        ({"image_urls": ["//cdn.example.org/a.jpg"]}, "0"),
        ({"image_base64": ["AAAAHGZ0eXBhdmlm"]}, "0"),
        ({"images": ["x"]}, None),
        (["https://cdn.example.org/a.jpg"], None),
        ("x", None),
    ],
)
def test_images_that_are_not_understood_may_have_been_paid_and_are_not_bought_again(data: object, success: str) -> None:
    error = error_of({"data": data, "metadata": {"success_count": success}, "base_resp": OK})
    assert ErrorCode.INVALID_RESPONSE is error.error_code


@pytest.mark.parametrize("success", ["0", 0, " 0"])
@pytest.mark.parametrize("failed", ["2", 2])
@pytest.mark.parametrize("base_resp", [OK, None])
def test_all_withheld_is_a_content_refusal(success: object, failed: object, base_resp: object) -> None:
    metadata = {"success_count": success, "failed_count": failed}
    error = error_of({"data": {"image_urls": []}, "metadata": metadata, "base_resp": base_resp})
    assert caller("content_policy_violation") == meaning_of(error)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"data": {"image_urls": [URL]}} | refused(1002), 200),
        ({"data": {"image_urls": ["//cdn.example.org/a.jpg"]}} | refused(1004), 200),
        ({"data": [{"url": URL}]} | refused(1000), 200),
        ({"data": {"image_base64": [JPEG]}, "base_resp": OK}, 403),
        ({"data": {"image_base64": [JPEG]}, "base_resp": OK, "error": {"type": "rate_limit_error"}}, 200),
        (
            {"data": {"image_urls": ["//cdn.example.org/a.jpg"]}, "metadata": {"success_count": 0, "failed_count": 1}},
            200,
        ),
        ({"image_urls": [URL], "base_resp": OK}, 200),
        (b'{"data":{"image_urls":["%b"]},"data":null}' % URL.encode(), 403),
        (b'{"data":{"image_urls":["https://x.org/\xff"]},"base_resp":{"status_code":1002}}', 200),
    ],
)
def test_images_beside_a_refusal_may_have_been_billed_and_blame_no_key(answer: object, status: int) -> None:
    assert ErrorCode.INVALID_RESPONSE is error_of(answer, status=status).error_code


@pytest.mark.parametrize(
    "data", ["limit", "", 7, {"image_urls": [None, " "]}, {"error": "limit"}, {"status": "failed"}]
)
def test_a_refusal_whose_data_has_words_is_free(data: object) -> None:
    assert ErrorCode.ACCOUNT_RATE_LIMITED is error_of({"data": data} | refused(1002)).error_code


def test_a_refusal_whose_data_is_not_utf8_is_free() -> None:
    body = b'{"data":{"error":"\xb4\xed"},"base_resp":{"status_code":1002}}'
    assert ErrorCode.ACCOUNT_RATE_LIMITED is error_of(body).error_code


def test_answer_that_says_nothing_may_have_cost_money() -> None:
    assert Outcome.UNKNOWN is error_of({}).row.outcome
    assert Outcome.UNKNOWN is error_of(refused("junk")).row.outcome


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"404 page not found",
        b"<?xml version='1.0'?><Error/>",
        b"null",
        b"[]",
        b'"x"',
        b'{"data"',
        b"\xff\xfe",
        b"\x1f\x8b\x08\x00",
        b"[" * 300_000,
        b'{"data":' + b"[" * 300_000 + b"]" * 300_000 + b"}",
    ],
)
def test_200_that_is_no_json_object_may_have_cost_money(body: bytes) -> None:
    error = error_of(body)
    assert (ErrorCode.INVALID_RESPONSE, 502) == (error.error_code, error.row.status)
    assert len(error.detail) < 300


@pytest.mark.parametrize(
    ("status", "error_code"),
    [
        (301, ErrorCode.BARE_REFUSAL),
        (401, ErrorCode.BARE_UNAUTHORIZED),
        (402, ErrorCode.BARE_PAYMENT_REQUIRED),
        (403, ErrorCode.BARE_FORBIDDEN),
        (404, ErrorCode.UPSTREAM_UNSUPPORTED),
        (408, ErrorCode.UPSTREAM_TIMEOUT),
        (413, ErrorCode.UPSTREAM_BODY_TOO_LARGE),
        (406, ErrorCode.BARE_REFUSAL),
        (429, ErrorCode.BARE_RATE_LIMITED),
        (451, ErrorCode.BARE_REFUSAL),
        (504, ErrorCode.UPSTREAM_TIMEOUT),
    ],
)
@pytest.mark.parametrize("answer", [b"<html></html>", {}, {"base_resp": OK}])
def test_http_status_speaks_where_no_code_does(status: int, error_code: ErrorCode, answer: object) -> None:
    assert error_code is error_of(answer, status=status).error_code


@pytest.mark.parametrize("status", [400, 422])
def test_only_a_web_page_says_nothing_of_the_parameters(status: int) -> None:
    assert ErrorCode.BARE_REFUSAL is error_of(b"<html></html>", status=status).error_code
    for answer in ({}, {"base_resp": OK}, b"<?xml version='1.0'?><Error/>"):
        assert ErrorCode.UPSTREAM_REJECTED is error_of(answer, status=status).error_code


def newer(kind: str, status: int = 0, message: str = "m") -> dict[str, Any]:
    """The whole error of the newer surfaces."""
    error = {"type": kind, "message": message, "http_code": str(status)}
    return {"type": "error", "error": error, "request_id": "r"}


FOREIGN: dict[str, object] = {
    "Anthropic's form": {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "r"},
    "a status in an error": {"error": {"type": "server_error", "http_code": "500"}},
    "nothing": b"",
    "nginx": b"<html><body>502 Bad Gateway</body></html>",
    "text": b"upstream connect error or disconnect/reset before headers",
    "an empty object": {},
    "no object": b"[]",
    "Kong": {"message": "An invalid response was received from the upstream server", "request_id": "r"},
    "Envoy": {"code": 503, "message": "no healthy upstream"},
    "AWS": {"message": None, "Message": "Service Unavailable"},
    "Spring": {"timestamp": "t", "status": 502, "error": "Bad Gateway", "path": "/v1/image_generation"},
    "an OpenAI-like proxy": {"error": {"message": "Bad gateway", "type": "server_error", "code": "502"}},
    "another one": {"error": {"message": "Internal error", "type": "api_error"}},
    "a code in its text": {"error": {"message": "failed (1000)"}},
    "a problem document": {"type": "about:blank", "title": "Bad Gateway", "status": 502, "error_code": 502},
    "a success": {"base_resp": OK, "data": {"image_urls": [URL]}},
    "no code": {"base_resp": {"status_msg": "system error"}},
    "a code that is none": {"base_resp": {"status_code": "bad gateway"}},
}
"""Bodies that a proxy sends, also after the provider has made the images."""


@pytest.mark.parametrize("body", FOREIGN)
def test_a_5xx_that_is_not_the_provider_s_own_error_may_have_cost_money(body: str) -> None:
    for status in (500, 501, 502, 503, 504, 507, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 599):
        row = error_of(FOREIGN[body], status=status).row
        found = (status, row.outcome, row.retry, row.may_client_retry, row.trips_breaker)
        assert (status, Outcome.UNKNOWN, Retry.NEVER, False, True) == found


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize(
    "own",
    [
        refused(1000),
        refused("1024", "internal error"),
        refused(987654),
        newer("api_error"),
        newer("strange"),
        newer(""),
    ],
)
def test_a_5xx_with_the_provider_s_own_error_is_refused_and_tried_once_more(status: int, own: object) -> None:
    if isinstance(own, dict) and "error" in own:
        own = own | {"error": own["error"] | {"http_code": str(status)}}
    assert UPSTREAM == meaning_of(error_of(own, status=status))


CLOUDFLARE = [{"server": "cloudflare"}, {"server": "Cloudflare"}, {"cf-ray": "8f0c1d2e3a4b5c6d-FRA", "server": "nginx"}]


def error_from(headers: dict[str, str], status: int, answer: object) -> GatewayError:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    with pytest.raises(GatewayError) as failed:
        MINIMAX.read_reply(UpstreamResponse(status, body, None, headers), ResponseFormat.URL)
    return failed.value


@pytest.mark.parametrize(
    "body", [name for name in FOREIGN if name not in {"a success", "an OpenAI-like proxy", "a status in an error"}]
)
def test_what_cloudflare_could_not_send_on_was_not_sent(body: str) -> None:
    for headers, status in product(CLOUDFLARE, (521, 522, 523, 525, 526)):
        assert (headers, status, ErrorCode.CONNECT_FAILED) == (
            headers,
            status,
            error_from(headers, status, FOREIGN[body]).error_code,
        )


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 524, 527, 530])
@pytest.mark.parametrize("headers", CLOUDFLARE)
def test_what_cloudflare_sent_on_may_have_cost_money(headers: dict[str, str], status: int) -> None:
    assert Outcome.UNKNOWN is error_from(headers, status, b"<html></html>").row.outcome


@pytest.mark.parametrize("headers", [{}, {"server": "nginx"}, {"server": "cloudflare-nginx"}, {"via": "cloudflare"}])
def test_cloudflare_s_statuses_of_another_server_may_have_cost_money(headers: dict[str, str]) -> None:
    assert Outcome.UNKNOWN is error_from(headers, 521, b"<html></html>").row.outcome


def test_cloudflare_s_status_inside_an_answer_is_not_cloudflare_s() -> None:
    own = {"type": "error", "error": {"type": "strange", "http_code": "521"}}
    assert Outcome.UNKNOWN is error_from({"server": "cloudflare"}, 521, own).row.outcome


def test_the_provider_s_own_code_outranks_cloudflare_s_status() -> None:
    assert ErrorCode.CONTENT_INPUT is error_from({"server": "cloudflare"}, 521, refused(1026)).error_code


@pytest.mark.parametrize("status", [400, 401, 429, 500, 504])
def test_code_outranks_the_http_status(status: int) -> None:
    assert ErrorCode.CONTENT_INPUT is error_of(refused(1026), status=status).error_code


@pytest.mark.parametrize(
    ("kind", "status", "error_code"),
    [
        ("authentication_error", 401, ErrorCode.KEY_INVALID),
        ("authorized_error", 401, ErrorCode.KEY_INVALID),
        ("permission_error", 403, ErrorCode.KEY_INVALID),
        ("invalid_request_error", 400, ErrorCode.UPSTREAM_REJECTED),
        ("bad_request_error", 400, ErrorCode.UPSTREAM_REJECTED),
        ("rate_limit_error", 429, ErrorCode.ACCOUNT_RATE_LIMITED),
        ("insufficient_balance_error", 402, ErrorCode.INSUFFICIENT_BALANCE),
        ("overloaded_error", 529, ErrorCode.UPSTREAM_ERROR),
        ("api_error", 500, ErrorCode.UPSTREAM_ERROR),
        ("server_error", 500, ErrorCode.UPSTREAM_ERROR),
        ("authentication_error", 408, ErrorCode.UPSTREAM_TIMEOUT),
        ("x", 401, ErrorCode.BARE_UNAUTHORIZED),
    ],
)
def test_newer_surfaces_errors_are_read(kind: str, status: int, error_code: ErrorCode) -> None:
    assert error_code is error_of(newer(kind, status), status=status).error_code


@pytest.mark.parametrize(
    ("message", "error_code"),
    [
        ("input new_sensitive (1026)", ErrorCode.CONTENT_INPUT),
        ("a reference (1026)", ErrorCode.UPSTREAM_REJECTED),
    ],
)
def test_the_text_of_a_newer_error_says_which_refusal_it_is(message: str, error_code: ErrorCode) -> None:
    for error in (
        newer("bad_request_error", 400, message),
        {"error": {"type": "bad_request_error", "message": message}},
    ):
        assert error_code is error_of(error, status=400).error_code


@pytest.mark.parametrize("changed", ["type", "request_id", "http_code", "another http_code", "http_code, no text"])
@pytest.mark.parametrize("kind", NEWER_TYPES)
def test_parts_of_a_newer_error_blame_nothing(kind: str, changed: str) -> None:
    """Other gateways send such parts."""
    for status in (200, 301, 400, 401, 402, 403, 404, 409, 422, 429):
        error = error_of(_without_part(kind, status, changed), status=status)
        assert (status, CooldownKind.NONE, KeyState.READY) == (status, error.row.pause, error.row.state)


def _without_part(kind: str, status: int, changed: str) -> dict[str, Any]:
    answer = newer(kind, status)
    match changed:
        case "type" | "request_id":
            del answer[changed]
        case "http_code":
            del answer["error"]["http_code"]
        case "another http_code":
            answer["error"]["http_code"] = "403" if status != 403 else "401"
        case _:
            answer["error"]["http_code"] = status
    return answer


@pytest.mark.parametrize(
    ("error", "status", "error_code"),
    [
        ({"type": "authorized_error"}, 200, ErrorCode.BARE_UNAUTHORIZED),
        ({"type": "permission_error"}, 403, ErrorCode.BARE_FORBIDDEN),
        ({"type": "authentication_error", "http_code": "403"}, 200, ErrorCode.BARE_FORBIDDEN),
        ({"type": "authentication_error"}, 400, ErrorCode.BARE_UNAUTHORIZED),
        ({"type": "rate_limit_error", "message": "usage limit exceeded (2056)"}, 429, ErrorCode.BARE_RATE_LIMITED),
        ({"type": "insufficient_balance_error"}, 200, ErrorCode.BARE_PAYMENT_REQUIRED),
        ({"type": "server_error"}, 200, ErrorCode.UPSTREAM_ERROR),
        ({"type": "overloaded_error"}, 529, ErrorCode.INVALID_RESPONSE),
        ({"type": "x", "message": "insufficient balance (1008)"}, 200, ErrorCode.UPSTREAM_ERROR),
        ({"type": "x", "http_code": "401"}, 200, ErrorCode.BARE_UNAUTHORIZED),
        ({"type": "x", "http_code": 408}, 200, ErrorCode.UPSTREAM_TIMEOUT),
        ({"message": "no type"}, 429, ErrorCode.BARE_RATE_LIMITED),
        ({"type": "x"}, 200, ErrorCode.UPSTREAM_ERROR),
        ("plain text", 403, ErrorCode.BARE_FORBIDDEN),
        ("usage limit exceeded (2056)", 429, ErrorCode.BARE_RATE_LIMITED),
    ],
)
def test_words_of_any_gateway_mean_a_bare_fault(error: object, status: int, error_code: ErrorCode) -> None:
    assert error_code is error_of({"type": "error", "error": error, "request_id": "r"}, status=status).error_code


REPEATED = [
    b'{"base_resp":{"status_code":1000,"status_msg":"","status_code":1008}}',
    b'{"base_resp":{"status_code":1000},"base_resp":{"status_code":1008}}',
    b'{"base_resp":{"status_code":1000,"status\\u005fcode":1008}}',
    b'{"base_resp":{"status_code":1008},"id":"","id":""}',
]


@pytest.mark.parametrize("body", REPEATED)
@pytest.mark.parametrize(("status", "error_code"), [(200, ErrorCode.INVALID_RESPONSE), (403, ErrorCode.BARE_FORBIDDEN)])
def test_a_code_beside_a_member_that_occurs_twice_is_not_believed(
    body: bytes, status: int, error_code: ErrorCode
) -> None:
    """What an upstream repeats of a request without escaping it may hold a member."""
    assert error_code is error_of(body, status=status).error_code


def test_a_code_beside_megabytes_is_not_believed() -> None:
    body = msgspec.json.encode({"id": "x" * 1_000_000, **refused(1008)})
    assert ErrorCode.INVALID_RESPONSE is error_of(body).error_code


def test_newer_error_outranks_base_resp() -> None:
    own = newer("authentication_error", 401)
    assert ErrorCode.KEY_INVALID is error_of(own | refused(1026), status=401).error_code
    assert ErrorCode.CONTENT_INPUT is error_of({"error": own["error"]} | refused(1026), status=401).error_code


@given(st.binary(), st.sampled_from([200, 302, 400, 404, 429, 500]), st.sampled_from(ResponseFormat))
def test_any_bytes_are_pictures_or_a_fault(body: bytes, status: int, delivery: ResponseFormat) -> None:
    outcome = attempt(lambda: read(body, status=status, delivery=delivery))
    assert outcome.pictures if isinstance(outcome, ImageReply) else isinstance(outcome, GatewayError)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([URL, JPEG, "0", "1002", 1026, 2013]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["status_code", "status_msg", "image_urls", "image_base64", "success_count", "failed_count", "type"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["id", "data", "metadata", "base_resp", "error", "type", "code"]), VALUES),
    st.sampled_from([200, 400, 503]),
    st.sampled_from(ResponseFormat),
)
def test_any_json_is_pictures_or_a_fault(answer: dict[str, object], status: int, delivery: ResponseFormat) -> None:
    outcome = attempt(lambda: read(answer, status=status, delivery=delivery))
    assert outcome.pictures if isinstance(outcome, ImageReply) else isinstance(outcome, GatewayError)


SQUARE = SizePlan(Size(1024, 1024))


def built(
    job: ImageJob, count: int = 1, shape: SizePlan | None = None, delivery: ResponseFormat = ResponseFormat.URL
) -> object:
    plan = CallPlan("image-01", count, shape or SQUARE, delivery)
    request = MINIMAX.build_call(job, plan, make_secret("s-1"))
    assert ("POST", "/v1/image_generation") == (request.method, request.path)
    assert ("authorization", "Bearer s-1") in request.headers
    return msgspec.json.decode(b"".join(request.body))


BARE = {"model": "image-01", "prompt": "a fox", "response_format": "url"}


@pytest.mark.parametrize(
    ("job", "count", "shape", "delivery", "expected"),
    [
        (ImageJob("a fox"), 1, SizePlan(Size(1, 1)), ResponseFormat.URL, BARE),
        (
            ImageJob("a fox"),
            9,
            SizePlan(Size(1, 1)),
            ResponseFormat.BASE64,
            BARE | {"n": 9, "response_format": "base64"},
        ),
        (
            ImageJob("a fox"),
            1,
            SizePlan(Size(1, 1), aspect_ratio="16:9"),
            ResponseFormat.URL,
            BARE | {"aspect_ratio": "16:9"},
        ),
        (
            ImageJob("a fox"),
            1,
            SizePlan(Size(1792, 1024), pixels=Size(1792, 1024)),
            ResponseFormat.URL,
            BARE | {"width": 1792, "height": 1024},
        ),
    ],
)
def test_call_is_the_documented_body_and_nothing_else(
    job: ImageJob, count: int, shape: SizePlan, delivery: ResponseFormat, expected: object
) -> None:
    assert expected == built(job, count, shape, delivery)


def test_optional_fields_are_sent_as_they_came_even_when_false() -> None:
    options = {f"minimax.{name}": b"false" for name in ("prompt_optimizer", "aigc_watermark")}
    options["minimax.style"] = b'{"style_type": "\xe6\xbc\xab\xe7\x94\xbb"}'
    inputs = (InputImage(Role.CHARACTER, b'"https://x"'), InputImage(Role.CHARACTER, b'"https://y"'))
    expected = BARE | {
        "seed": 0,
        "prompt_optimizer": False,
        "aigc_watermark": False,
        "style": {"style_type": "漫画"},
        "subject_reference": [
            {"type": "character", "image_file": "https://x"},
            {"type": "character", "image_file": "https://y"},
        ],
    }
    assert expected == built(ImageJob("a fox", seed=0, inputs=inputs, options=options))


def test_an_input_of_megabytes_is_sent_and_not_copied() -> None:
    link = b'"data:image/png;base64,' + b"A" * 2**20 + b'"'
    job, plan = (
        ImageJob("a fox", inputs=(InputImage(Role.CHARACTER, link),)),
        CallPlan("m", 1, SQUARE, ResponseFormat.URL),
    )
    request = MINIMAX.build_call(job, plan, make_secret("s-1"))
    assert any(piece is link for piece in request.body)


def test_an_edit_is_made_from_the_image_as_a_character_reference() -> None:
    edit = ImageJob("a fox", operation=Operation.EDIT, inputs=(InputImage(Role.IMAGE, b'"https://x"', Format.PNG, 9),))
    assert BARE | {"subject_reference": [{"type": "character", "image_file": "https://x"}]} == built(edit)


@pytest.mark.parametrize("provider", ["302ai", "minimax"])
def test_a_provider_edits_exactly_if_it_takes_references(provider: str) -> None:
    for flag in (True, False):
        rule = PROVIDERS[provider].capability("image-01", {"subject_reference": flag}).edits
        assert rule == (CHARACTER_EDIT if flag else None)
    assert [CHARACTER_EDIT, None] == [PROVIDERS[name].capability("x", {}).edits for name in ("minimax", "302ai")]


@pytest.mark.parametrize("prompt", ['"quotes" \\ and\nlines', "狐狸 🦊", "\u0000\u2028", "e\u0301" * 700])
def test_prompt_arrives_unchanged(prompt: str) -> None:
    assert BARE | {"prompt": prompt} == built(ImageJob(prompt))


def test_capabilities_are_the_documented_ones() -> None:
    plain, live = MINIMAX.capability("image-01", {}), MINIMAX.capability("image-01-live", {})
    common = OUTPUT | frozenset({"seed", "minimax.prompt_optimizer", "minimax.aigc_watermark", "input.character"})
    without = {ratio: size for ratio, size in PRESETS.items() if ratio != "21:9"}
    assert (9, 1499, (AspectRatios(PRESETS), PIXELS), True) == (
        plain.max_images_per_call,
        plain.prompt_max_chars,
        plain.sizes,
        plain.supports_base64,
    )
    assert (common, common | {"minimax.style"}) == (plain.fields, live.fields)
    assert (AspectRatios(without),) == live.sizes


def test_the_operator_overrides_what_is_known() -> None:
    declared = {"max_images_per_call": 2, "exact_sizes": False, "base64_response": False, "seed": False, "style": True}
    can = MINIMAX.capability("image-01", declared)
    assert (2, (AspectRatios(PRESETS),), False) == (can.max_images_per_call, can.sizes, can.supports_base64)
    assert {"seed", "minimax.style"} & can.fields == {"minimax.style"}
