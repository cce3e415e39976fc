"""What a stranger may send before anybody knows who it is, on a real socket."""

import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.server.config import ConnectionLimits
from tests.support.harness import Gateway, MakeGateway, wait_until
from tests.support.strangers import connected

MAX_HEADER_BYTES = ConnectionLimits().max_header_bytes


def answer_of(client: socket.socket) -> tuple[str, dict[str, object]]:
    """Status line and error object of all that comes until the server closes."""
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"x-request-id: req_" in head
    assert b"content-type: application/json" in head
    error: dict[str, object] = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} == set(error)
    return head.partition(b"\r\n")[0].decode(), error


FLOOD_BYTES = 50_000_000
"""More than the socket buffers of both sides hold, which take what a busy server has not read yet."""
FLOODS = {
    "one header": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-flood: ",
    "a path": b"GET /v1/",
    "many headers": b"GET /v1/models HTTP/1.1\r\nhost: x\r\n",
}


@pytest.mark.parametrize("kind", list(FLOODS))
def test_a_head_that_does_not_end_is_refused_early(gateway: Gateway, kind: str) -> None:
    piece = b"x-flood: y\r\n" * 1000 if kind == "many headers" else b"a" * 12_000
    sent = 0
    with connected(gateway.url) as client:
        client.sendall(FLOODS[kind])
        with suppress(OSError):  # the server has closed
            while sent < FLOOD_BYTES:
                client.sendall(piece)
                sent += len(piece)

    least = 0 if kind == "many headers" else MAX_HEADER_BYTES - 12_000  # so many are refused for their number
    assert least < sent < FLOOD_BYTES
    assert 200 == gateway.get("/v1/models").status_code


def test_a_head_just_above_the_bound_is_told_why(gateway: Gateway) -> None:
    with connected(gateway.url) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-flood: " + b"a" * MAX_HEADER_BYTES)
        status, error = answer_of(client)

    assert ("HTTP/1.1 431 Request Header Fields Too Large", "headers_too_large") == (status, error["code"])


@pytest.mark.parametrize(
    "garbage", [b"garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n"]
)
def test_what_is_no_http_is_answered_as_openai_does(gateway: Gateway, garbage: bytes) -> None:
    with connected(gateway.url) as client:
        client.sendall(garbage)
        status, error = answer_of(client)

    assert ("HTTP/1.1 400 Bad Request", "invalid_request_error") == (status, error["type"])


def test_a_large_body_behind_a_small_head_is_no_large_head(gateway: Gateway) -> None:
    answer = gateway.generate(prompt="a cat", user="u" * 900_000)

    assert 200 == answer.status_code


IDLE: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "half a head": (b"GET /v1/models HTTP/1.1\r\nhost: ",),
    "the rest of a refused body": (
        b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n",
        b"x",
    ),
    "an empty line after an answer": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"),
}


@pytest.mark.parametrize("kind", list(IDLE))
def test_a_connection_that_brings_no_request_is_closed(make_gateway: MakeGateway, kind: str) -> None:
    gateway = make_gateway(server={"header_timeout_s": 0.3})
    with connected(gateway.url) as client:
        for piece in IDLE[kind]:
            client.sendall(piece)
            if piece.endswith(b"\r\n\r\n"):
                assert client.recv(65536).startswith(b"HTTP/1.1 ")
        client.settimeout(10)
        with suppress(ConnectionResetError):
            assert b"" == client.recv(65536)


def test_a_client_that_never_reads_is_cut_off(make_gateway: MakeGateway) -> None:
    """Its answer is larger than every buffer on the way, and it takes nothing of it."""
    gateway = make_gateway(server={"write_timeout_s": 0.3})
    body = b'{"prompt": "cats", "n": 9, "width": 2048, "height": 2048}'
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with connected(gateway.url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(head.encode() + body)
        port = int(gateway.url.rpartition(":")[2])
        wait_until(lambda: not is_established(port, client.getsockname()[1]), "the server gives the connection up")


def is_established(server_port: int, client_port: int) -> bool:
    """Whether the server's end of a connection is still open, as the kernel sees it."""
    ends = f":{server_port:04X} 0100007F:{client_port:04X} 01 "
    return ends in Path("/proc/net/tcp").read_text()


def test_a_wish_to_speak_http_2_is_ignored(gateway: Gateway) -> None:
    """curl --http2 and Java's client send it with ordinary requests."""
    wish = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
    answer = gateway.post("/v1/images/generations", {"prompt": "a cat"}, **wish)

    assert 200 == answer.status_code


def test_garbage_behind_a_request_does_not_cost_its_answer(gateway: Gateway) -> None:
    body = b'{"prompt": "a cat [delay=0.3]", "response_format": "url"}'
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with connected(gateway.url) as client:
        client.sendall(head.encode() + body + b"garbage\r\n\r\n")
        received = b""
        while chunk := client.recv(65536):
            received += chunk

    assert received.startswith(b"HTTP/1.1 200")
    assert b'"url"' in received


def test_requests_that_follow_each_other_on_one_connection_are_each_served(gateway: Gateway) -> None:
    with connected(gateway.url) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
