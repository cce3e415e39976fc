"""Both dialects' readers under replies that nobody promised: what they say of the money, and what they let through."""

import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.faults import TABLE, GatewayError, Outcome
from gateway.domain.images import Delivery, Encoded, ImageReply, ImageResult, Link, sniff
from gateway.domain.sizes import Size
from gateway.upstream.redaction import redact_error, redact_reply
from gateway.wire import PROVIDERS
from gateway.wire.ai302 import CODE_WORDS
from gateway.wire.envelope import Reply
from gateway.wire.native import render_native, render_native_error
from gateway.wire.openai import render_error, render_events, render_generation
from tests.fuzz.answers import KEY, SECRET, reply_bodies, statuses
from tests.fuzz.profile import fuzzing
from tests.fuzz.steps import count_steps

DETAIL_MAX_CHARS: Final = 2200
"""Two fields of a reply at the most, of a thousand characters each."""
BOTH: Final = pytest.mark.parametrize("dialect", list(PROVIDERS))

replies = st.builds(Reply, statuses, reply_bodies(), st.one_of(st.none(), st.floats(0, 1e9)))
deliveries = st.sampled_from(Delivery)


def read(dialect: str, reply: Reply, delivery: Delivery) -> ImageReply | GatewayError:
    """What a call makes of it; every other exception fails the test."""
    try:
        return redact_reply(PROVIDERS[dialect].read_reply(reply, delivery), SECRET)
    except GatewayError as error:
        return redact_error(error, SECRET)


def parsed(body: bytes) -> Mapping[str, Any] | None:
    """The object as another JSON parser sees it; ours does not look into texts that nobody reads."""
    try:
        found = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def says_no(reply: Reply, document: Mapping[str, Any]) -> bool:
    """Whether a reply says in any way that it failed, or shows that nothing was made."""
    data = document.get("data")
    inner = data if isinstance(data, dict) else {}
    stated = document.get("base_resp")
    code = stated.get("status_code") if isinstance(stated, dict) else None
    return (
        not 200 <= reply.status < 300
        or bool(document.get("error") or inner.get("error"))
        or document.get("code") in CODE_WORDS
        or str(code).strip() not in {"0", "None"}
        or (code is not None and not holds_words(data))
        or _withheld(document.get("metadata"))
    )


def _withheld(metadata: object) -> bool:
    """All were made and kept back: a refusal that the operator may charge."""
    return isinstance(metadata, dict) and str(metadata.get("success_count")).strip() in {"0", "-0"}


def holds_words(value: object) -> bool:
    """Whether anything stands in it that could be a picture."""
    match value:
        case str():
            return bool(value.strip())
        case list():
            return any(map(holds_words, value))
        case dict():
            return any(map(holds_words, value.values()))
        case _:
            return False


def check_pictures(reply: ImageReply) -> None:
    assert reply.pictures
    for picture in reply.pictures:
        if isinstance(picture, Encoded):
            assert sniff(binascii.a2b_base64(bytes(picture.base64), strict_mode=True)[:64]) is not None
        else:
            assert picture.url.lower().startswith(("http://", "https://"))
            assert picture.url.isprintable()


def check_outcome(reply: Reply, outcome: ImageReply | GatewayError) -> None:
    """Only who says no is believed that nothing was bought."""
    if isinstance(outcome, ImageReply):
        assert 200 <= reply.status < 300
        return
    assert outcome.fault in TABLE
    assert outcome.row.outcome in {Outcome.REFUSED, Outcome.UNKNOWN}
    assert len(outcome.detail) <= DETAIL_MAX_CHARS
    document = parsed(bytes(reply.body))
    if outcome.row.outcome is Outcome.REFUSED and 200 <= reply.status < 300:
        assert document is not None
        assert says_no(reply, document)


def shown(outcome: ImageReply | GatewayError) -> bytes:
    """All that a tenant can get of it, on both wires."""
    if isinstance(outcome, GatewayError):
        return b"".join((render_error(outcome), render_error(outcome, "dall-e-3"), render_native_error(outcome)))
    result = ImageResult(outcome.pictures, Size(1024, 1024), len(outcome.pictures), outcome.id)
    if not outcome.pictures:
        return b""
    events = [chunk for event in render_events(result, 0) for chunk in event]
    return b"".join((*render_generation(result, 0), *render_native(result), *events))


@BOTH
@given(replies, deliveries)
@fuzzing(700)
def test_a_reply_gives_pictures_or_a_fault_that_is_right_about_the_money(
    dialect: str, reply: Reply, delivery: Delivery
) -> None:
    try:
        outcome: ImageReply | GatewayError = PROVIDERS[dialect].read_reply(reply, delivery)
    except GatewayError as error:
        outcome = error
    else:
        assert isinstance(outcome, ImageReply)
        check_pictures(outcome)
    check_outcome(reply, outcome)


@BOTH
@given(replies, deliveries)
@fuzzing(300)
def test_a_reply_takes_no_key_to_tenants_or_logs(dialect: str, reply: Reply, delivery: Delivery) -> None:
    outcome = read(dialect, reply, delivery)
    assert KEY.encode() not in shown(outcome)
    assert isinstance(outcome, ImageReply) or KEY not in outcome.detail
    assert not isinstance(outcome, ImageReply) or not any(
        isinstance(picture, Link) and KEY in picture.url for picture in outcome.pictures
    )


@BOTH
@given(replies)
@fuzzing(300)
def test_a_key_check_is_read_or_ends_in_an_error(dialect: str, reply: Reply) -> None:
    try:
        detail = PROVIDERS[dialect].read_key_check(reply).detail
    except GatewayError as error:
        detail = error.detail
    assert len(detail) <= DETAIL_MAX_CHARS


@BOTH
@given(replies, deliveries)
@fuzzing(120)
def test_a_reply_is_read_in_few_steps(dialect: str, reply: Reply, delivery: Delivery) -> None:
    parts = sum(reply.body.count(mark) for mark in (b",", b":", b"["))
    allowed = 4000 + 60 * parts
    assert count_steps(lambda: read(dialect, reply, delivery)) <= allowed + 4 * DETAIL_MAX_CHARS * 3
