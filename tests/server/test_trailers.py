"""Fields behind a body: none of them changes how the connection goes on, or what the next request is."""

from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.framings import TRAILERS, Request, echo, read_reply, send_apart
from tests.support.harness import serving
from tests.support.strangers import connected, received, replies

HOST = (b"host: x",)
CHUNKED = Request(is_chunked=True, offer=HOST)
BEFORE_TRAILERS = CHUNKED.sent.removesuffix(b"\r\n")
LAST = Request(b"GET", b"/v1/2", None, offer=(*HOST, b"connection: close"))
FRAMING = ("content-length", "transfer-encoding", "transfer-encoding, not chunked")
"""Trailers that are refused: their request is answered once, and the connection is closed."""


async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes a GET, and answers the rest before it has read the body."""
    if scope["type"] == "http" and scope["method"] == "POST":
        await send({"type": "http.response.start", "status": 405, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
    else:
        await echo(scope, receive, send)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(echo) as started:
        yield started


@pytest.fixture(scope="module")
def hasty_url() -> Iterator[str]:
    with serving(hasty) as started:
        yield started


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("trailer", list(TRAILERS))
def test_the_request_behind_a_trailer_is_served_or_the_connection_closed(
    url: str, trailer: str, *, is_cut: bool
) -> None:
    rest = TRAILERS[trailer] + b"\r\n\r\n" + LAST.sent
    with connected(url) as client:
        send_apart(client, [BEFORE_TRAILERS, rest] if is_cut else [BEFORE_TRAILERS + rest])
        found = replies(received(client))
    if trailer in FRAMING:
        assert [(400, "close")] == [(reply.status, reply.headers["connection"]) for reply in found]
    else:
        assert [CHUNKED.echoed, LAST.echoed] == [reply.document for reply in found]


@pytest.mark.parametrize("trailer", list(TRAILERS))
def test_a_trailer_behind_its_answer_takes_no_other_answer(hasty_url: str, trailer: str) -> None:
    """A proxy may have sent the next client's request by then, which a second answer would be taken for."""
    with connected(hasty_url) as client:
        client.sendall(BEFORE_TRAILERS)
        assert 405 == read_reply(client).status
        client.sendall(TRAILERS[trailer] + b"\r\n\r\n" + LAST.sent)
        found = [reply.document for reply in replies(received(client))]
    assert ([] if trailer in FRAMING else [LAST.echoed]) == found


def test_a_head_that_ends_its_connection_still_does(url: str) -> None:
    request = Request(is_chunked=True, offer=(*HOST, b"connection: close"))
    with connected(url) as client:
        trailer = b"connection: keep-alive\r\n\r\n"
        client.sendall(request.sent.removesuffix(b"\r\n") + trailer + LAST.sent)
        assert [request.echoed] == [reply.document for reply in replies(received(client))]


def test_a_url_that_is_none_is_refused_behind_an_answered_request(url: str) -> None:
    with connected(url) as client:
        client.sendall(CHUNKED.sent)
        assert CHUNKED.echoed == read_reply(client).document
        client.sendall(b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n")
        assert [400] == [reply.status for reply in replies(received(client))]
