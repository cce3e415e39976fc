"""Both providers' readers under replies that nobody promised: what they say of the money, and what they let through."""

import binascii
from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.domain.errors import GatewayError, Outcome
from gateway.domain.images import Base64Image, ImageReply, ImageUrl, ResponseFormat, sniff
from gateway.generation.redaction import redact_error, redact_reply
from gateway.providers import PROVIDERS
from gateway.providers.protocol import TaskProvider
from gateway.providers.replies import UpstreamResponse
from tests.fuzz.answers import JPEG, KEY, LINK, SECRET, documents, reply_bodies, statuses
from tests.fuzz.steps import count_steps
from tests.fuzz.values import JsonValue, render
from tests.support.outcomes import DETAIL_MAX_CHARS, check_outcome, shown, strictly_parsed
from tests.support.profile import fuzzing

BOTH: Final = pytest.mark.parametrize("provider", ["302ai", "minimax"])
"""The providers of the format that these replies are in."""
SYNCHRONOUS: Final = pytest.mark.parametrize(
    "provider", [name for name, provider in PROVIDERS.items() if not isinstance(provider, TaskProvider)]
)

replies = st.builds(UpstreamResponse, statuses, reply_bodies(), st.one_of(st.none(), st.floats(0, 1e9)))
items = st.sampled_from((JPEG, LINK, f" {LINK}", "iVBORw0KGgo=", "data:image/png;base64,AAAA"))
"""Images in any spelling."""
lists = st.lists(st.one_of(st.none(), st.just(""), items), max_size=2).flatmap(
    lambda head: items.map(lambda item: [*head, item])
)
shown_images = st.one_of(
    st.fixed_dictionaries(
        {"data": st.dictionaries(st.sampled_from(("image_urls", "image_base64")), lists, min_size=1)}
    ),
    st.fixed_dictionaries({"data": st.fixed_dictionaries({"images": lists, "error": st.none()})}),
    st.fixed_dictionaries({"data": st.lists(st.fixed_dictionaries({"url": items}), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"image_urls": lists}),
    st.fixed_dictionaries({"images": lists}),
    st.fixed_dictionaries({"DATA": st.fixed_dictionaries({"IMAGE_URLS": lists})}),
    st.fixed_dictionaries({"output": st.lists(st.fixed_dictionaries({"url": items}), min_size=1, max_size=3)}),
)
deliveries = st.sampled_from(ResponseFormat)


def read(provider: str, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | GatewayError:
    """What a call makes of it; every other exception fails the test."""
    try:
        made = PROVIDERS[provider].read_reply(reply, delivery)
        assert isinstance(made, ImageReply)
        return redact_reply(made, SECRET)
    except GatewayError as error:
        return redact_error(error, SECRET)


def check_pictures(reply: ImageReply) -> None:
    assert reply.pictures
    for picture in reply.pictures:
        if isinstance(picture, Base64Image):
            assert sniff(binascii.a2b_base64(bytes(picture.base64), strict_mode=True)[:64]) is not None
        else:
            assert picture.url.lower().startswith(("http://", "https://"))
            assert picture.url.isprintable()


@SYNCHRONOUS
@given(replies, deliveries)
@fuzzing(300)
def test_a_reply_gives_pictures_or_a_fault_that_is_right_about_the_money(
    provider: str, reply: UpstreamResponse, delivery: ResponseFormat
) -> None:
    try:
        made = PROVIDERS[provider].read_reply(reply, delivery)
    except GatewayError as error:
        check_outcome(reply, error)
    else:
        assert isinstance(made, ImageReply)
        check_pictures(made)
        check_outcome(reply, made)


@BOTH
@given(documents(), shown_images, statuses, st.sampled_from(({}, {"cf-ray": "1"})), deliveries)
@fuzzing(700)
def test_images_are_read_or_may_have_been_billed_whatever_is_beside_them(
    provider: str,
    document: Mapping[str, JsonValue],
    images: Mapping[str, JsonValue],
    status: int,
    headers: Mapping[str, str],
    delivery: ResponseFormat,
) -> None:
    body = render({**document, **images})
    assume(b'"image_' in body or isinstance(strictly_parsed(body), dict))  # of a broken body only the names are known
    outcome = read(provider, UpstreamResponse(status, body, None, headers), delivery)
    assert isinstance(outcome, ImageReply) or outcome.row.outcome is Outcome.UNKNOWN


@SYNCHRONOUS
@given(replies, deliveries)
@fuzzing(100)
def test_a_reply_takes_no_key_to_tenants_or_logs(
    provider: str, reply: UpstreamResponse, delivery: ResponseFormat
) -> None:
    outcome = read(provider, reply, delivery)
    assert KEY.encode() not in shown(outcome)
    assert isinstance(outcome, ImageReply) or KEY not in outcome.detail
    assert not isinstance(outcome, ImageReply) or not any(
        isinstance(picture, ImageUrl) and KEY in picture.url for picture in outcome.pictures
    )


@BOTH
@given(replies)
@fuzzing(300)
def test_a_key_check_is_read_or_ends_in_an_error(provider: str, reply: UpstreamResponse) -> None:
    try:
        detail = PROVIDERS[provider].read_key_check(reply).detail
    except GatewayError as error:
        detail = error.detail
    assert len(detail) <= DETAIL_MAX_CHARS


@BOTH
@given(replies, deliveries)
@fuzzing(120)
def test_a_reply_is_read_in_few_steps(provider: str, reply: UpstreamResponse, delivery: ResponseFormat) -> None:
    parts = sum(reply.body.count(mark) for mark in (b",", b":", b"["))
    allowed = 4000 + 60 * parts
    assert count_steps(lambda: read(provider, reply, delivery)) <= allowed + 4 * DETAIL_MAX_CHARS * 3
