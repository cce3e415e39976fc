"""What the free pages say, in every form in which they may say it."""

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from gateway.domain.accounts import make_secret
from gateway.domain.errors import ERROR_SPECS, CooldownKind, ErrorCode, GatewayError, KeyState
from gateway.providers import PROVIDERS
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES
from gateway.providers.minimax import CODES
from gateway.providers.protocol import KeyCheck, Provider
from gateway.providers.replies import STATUS_ERRORS, UpstreamResponse

MINIMAX, AI302 = PROVIDERS["minimax"], PROVIDERS["302ai"]
SUCCESS = {"status_code": 0, "status_msg": "success"}
ROW = {
    "model_name": "image-01",
    "remains_time": 7_200_000,
    "current_interval_total_count": 100,
    "current_interval_usage_count": 0,
    "current_interval_remaining_percent": 0,
}
"""A plan whose window is used up, and ends in two hours."""


def check(provider: Provider, reply: UpstreamResponse) -> KeyCheck:
    """What a reply shows, as the upstream's key checks have it."""
    try:
        return provider.read_key_check(reply)
    except GatewayError as error:
        return KeyCheck(error.error_code, error.detail)


def ask_minimax(answer: object, status: int = 200) -> KeyCheck:
    return check(MINIMAX, UpstreamResponse(status, msgspec.json.encode(answer)))


def ask_302(answer: object, status: int = 200) -> KeyCheck:
    return check(AI302, UpstreamResponse(status, msgspec.json.encode(answer)))


def remains(**changed: object) -> dict[str, object]:
    row = {name: value for name, value in (ROW | changed).items() if value is not None}
    return {"base_resp": SUCCESS, "model_remains": [row]}


def refused(code: object) -> dict[str, object]:
    return {"base_resp": {"status_code": code, "status_msg": "some text"}}


def test_the_pages_are_those_of_the_reference() -> None:
    checks = [provider.build_key_check(make_secret("s-1")) for provider in (MINIMAX, AI302)]
    assert [("GET", "/v1/token_plan/remains"), ("GET", "/v1/models")] == [(one.method, one.path) for one in checks]
    assert all(("authorization", "Bearer s-1") in one.headers and not one.body for one in checks)


@pytest.mark.parametrize(
    "answer",
    [
        {"base_resp": SUCCESS, "model_remains": []},
        {"base_resp": SUCCESS},
        {"model_remains": [{"model_name": "general"}]},
        {"data": {"model_remains": [{"model_name": "general"}]}, "base_resp": {"status_code": "0"}},
    ],
)
def test_minimax_answers_for_the_account(answer: object) -> None:
    assert KeyCheck(proves_balance=True) == ask_minimax(answer)


WEEK = {"current_weekly_remaining_percent": 10}


@pytest.mark.parametrize(
    ("row", "has_left"),
    [
        ({"current_interval_remaining_percent": 40}, True),
        ({"current_interval_remaining_percent": 0.5} | WEEK, True),
        (WEEK, False),
        ({"current_interval_remaining_percent": 40, "current_weekly_remaining_percent": 0}, False),
        ({"current_interval_remaining_percent": "40"}, False),
        ({"current_interval_remaining_percent": None}, False),
        ({"current_interval_remaining_percent": 40, "model_name": "general"}, False),
    ],
)
def test_a_plan_has_something_left_where_every_percentage_of_its_images_says_so(
    row: dict[str, object], *, has_left: bool
) -> None:
    assert has_left is ask_minimax(remains(**row)).has_plan_left


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("spelling", [int, str])
def test_every_code_means_on_the_page_what_it_means_elsewhere(code: int, spelling: type[int] | type[str]) -> None:
    assert KeyCheck(CODES[code], f"{code} some text") == ask_minimax(refused(spelling(code)))


@pytest.mark.parametrize("code", sorted(ERR_CODES))
def test_every_error_of_302_means_on_the_page_what_it_means_elsewhere(code: int) -> None:
    answer = {"error": {"err_code": code, "message": "some text"}}
    assert KeyCheck(ERR_CODES[code], f"{code} some text") == ask_302(answer, 401)


@pytest.mark.parametrize("word", sorted(CODE_WORDS))
def test_no_code_word_of_302_blames_a_key_on_the_page_either(word: str) -> None:
    found = ask_302({"code": word, "message": "some text"}, 400)
    assert found.error_code is not None
    assert (CooldownKind.NONE, f"{word} some text") == (
        ERROR_SPECS[found.error_code].pause,
        found.detail.removeprefix("HTTP 400, "),
    )


def test_302_passes_codes_of_minimax_on() -> None:
    assert ErrorCode.INSUFFICIENT_BALANCE is ask_302(refused(1008)).error_code


def test_a_list_of_models_says_that_the_key_works_and_nothing_of_the_balance() -> None:
    assert KeyCheck() == ask_302({"object": "list", "data": [{"id": "minimaxi-image-01"}]})
    assert KeyCheck() == ask_302({"data": []})


@pytest.mark.parametrize("status", sorted(STATUS_ERRORS))
@pytest.mark.parametrize("provider", [MINIMAX, AI302])
def test_a_status_alone_speaks_where_nothing_else_does(provider: Provider, status: int) -> None:
    for body in (b"", b"{}"):
        found = check(provider, UpstreamResponse(status, body))
        assert (STATUS_ERRORS[status], False) == (found.error_code, found.proves_balance)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 422, 429, 500, 502])
