"""What an upstream repeats goes no further."""

import pytest

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.images import Encoded, ImageReply, Link
from gateway.domain.keys import make_secret
from gateway.upstream.redaction import redact, redact_error, redact_reply

KEY = "sk-canary-of-an-upstream-0123456789"
SECRET = make_secret(KEY)
PROMPT = "a lighthouse that nobody may hear of"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("login failed", "login failed"),
        ("", ""),
        (f"bad key {KEY}.", f"bad key {SECRET!r}."),
        (f"{KEY}{KEY}", f"{SECRET!r}"),
        (f"cut in the middle: {KEY[:20]}", f"cut in the middle: {SECRET!r}"),
        (f"{KEY[-12:]} is its end", f"{SECRET!r} is its end"),
        (f"seven characters give nothing away: {KEY[:7]}", f"seven characters give nothing away: {KEY[:7]}"),
    ],
)
def test_a_key_and_pieces_of_it_are_left_out(text: str, kept: str) -> None:
    assert kept == redact(text, SECRET)


def test_a_short_key_is_left_out_where_it_is_whole() -> None:
    assert "no fp and ke" == redact("no key-1 and ke", make_secret("key-1")).replace(repr(make_secret("key-1")), "fp")


def test_a_prompt_is_left_out_of_what_is_logged() -> None:
    error = redact_error(GatewayError(Fault.INTERNAL, f"'{PROMPT}' is not allowed, {KEY}"), SECRET, PROMPT)
    assert f"'<prompt>' is not allowed, {SECRET!r}" == error.detail


def test_a_prompt_of_a_word_does_not_tear_sentences_apart() -> None:
    assert "status 2049" == redact_error(GatewayError(Fault.INTERNAL, "status 2049"), SECRET, "status").detail


def test_a_link_that_holds_the_key_is_not_delivered() -> None:
    good, picture = Link("https://cdn.example/1.jpg"), Encoded(memoryview(b"/9j/"))
    reply = ImageReply((Link(f"https://cdn.example/2.jpg?k={KEY}"), good, picture), f"trace-{KEY}")
    assert ImageReply((good, picture), f"trace-{SECRET!r}") == redact_reply(reply, SECRET)
