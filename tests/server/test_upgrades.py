"""An offer of another protocol is ignored in every head of a connection, and no byte of a body is read as a request."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.framings import FRAMINGS, JAVA, SMUGGLED, Request, echo, exchange, send_apart
from tests.support.harness import serving
from tests.support.strangers import Reply, connected, received, replies, talk

OFFERS = {
    "h2c": JAVA,
    "websocket": (b"host: x", b"UPGRADE: websocket", b"connection: keep-alive,upgrade", b"sec-websocket-version: 13"),
    "two": (b"upgrade: a/1", b"host: x", b"connection: keep-alive", b"connection: upgrade", b"upgrade:b, c"),
    "none": (b"host: x",),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(echo) as started:
        yield started


def echoed(raw: bytes) -> list[list[str]]:
    return [reply.document for reply in replies(raw)]


@pytest.mark.parametrize("framing", list(FRAMINGS))
@pytest.mark.parametrize("offer", list(OFFERS))
def test_each_request_of_a_kept_connection_may_offer_another_protocol(url: str, offer: str, framing: str) -> None:
    request = replace(FRAMINGS[framing], offer=OFFERS[offer])
    with connected(url) as client:
        assert [request.echoed] * 4 == [exchange(client, request.sent) for _ in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_a_request_with_an_offer_may_be_cut_anywhere(url: str, framing: str) -> None:
    """The first of its connection, the second, and all that follow."""
    request = FRAMINGS[framing]
    with connected(url) as client:
        for cut in range(1, len(request.sent)):
            assert request.echoed == exchange(client, request.sent[:cut], request.sent[cut:]), f"cut at {cut}"
    for cut in range(1, len(request.sent), 5):
        with connected(url) as client:
            assert request.echoed == exchange(client, request.sent[:cut], request.sent[cut:]), f"cut at {cut}"


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_with_an_offer_may_come_byte_by_byte(url: str, framing: str) -> None:
    request = FRAMINGS[framing]
    with connected(url) as client:
        found = [exchange(client, *(bytes([byte]) for byte in request.sent)) for _ in range(2)]
        assert [request.echoed] * 2 == found


@pytest.mark.parametrize("padding", [0, 4_000, 70_000])
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_a_body_may_come_in_a_read_of_its_own(url: str, framing: str, padding: int) -> None:
    request = FRAMINGS[framing].padded(padding)
    pieces = (request.head, request.sent[len(request.head) :])
    with connected(url) as client:
        assert [request.echoed] * 3 == [exchange(client, *pieces) for _ in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_pipelined_requests_with_offers_may_be_cut_anywhere(url: str, framing: str) -> None:
    one, two, three = (FRAMINGS[framing].at(f"/{number}") for number in (1, 2, 3))
    two, three = replace(two, offer=(b"host: x",)), replace(three, offer=(*JAVA, b"connection: close"))
    sent = one.sent + two.sent + three.sent
    for cut in range(1, len(sent), 5):
        with connected(url) as client:
            send_apart(client, (sent[:cut], sent[cut:]))
            answers = echoed(received(client))
        assert [one.echoed, two.echoed, three.echoed] == answers, f"cut at {cut}"


def test_an_offer_without_a_body_takes_nothing_of_what_follows(url: str) -> None:
    plain = b"GET /%d HTTP/1.1\r\n" + b"\r\n".join(JAVA) + b"\r\n\r\n"
    last = b"GET /3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with connected(url) as client:
        client.sendall(plain % 1 + plain % 2 + last)
        assert [["GET", f"/{number}", ""] for number in (1, 2, 3)] == echoed(received(client))


def test_an_offer_in_a_trailer_is_none(url: str) -> None:
    trailers = b"0\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    request = Request(is_chunked=True, offer=(b"host: x",))
    with connected(url) as client:
        sent = request.sent.removesuffix(b"0\r\n\r\n") + trailers
        assert [request.echoed] * 2 == [exchange(client, sent) for _ in range(2)]


def test_the_offer_of_a_request_that_ends_its_connection_is_ignored_too(url: str) -> None:
    request = Request(offer=(b"host: x", b"connection: close, upgrade", b"upgrade: h2c"))
    assert [request.echoed] == echoed(talk(url, request.sent))


def test_a_head_with_an_offer_is_bounded_as_any_other(url: str) -> None:
    """One that comes in one piece."""
    request = Request(offer=(*JAVA, b"x: " + b"y" * 65_000, b"x: " + b"y" * 1_000))
    assert 431 == only(talk(url, request.sent)).status


def only(raw: bytes) -> Reply:
    (reply,) = replies(raw)
    return reply


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("target", [b"x:443", b"/1"])
@pytest.mark.parametrize("offer", [(b"host: x",), JAVA])
def test_a_tunnel_is_refused_once_and_nothing_behind_it_is_read(
    url: str, target: bytes, before: int, offer: tuple[bytes, ...]
) -> None:
    sent = Request(b"CONNECT", target, offer=offer).sent
    with connected(url) as client:
        for _ in range(before):
            exchange(client, Request().sent)
        client.sendall(sent + SMUGGLED * 2)
        reply = only(received(client))
    assert (400, "close") == (reply.status, reply.headers["connection"])
