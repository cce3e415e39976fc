"""302.AI's wire: the five fields, its own errors, and MiniMax's behind them."""

from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.accounts import make_secret
from gateway.domain.errors import CooldownKind, ErrorCode, GatewayError, KeyState, Outcome, Retry, Scope
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ImageUrl, ResponseFormat, Size, SizePlan
from gateway.domain.sizes import AspectRatios
from gateway.providers import PROVIDERS
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES, Ai302
from gateway.providers.minimax import OUTPUT, PRESETS, MiniMax
from gateway.providers.replies import UpstreamResponse
from tests.support.errors import attempt

AI302 = Ai302()
URL = "https://file.302ai.cn/gpt/imgs/0f.jpg"
SQUARE = SizePlan(Size(1024, 1024))


def built(
    job: ImageJob, count: int = 1, shape: SizePlan = SQUARE, delivery: ResponseFormat = ResponseFormat.URL
) -> dict[str, object]:
    """The body of a call."""
    request = AI302.build_call(job, CallPlan("minimaxi-image-01", count, shape, delivery), make_secret("s-1"))
    assert ("POST", "/minimaxi/v1/image_generation") == (request.method, request.path)
    assert ("authorization", "Bearer s-1") in request.headers
    body: dict[str, object] = msgspec.json.decode(b"".join(request.body))
    return body


DEAD = (503, Outcome.REFUSED, Retry.FREELY, KeyState.QUARANTINED)
WINDOW = (503, Outcome.REFUSED, Retry.FREELY, KeyState.COOLING)
COOL = (429, Outcome.REFUSED, Retry.FREELY, KeyState.COOLING)
CALLER = (400, Outcome.REFUSED, Retry.NEVER, KeyState.READY)
UPSTREAM = (502, Outcome.REFUSED, Retry.ONCE, KeyState.READY)
CONFIG = (502, Outcome.REFUSED, Retry.FREELY, KeyState.READY)
AMBIGUOUS = (504, Outcome.UNKNOWN, Retry.NEVER, KeyState.READY)

DOCUMENTED = {
    -10001: DEAD,
    -10002: DEAD,
    -10003: UPSTREAM,
    -10004: DEAD,
    -10005: DEAD,
    -10006: DEAD,
    -10007: WINDOW,
    -10008: WINDOW,
    -10009: CONFIG,
    -10010: CONFIG,
    -10011: CALLER,
    -10012: WINDOW,
    -10013: DEAD,
    -10014: DEAD,
    -10015: CALLER,
    -10016: CALLER,
    -10017: CALLER,
    -10018: WINDOW,
    -1024: AMBIGUOUS,
    -99: UPSTREAM,
    -100: UPSTREAM,
    -101: UPSTREAM,
}
"""reference/minimax.md 5.3: HTTP status to the caller, what is known of the money, what may be retried, the key."""

WORDS = {
    "InvalidParameter": ErrorCode.UPSTREAM_REJECTED,
    "MissingParameter": ErrorCode.UPSTREAM_REJECTED,
    "Unauthorized": ErrorCode.BARE_UNAUTHORIZED,
    "RateLimitExceeded": ErrorCode.BARE_RATE_LIMITED,
    "InsufficientBalance": ErrorCode.BARE_PAYMENT_REQUIRED,
    "InternalError": ErrorCode.UPSTREAM_ERROR,
}


NEWER: dict[str, object] = {"type": "error", "error": {"type": "api_error", "http_code": "500"}, "request_id": "r"}


def read(answer: object, status: int = 200, delivery: ResponseFormat = ResponseFormat.URL) -> ImageReply:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return AI302.read_reply(UpstreamResponse(status, body, 7.0), delivery)


def error_of(answer: object, status: int = 200) -> GatewayError:
    with pytest.raises(GatewayError) as failed:
        read(answer, status)
    return failed.value


def own(err_code: object, **more: object) -> dict[str, object]:
    return {"error": {"err_code": err_code, "message": "m", "message_cn": "x", "type": "api_error"} | more}


def meaning_of(error: GatewayError) -> tuple[int, Outcome, Retry, KeyState]:
    return error.row.status, error.row.outcome, error.row.retry, error.row.state


