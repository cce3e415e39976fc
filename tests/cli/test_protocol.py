"""What a stranger may send before anybody knows who it is, on a real socket."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from gateway.cli import protocol
from tests.harness import Gateway


@contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        yield client


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


FLOODS = {
    "one header": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-flood: ",
    "a path": b"GET /v1/",
    "many headers": b"GET /v1/models HTTP/1.1\r\nhost: x\r\n",
}


@pytest.mark.parametrize("kind", list(FLOODS))
def test_a_head_that_does_not_end_is_refused_early(gateway: Gateway, kind: str) -> None:
    piece = b"x-flood: y\r\n" * 1000 if kind == "many headers" else b"a" * 12_000
    sent = 0
    with connected(gateway) as client:
        client.sendall(FLOODS[kind])
        with suppress(OSError):  # the server has closed
            while sent < 5_000_000:
                client.sendall(piece)
                sent += len(piece)

    assert protocol.HEAD_MAX_BYTES - 12_000 < sent < 5_000_000
    assert 200 == gateway.get("/v1/models").status_code


def test_a_head_just_above_the_bound_is_told_why(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-flood: " + b"a" * protocol.HEAD_MAX_BYTES)
        status, error = answer_of(client)

    assert ("HTTP/1.1 431 Request Header Fields Too Large", "headers_too_large") == (status, error["code"])


@pytest.mark.parametrize(
    "garbage", [b"garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n"]
)
def test_what_is_no_http_is_answered_as_openai_does(gateway: Gateway, garbage: bytes) -> None:
    with connected(gateway) as client:
        client.sendall(garbage)
        status, error = answer_of(client)

    assert ("HTTP/1.1 400 Bad Request", "invalid_request_error") == (status, error["type"])


def test_a_large_body_behind_a_small_head_is_no_large_head(gateway: Gateway) -> None:
    answer = gateway.generate(prompt="a cat", user="u" * 900_000)

    assert 200 == answer.status_code


def test_a_connection_that_sends_no_head_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    with connected(gateway) as silent, connected(gateway) as slow:
        slow.sendall(b"GET /v1/models HTTP/1.1\r\nhost: ")

        assert (b"", b"") == (silent.recv(1), slow.recv(1))


def test_requests_that_follow_each_other_on_one_connection_are_each_served(gateway: Gateway) -> None:
    with connected(gateway) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
