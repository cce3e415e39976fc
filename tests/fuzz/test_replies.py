"""The whole way of a reply, from the socket to the fault, against servers that lie, flood, drip, hang and cut."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import GatewayError, Outcome
from gateway.domain.images import Base64Image, ImageReply, ImageUrl, ResponseFormat
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.providers.replies import UpstreamResponse
from tests.fuzz.answers import JPEG, KEY
from tests.fuzz.desk import IMAGES, SLOW_TIMEOUT_S, TIMEOUT_S, Desk, sitting
from tests.fuzz.plans import CAP_BYTES, LARGE, Hostility, endless, quick
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.outcomes import check_outcome, shown
from tests.support.profile import fuzzing

MEMORY_MAX_BYTES: Final = 6 * CAP_BYTES + 8 * 2**20
"""The cap, what is read ahead of it, and what a loop with connections has; far below what any flood or bomb brings."""
LATE_MAX_S: Final = 8.0
"""Of a machine that is busy; far less than the upstream's own patience."""
ENDED_BY_THE_CAP: Final = ("flood", "flood of chunks", "a gzip bomb", "a zlib bomb")
deliveries = st.sampled_from(ResponseFormat)
providers = st.sampled_from(["302ai", "minimax"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture(scope="module")
def desk(one_redis_server: str, upstream: Hostile) -> Iterator[Desk]:
    with sitting(one_redis_server, upstream) as furnished:
        yield furnished


def read_honestly(provider: str, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | GatewayError:
    try:
        made = PROVIDERS[provider].read_reply(reply, delivery)
    except GatewayError as error:
        return error
    assert isinstance(made, ImageReply)
    return made


def check_money(upstream: Hostile, case: Hostility, outcome: ImageReply | GatewayError) -> None:
    """What reached the upstream is never called unsent, and what broke on the way is never called refused."""
    if isinstance(outcome, ImageReply):
        return
    if upstream.received_bytes:
        assert outcome.row.outcome is not Outcome.NOT_SENT
    is_cut_success = case.kind.startswith("lying") and 200 <= case.status < 300
    if (is_cut_success or case.is_slow) and not is_unsent(upstream, outcome):
        assert outcome.row.outcome is Outcome.UNKNOWN


def is_unsent(upstream: Hostile, outcome: ImageReply | GatewayError) -> bool:
    """Whether nothing was sent: on a busy machine the time may be up by then, or an answer may come first."""
    if isinstance(outcome, ImageReply) or upstream.received_bytes:
        return False
    return outcome.row.outcome is Outcome.NOT_SENT


def check_honest(
    upstream: Hostile, provider: str, delivery: ResponseFormat, case: Hostility, outcome: ImageReply | GatewayError
) -> None:
    """What was framed rightly is read as it stands."""
    if case.body is None or is_unsent(upstream, outcome):
        return
    if isinstance(outcome, GatewayError) and "mostly framing" in outcome.detail:  # cut off by its own bound
        assert outcome.row.outcome is Outcome.UNKNOWN
        return
    reply = UpstreamResponse(case.status, case.body)
    expected = read_honestly(provider, reply, delivery)
    if isinstance(expected, GatewayError):
        assert isinstance(outcome, GatewayError)
        assert expected.error_code is outcome.error_code
        check_outcome(reply, outcome)
    else:
        assert isinstance(outcome, ImageReply)
        assert [type(picture) for picture in outcome.pictures] == [
            type(picture)
            for picture in expected.pictures[:IMAGES]
            if not (isinstance(picture, ImageUrl) and KEY in picture.url)
        ]


def check_next(desk: Desk, upstream: Hostile) -> None:
    """The next call gets its own answer, not what the last one left in the connection."""
    own = b'{"id":"of-this-call","data":{"image_base64":["%s"]},"base_resp":{"status_code":0}}' % JPEG.encode()
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(own)
    upstream.begin(Plan((head + own, "close")))
    for _ in range(3):  # a kept connection may be found dead
        outcome = desk.call("minimax", ResponseFormat.BASE64, TIMEOUT_S)
        if isinstance(outcome, ImageReply):
            assert "of-this-call" == outcome.id
            return
        assert outcome.row.outcome in {Outcome.UNKNOWN, Outcome.NOT_SENT}
    pytest.fail("an honest answer is not understood any more")


def check(desk: Desk, upstream: Hostile, provider: str, delivery: ResponseFormat, case: Hostility) -> None:
    upstream.begin(case.plan)
    timeout_s = SLOW_TIMEOUT_S if case.is_slow else TIMEOUT_S
    started_s = time.monotonic()
    outcome = desk.call(provider, delivery, timeout_s)
    assert time.monotonic() - started_s < timeout_s + LATE_MAX_S
    assert upstream.requests <= 1
    check_money(upstream, case, outcome)
    check_honest(upstream, provider, delivery, case, outcome)
    assert KEY.encode() not in shown(outcome)
    assert isinstance(outcome, ImageReply) or KEY not in outcome.detail


@given(providers, deliveries, quick)
@fuzzing(350)
def test_every_answer_ends_in_pictures_or_a_fault_that_is_right_about_the_money(
    desk: Desk, upstream: Hostile, provider: str, delivery: ResponseFormat, case: Hostility
) -> None:
    check(desk, upstream, provider, delivery, case)
    check_next(desk, upstream)


@given(providers, deliveries, endless())
@fuzzing(28)
def test_what_has_no_end_is_ended_by_the_deadline_or_the_cap_and_may_have_been_bought(
    desk: Desk, upstream: Hostile, provider: str, delivery: ResponseFormat, case: Hostility
) -> None:
    check(desk, upstream, provider, delivery, case)


@pytest.mark.parametrize("kind", list(LARGE))
def test_no_answer_costs_more_memory_than_its_cap(desk: Desk, upstream: Hostile, kind: str) -> None:
    upstream.begin(LARGE[kind])
    gc.collect()
    tracemalloc.start()
    try:
        desk.call("minimax", ResponseFormat.BASE64, TIMEOUT_S if kind in ENDED_BY_THE_CAP else SLOW_TIMEOUT_S)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_MAX_BYTES


_INNER_NAMES: Final = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "[::1]", "0")
_INNER_FORMS: Final = (
    "http://{}:{}/x",
    "http://{}:{}",
    "HTTP://{}:{}/x",
    "http://cdn.example@{}:{}/x",
    "http://{}:{}#cdn.example",
    "http://{}.:{}/x",
    "http://{}:{}\\@cdn.example/",
    "http://[{}]:{}/",
    "//{}:{}/",
    "https://{}:{}/x",
)


@given(st.sampled_from(_INNER_NAMES), st.sampled_from(_INNER_FORMS), st.booleans())
@fuzzing(80)
def test_no_link_and_no_redirect_leads_inside(
    desk: Desk, upstream: Hostile, name: str, form: str, is_redirect: bool
) -> None:
    """`*` allows every public name: also then nobody connects to this machine, unless its origin was named."""
    with hostile() as inside:
        link = form.format(name, inside.port)
        if is_redirect:
            upstream.begin(
                Plan((b"HTTP/1.1 302 F\r\nlocation: " + link.encode() + b"\r\ncontent-length: 0\r\n\r\n", "close"))
            )
            link = f"{upstream.url}/picture"
        made = desk.deliver((ImageUrl(link),), LinkPolicy(["*", upstream.url]))
        assert () == made
        assert 0 == inside.connections


@given(quick)
@fuzzing(60)
def test_a_link_gives_a_picture_or_nothing(desk: Desk, upstream: Hostile, case: Hostility) -> None:
    upstream.begin(case.plan)
    made = desk.deliver((ImageUrl(f"{upstream.url}/picture"),), LinkPolicy([upstream.url]))
    assert all(isinstance(picture, Base64Image) for picture in made)
    assert len(made) <= 1