def test_every_documented_code_is_mapped_and_no_other() -> None:
    assert (set(DOCUMENTED), set(WORDS)) == (set(ERR_CODES), set(CODE_WORDS))


@pytest.mark.parametrize("code", DOCUMENTED)
def test_err_code_means_what_the_reference_says(code: int) -> None:
    for spelled, status in product((code, str(code)), (200, 401, 429, 500, 503)):
        assert (status, DOCUMENTED[code]) == (status, meaning_of(error_of(own(spelled), status)))


@pytest.mark.parametrize("code", DOCUMENTED)
def test_err_code_of_the_task_apis_is_read_too(code: int) -> None:
    answer = {"status": "failed", "message": "x", "data": {"error": {"err_code": code, "message": "m"}}}
    assert DOCUMENTED[code] == meaning_of(error_of(answer))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("more", [{}, {"message": "m", "request_id": "r"}])
def test_a_code_word_chooses_between_faults_that_blame_nothing(word: str, status: int, more: dict[str, object]) -> None:
    """Other gateways write the same words."""
    error = error_of({"code": word} | more, status)
    assert (
        WORDS[word] if word != "InternalError" or status == 200 else ErrorCode.UPSTREAM_REJECTED
    ) is error.error_code
    assert CooldownKind.NONE is error.row.pause


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_code_word_does_not_say_that_nothing_was_made(word: str, status: int) -> None:
    assert Outcome.UNKNOWN is error_of({"code": word, "message": "m", "request_id": "r"}, status).row.outcome


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("status", "error_code"), [(401, ErrorCode.BARE_UNAUTHORIZED), (403, ErrorCode.BARE_FORBIDDEN)]
)
def test_a_status_says_more_than_a_code_word(word: str, status: int, error_code: ErrorCode) -> None:
    expected = ErrorCode.UPSTREAM_REJECTED if word in {"InvalidParameter", "MissingParameter"} else error_code
    assert expected is error_of({"code": word}, status).error_code


@pytest.mark.parametrize("code", [-1, -10000, -10019, 5])
def test_unknown_err_code_is_the_upstreams(code: int) -> None:
    assert UPSTREAM == meaning_of(error_of(own(code)))


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        (-10001, Scope.KEY),
        (-10006, Scope.KEY),
        (-10007, Scope.KEY),  # "key's daily limit reached"
        (-10013, Scope.MODEL),
        (-10014, Scope.UPSTREAM),
        (-10004, Scope.ACCOUNT),
        (-10008, Scope.UPSTREAM),
    ],
)
def test_no_more_is_taken_out_than_the_code_blames(code: int, scope: Scope) -> None:
    assert scope is error_of(own(code)).row.scope


def test_pause_that_was_asked_for_is_kept() -> None:
    assert error_of(own(-10008)).retry_after_s == 7.0
    assert error_of({"code": "RateLimitExceeded"}).retry_after_s == 7.0


@pytest.mark.parametrize(
    ("answer", "error_code"),
    [
        ({**own(-10004), "code": "InternalError", "base_resp": {"status_code": 1026}}, ErrorCode.INSUFFICIENT_BALANCE),
        ({"code": "Unauthorized", "base_resp": {"status_code": 1026}}, ErrorCode.CONTENT_INPUT),
        (NEWER | {"code": "Unauthorized", "base_resp": {"status_code": 1026}}, ErrorCode.UPSTREAM_ERROR),
        ({"code": "Strange", "base_resp": {"status_code": 1026}}, ErrorCode.CONTENT_INPUT),
        ({"code": 200, "base_resp": {"status_code": "1002"}}, ErrorCode.ACCOUNT_RATE_LIMITED),
        ({"base_resp": {"status_code": 2049}}, ErrorCode.KEY_INVALID),
    ],
)
def test_checks_come_in_the_documented_order(answer: object, error_code: ErrorCode) -> None:
    """err_code, the whole newer error, base_resp; then words (reference/minimax.md section 8)."""
    assert error_code is error_of(answer, 500).error_code