@pytest.mark.parametrize("provider", [MINIMAX, AI302])
def test_a_web_page_is_named_and_no_verdict_on_the_key(provider: Provider, status: int) -> None:
    page = b"<!DOCTYPE html>\n<html><head><title>\nBlocked &amp; logged</title>"
    found = check(provider, UpstreamResponse(status, page, url="https://api.example/v1/models"))
    assert found.error_code is not None
    assert KeyState.QUARANTINED is not found.error_code.spec.state
    assert found.detail == (
        f'HTTP {status} from https://api.example/v1/models, a web page titled "Blocked & logged", not the provider: '
        "a proxy, a captive portal or a wrong base_url"
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model_remains": "all"}'])
def test_what_is_not_the_page_proves_nothing(body: bytes) -> None:
    for provider in (MINIMAX, AI302):
        found = check(provider, UpstreamResponse(200, body))
        assert (ErrorCode.INVALID_RESPONSE, False, None) == (found.error_code, found.proves_balance, found.window_s)


@pytest.mark.parametrize(
    ("changed", "expected_s"),
    [
        ({}, 7200.0),
        ({"remains_time": "7200000", "current_interval_total_count": "100"}, 7200.0),
        ({"current_interval_remaining_percent": "0"}, 7200.0),
        ({"current_interval_remaining_percent": 0.0}, 7200.0),
        ({"current_interval_usage_count": 100}, 7200.0),
        ({"current_interval_usage_count": None}, 7200.0),
        ({"current_interval_usage_count": "junk"}, 7200.0),
        (
            {
                "current_weekly_total_count": 700,
                "current_weekly_remaining_percent": 0,
                "weekly_remains_time": 86_400_000,
            },
            86_400.0,
        ),
    ],
)
def test_a_window_is_believed_where_the_page_leaves_no_doubt(changed: dict[str, object], expected_s: float) -> None:
    assert KeyCheck(ErrorCode.QUOTA_EXHAUSTED_PLAN, "the plan is used up", window_s=expected_s) == ask_minimax(
        remains(**changed)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"current_interval_remaining_percent": None, "current_interval_usage_count": 0},
        {"current_interval_remaining_percent": None, "current_interval_usage_count": 100},
        {"current_interval_remaining_percent": 1},
        {"current_interval_remaining_percent": False},
        {"current_interval_remaining_percent": "none"},
        {"current_interval_usage_count": 50},
        {"current_interval_total_count": 0},
        {"current_interval_total_count": -100},
        {"current_interval_total_count": None},
        {"remains_time": None},
        {"remains_time": 0},
        {"remains_time": -1},
        {"remains_time": 10**15},
        {"remains_time": "soon"},
        {"model_name": "general"},
        {"model_name": 7},
    ],
)
def test_a_window_is_not_believed_where_the_page_can_be_read_otherwise(changed: dict[str, object]) -> None:
    """0 of 100 is taken for all used by one reading and for nothing used by the other; so is 100 of 100."""
    found = ask_minimax(remains(**changed))
    assert (None, True, None) == (found.error_code, found.proves_balance, found.window_s)


@pytest.mark.parametrize(
    ("changed", "expected_s"),
    [
        ({}, 7200.0),
        ({"current_interval_usage_count": 100}, 7200.0),
        ({"current_interval_usage_count": "0", "remains_time": "60000"}, 60.0),
        (
            {"current_weekly_total_count": 700, "current_weekly_usage_count": 3, "weekly_remains_time": 86_400_000},
            7200.0,
        ),
        (
            {"current_weekly_total_count": 700, "current_weekly_usage_count": 0, "weekly_remains_time": 86_400_000},
            86_400.0,
        ),
        (
            {
                "current_interval_usage_count": 50,
                "current_weekly_total_count": 700,
                "current_weekly_usage_count": 700,
                "weekly_remains_time": 86_400_000,
            },
            86_400.0,
        ),
        ({"current_interval_usage_count": 50}, None),
        ({"current_interval_usage_count": None}, None),
        ({"current_interval_remaining_percent": 40}, None),
        ({"model_name": "general"}, None),
    ],
)
def test_of_a_plan_that_is_known_to_be_used_up_the_page_says_when_it_is_released(
    changed: dict[str, object], expected_s: float | None
) -> None:
    """Only a window whose count is at one of its ends can be the one; of two, the later end counts."""
    found = ask_minimax(remains(**({"current_interval_remaining_percent": None} | changed)))
    assert (None, None, expected_s) == (found.error_code, found.window_s, found.window_if_spent_s)


def test_a_plan_is_not_used_up_where_one_row_of_the_images_has_something_left() -> None:
    rows = [ROW, ROW | {"model_name": "image-01-live", "current_interval_remaining_percent": 5}]
    assert None is ask_minimax({"base_resp": SUCCESS, "model_remains": rows}).window_s


def test_junk_among_the_rows_is_passed_over() -> None:
    rows = [None, 7, "image-01", [ROW], {}, ROW]
    assert 7200.0 == ask_minimax({"base_resp": SUCCESS, "model_remains": rows}).window_s


JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.sampled_from([*ROW, "base_resp", "model_remains", "data", "error"]), inner)
    ),
    max_leaves=12,
)


@hypothesis.given(JSON, strategies.integers(100, 599))
def test_no_answer_breaks_the_reading(answer: object, status: int) -> None:
    for provider in (MINIMAX, AI302):
        found = check(provider, UpstreamResponse(status, msgspec.json.encode(answer)))
        ends = [end for end in (found.window_s, found.window_if_spent_s) if end is not None]
        assert all(0 < end <= 8 * 86_400 for end in ends)


@hypothesis.given(strategies.binary(max_size=200))
def test_no_bytes_break_the_reading(body: bytes) -> None:
    for provider in (MINIMAX, AI302):
        assert isinstance(check(provider, UpstreamResponse(200, body)), KeyCheck)
