"""An offer of another protocol is ignored in every head of a connection, and no byte of a body is read as a request."""

import json
import socket
import time
from collections.abc import Iterable, Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.flow.strangers import connected, received, replies
from tests.harness import serving

JAVA = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Host: x",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"Upgrade: h2c",
)
"""The head of a request of java.net.http over http://, which has these fields in each of them."""
OFFERS = {
    "h2c": JAVA,
    "websocket": (b"host: x", b"UPGRADE: websocket", b"connection: keep-alive,upgrade", b"sec-websocket-version: 13"),
    "two": (b"upgrade: a/1", b"host: x", b"connection: keep-alive", b"connection: upgrade", b"upgrade:b, c"),
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
FRAMED = {
    "length": (b"content-length: %d" % len(SMUGGLED), SMUGGLED),
    "chunks": (b"transfer-encoding: chunked", b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"),
}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps([scope["method"], scope["path"], body.decode()]).encode()
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(echo) as started:
        yield started


def request(path: str, offer: Iterable[bytes], framing: str, *more: bytes) -> bytes:
    """A POST whose body is a request itself."""
    field, body = FRAMED[framing]
    if framing == "chunks":
        body %= (SMUGGLED[:5], len(SMUGGLED) - 5, SMUGGLED[5:])
    return b"\r\n".join([b"POST %b HTTP/1.1" % path.encode(), *offer, *more, field, b"", body])


def echoed(raw: bytes) -> list[list[str]]:
    return [reply.document for reply in replies(raw)]


def exchange(client: socket.socket, *pieces: bytes) -> list[str]:
    """One answer to what is sent in these pieces."""
    send_apart(client, pieces)
    raw = client.recv(65536)
    while b"]" not in raw:
        raw += client.recv(65536)
    (answer,) = echoed(raw)
    return answer


def send_apart(client: socket.socket, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.001)  # arrives by itself, as a rule


EXPECTED = ["POST", "/1", SMUGGLED.decode()]


@pytest.mark.parametrize("framing", list(FRAMED))
@pytest.mark.parametrize("offer", list(OFFERS))
def test_each_request_of_a_kept_connection_may_offer_another_protocol(url: str, offer: str, framing: str) -> None:
    sent = request("/1", OFFERS[offer], framing)
    with connected(url) as client:
        assert [EXPECTED] * 4 == [exchange(client, sent) for _ in range(4)]


@pytest.mark.parametrize("framing", list(FRAMED))
def test_a_request_with_an_offer_may_be_cut_anywhere(url: str, framing: str) -> None:
    """The first of its connection, and a later one."""
    sent = request("/1", JAVA, framing)
    for cut in range(1, len(sent)):
        with connected(url) as client:
            answers = [exchange(client, sent[:cut], sent[cut:]) for _ in range(2)]
        assert [EXPECTED] * 2 == answers, f"cut at {cut}"


@pytest.mark.parametrize("framing", list(FRAMED))
def test_a_request_with_an_offer_may_come_byte_by_byte(url: str, framing: str) -> None:
    sent = request("/1", JAVA, framing)
    with connected(url) as client:
        assert [EXPECTED] * 2 == [exchange(client, *(bytes([byte]) for byte in sent)) for _ in range(2)]


@pytest.mark.parametrize("framing", list(FRAMED))
def test_pipelined_requests_with_offers_may_be_cut_anywhere(url: str, framing: str) -> None:
    offers = (JAVA, (b"host: x",), JAVA)
    paths = ("/1", "/2", "/3")
    closing = [b"x: y", b"x: y", b"connection: close"]
    sent = b"".join(
        request(path, offer, framing, more) for path, offer, more in zip(paths, offers, closing, strict=True)
    )
    for cut in range(1, len(sent), 3):
        with connected(url) as client:
            send_apart(client, (sent[:cut], sent[cut:]))
            answers = echoed(received(client))
        assert [["POST", path, SMUGGLED.decode()] for path in paths] == answers, f"cut at {cut}"


def test_an_offer_without_a_body_takes_nothing_of_what_follows(url: str) -> None:
    plain = b"GET /%d HTTP/1.1\r\n" + b"\r\n".join(JAVA) + b"\r\n\r\n"
    last = b"GET /3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with connected(url) as client:
        client.sendall(plain % 1 + plain % 2 + last)
        assert [["GET", f"/{number}", ""] for number in (1, 2, 3)] == echoed(received(client))


def test_an_offer_in_a_trailer_is_none(url: str) -> None:
    trailers = b"0\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    sent = request("/1", (b"host: x",), "chunks").removesuffix(b"0\r\n\r\n") + trailers
    with connected(url) as client:
        assert [EXPECTED] * 2 == [exchange(client, sent) for _ in range(2)]


def test_the_offer_of_a_request_that_ends_its_connection_is_ignored_too(url: str) -> None:
    sent = request("/1", (b"host: x", b"connection: close, upgrade", b"upgrade: h2c"), "length")
    with connected(url) as client:
        client.sendall(sent)
        assert [EXPECTED] == echoed(received(client))


def test_a_head_with_an_offer_is_bounded_as_any_other(url: str) -> None:
    """One that comes in one piece."""
    with connected(url) as client:
        client.sendall(request("/1", JAVA, "length", b"x: " + b"y" * 65_000, b"x: " + b"y" * 1_000))
        (reply,) = replies(received(client))
    assert 431 == reply.status


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("target", [b"x:443", b"/1"])
def test_a_tunnel_is_refused_once_and_nothing_behind_it_is_read(url: str, target: bytes, before: int) -> None:
    sent = b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 35\r\n\r\n"
    with connected(url) as client:
        for _ in range(before):
            exchange(client, request("/1", JAVA, "length"))
        client.sendall(sent + SMUGGLED * 2)
        (reply,) = replies(received(client))
    assert (400, "close") == (reply.status, reply.headers["connection"])
