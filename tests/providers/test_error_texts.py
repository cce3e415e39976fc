"""What an upstream says in words decides little, and the request's own words decide nothing."""

from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import ERROR_SPECS, CapacityHint, CooldownKind, ErrorCode, GatewayError
from gateway.domain.images import ResponseFormat
from gateway.providers import PROVIDERS
from gateway.providers.error_texts import SENTENCES, without_own_words
from gateway.providers.minimax import CODES
from gateway.providers.replies import STATUS_ERRORS, UpstreamResponse

PROVIDER = pytest.mark.parametrize("provider", ["302ai", "minimax"])


def blames_nothing(error_code: ErrorCode) -> bool:
    row = ERROR_SPECS[error_code]
    return row.pause is CooldownKind.NONE and row.lowers is CapacityHint.NOTHING and not row.trips_breaker


def fault_of(provider: str, answer: object, status: int = 200, sent: bytes = b"") -> ErrorCode:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    with pytest.raises(GatewayError) as failed:
        PROVIDERS[provider].read_reply(
            UpstreamResponse(status, body, 3600.0, {"server": "edge"}, (sent,)), ResponseFormat.URL
        )
    return failed.value.error_code


@pytest.mark.parametrize("error_code", [error_code for _, error_code in SENTENCES])
def test_a_sentence_chooses_only_between_faults_that_blame_no_key(error_code: ErrorCode) -> None:
    assert blames_nothing(error_code)


@pytest.mark.parametrize("status", [status for status in STATUS_ERRORS if status < 500 and status != 408])
def test_a_status_alone_blames_no_key(status: int) -> None:
    assert blames_nothing(STATUS_ERRORS[status])


FOREIGN: list[object] = [
    b"<html><h1>403 Forbidden</h1></html>",
    b"",
    {},
    {"base_resp": {"status_code": 0, "status_msg": "success"}},
    {"message": "Forbidden"},
    {"error": "insufficient balance (1008)"},
    {"error": {"message": "invalid api key (2049)"}},
    {"error": {"type": "authentication_error", "message": "m"}},
    {"error": {"type": "insufficient_balance_error", "message": "m"}},
    {"error": {"type": "rate_limit_error", "message": "usage limit exceeded (2056)"}},
    {"error": {"code": "invalid_api_key", "type": "invalid_request_error", "message": "m"}},
    {"type": "https://edge.example/blocked", "title": "Forbidden", "status": 403},
]


@PROVIDER
@pytest.mark.parametrize("answer", FOREIGN)
def test_a_refusal_without_the_provider_s_own_code_blames_nothing(provider: str, answer: object) -> None:
    for status in (301, 302, 401, 402, 403, 406, 409, 410, 418, 421, 429, 451, 499):
        error_code = fault_of(provider, answer, status)
        assert blames_nothing(error_code), (status, error_code)


@PROVIDER
@pytest.mark.parametrize("code", [*CODES, 9999])
def test_a_code_in_a_text_rests_nothing(provider: str, code: int) -> None:
    texts = (f"x ({code})", f"invalid params, failed to download https://x.example/({code})")
    for text, status in product(texts, (200, 400, 429)):
        for answer in (
            {"error": {"message": text}},
            {"error": text},
            {"type": "error", "error": {"type": "bad_request_error", "message": text}},
            {"base_resp": {"status_code": 2013, "status_msg": text}},
        ):
            error_code = fault_of(provider, answer, status)
            assert (status, answer, CooldownKind.NONE) == (status, answer, ERROR_SPECS[error_code].pause)


ECHOES = [
    "https://x.example/ credits do not support.jpg",
    "https://x.example/(1008)",
    "https://x.example/ your current token plan not support model",
    "your current token plan not support model",
    "prompt length must be less than 1500",
    "blocked by moderation",
    "PROMPT LENGTH must be less than 7",
]


@PROVIDER
@pytest.mark.parametrize("own", ECHOES)
@pytest.mark.parametrize("text", ["invalid params, {}", "{}", "{} (2061)", "invalid params, failed to download {}"])
def test_the_request_s_own_words_are_not_read(provider: str, own: str, text: str) -> None:
    requests = ({"prompt": own}, {"prompt": "x", "subject_reference": [{"type": "character", "image_file": own}]})
    for spelled, sent in product((own, own.lower(), own.upper()), requests):
        answer = {"base_resp": {"status_code": 2013, "status_msg": text.format(spelled)}}
        error_code = fault_of(provider, answer, sent=msgspec.json.encode(sent))
        assert (spelled, sent, ErrorCode.UPSTREAM_REJECTED) == (spelled, sent, error_code)


@PROVIDER
def test_the_provider_s_sentence_is_read_beside_a_request_that_has_other_words(provider: str) -> None:
    answer = {"base_resp": {"status_code": 2013, "status_msg": "invalid params, prompt length must be less than 1500"}}
    assert ErrorCode.PROMPT_TOO_LONG is fault_of(provider, answer, sent=b'{"model":"image-01","prompt":"a lake","n":2}')


def test_own_words_in_pieces_are_taken_out_and_short_ones_stay() -> None:
    sent = msgspec.json.encode({"a": [{"b": "https://x.example/long/path.jpg"}], "n": 3, "c": "fox", "d": "lake"})
    assert "fetch \u2026.gif of a fox at a \u2026" == without_own_words(
        "Fetch EXAMPLE/long/PA.gif of a fox at a lake", sent
    )


@pytest.mark.parametrize("sent", [b"", b"[", b"null", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_none_takes_nothing_out(sent: bytes) -> None:
    assert "a message" == without_own_words("A message", sent)


@given(st.text(max_size=60), st.text(min_size=8, max_size=40), st.text(max_size=60))
def test_no_long_stretch_of_the_request_is_left(before: str, own: str, after: str) -> None:
    left = without_own_words(before + own + after, msgspec.json.encode({"prompt": own}))
    assert own.lower() not in left or "\u2026" in own


def test_a_body_of_megabytes_costs_no_more_than_its_beginning() -> None:
    """What lies beyond the bound is not compared: a text repeats the beginning of what it quotes."""
    sent = msgspec.json.encode({"image": "data:image/png;base64," + "A" * 4_000_000 + "the end of it"})
    assert "cannot read \u2026, the end of it" == without_own_words(
        "cannot read data:image/png;base64,AAAAAAAAAA, the end of it", sent
    )