@pytest.mark.parametrize(
    ("status", "error_code"), [(401, ErrorCode.BARE_UNAUTHORIZED), (404, ErrorCode.UPSTREAM_UNSUPPORTED)]
)
def test_http_status_speaks_where_no_code_does(status: int, error_code: ErrorCode) -> None:
    assert error_code is error_of({"code": "Strange", "message": "m"}, status).error_code
    assert error_code is error_of(b"<html>", status).error_code


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize(
    "answer",
    [
        b"<html></html>",
        {"code": "Strange", "message": "m"},
        {"code": 502, "message": "m"},
        {"error": {"message": "no available channel", "type": "api_error"}},
        {"error": {"err_code": 0, "message": "m"}},
        {"error": {"err_code": None, "message": "m", "type": "api_error"}},
        {"error": "bad gateway"},
    ],
)
def test_a_5xx_without_an_error_of_302_ai_s_may_have_cost_money(status: int, answer: object) -> None:
    error = error_of(answer, status)
    assert (Outcome.UNKNOWN, True) == (error.row.outcome, error.row.trips_breaker)


@pytest.mark.parametrize("noise", [{}, {"error": None}, {"error": {}}, {"code": 200}, {"code": "0"}, {"code": None}])
def test_success_is_read_whatever_else_is_there(noise: dict[str, object]) -> None:
    answer = {"id": "0f", "data": {"image_urls": [URL], "image_base64": []}, "base_resp": {"status_code": 0}} | noise
    assert ImageReply((ImageUrl(URL),), "0f") == read(answer)


def test_page_body_is_exactly_the_documented_example() -> None:
    """All five fields that the page marks required, always."""
    assert {
        "model": "minimaxi-image-01",
        "prompt": "a fox",
        "aspect_ratio": "1:1",
        "response_format": "url",
        "prompt_optimizer": False,
    } == built(ImageJob("a fox"))


@pytest.mark.parametrize(
    ("job", "count", "shape", "changed"),
    [
        (ImageJob("a fox", options={"minimax.prompt_optimizer": b"true"}), 1, SQUARE, {"prompt_optimizer": True}),
        (ImageJob("a fox"), 1, SizePlan(Size(1280, 720), aspect_ratio="16:9"), {"aspect_ratio": "16:9"}),
        (ImageJob("a fox"), 4, SQUARE, {"n": 4}),
        (ImageJob("a fox", seed=7), 1, SQUARE, {"seed": 7}),
    ],
)
def test_what_the_operator_declares_is_added(
    job: ImageJob, count: int, shape: SizePlan, changed: dict[str, object]
) -> None:
    assert built(ImageJob("a fox")) | changed == built(job, count, shape)


def test_pixels_where_declared_come_without_a_ratio_that_would_win_over_them() -> None:
    shape = SizePlan(Size(1792, 1024), pixels=Size(1792, 1024))
    body = built(ImageJob("a fox"), 1, shape, ResponseFormat.BASE64)
    assert (1792, 1024, "base64") == (body["width"], body["height"], body["response_format"])
    assert "aspect_ratio" not in body


def test_only_what_its_page_documents_is_taken_for_granted() -> None:
    can = AI302.capability("minimaxi-image-01", {})
    assert (1, 1499, (AspectRatios(PRESETS),), False, OUTPUT | {"minimax.prompt_optimizer"}) == (
        can.max_images_per_call,
        can.prompt_max_chars,
        can.sizes,
        can.supports_base64,
        can.fields,
    )


def test_both_providers_are_registered_under_their_names() -> None:
    assert [Ai302, MiniMax] == [type(PROVIDERS[name]) for name in ("302ai", "minimax")]


@given(
    st.dictionaries(
        st.sampled_from(["error", "code", "data", "base_resp", "metadata", "message"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["-10004", "Unauthorized", URL]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["err_code", "error", "message", "status_code", "image_urls"]), inner)
            ),
            max_leaves=10,
        ),
    ),
    st.sampled_from([200, 401, 500]),
)
def test_any_json_is_pictures_or_a_fault(answer: dict[str, object], status: int) -> None:
    outcome = attempt(lambda: read(answer, status))
    assert outcome.pictures if isinstance(outcome, ImageReply) else isinstance(outcome, GatewayError)


@given(st.binary(), st.sampled_from([200, 404]))
def test_any_bytes_are_pictures_or_a_fault(body: bytes, status: int) -> None:
    outcome = attempt(lambda: read(body, status))
    assert outcome.pictures if isinstance(outcome, ImageReply) else isinstance(outcome, GatewayError)
