"""A client that is refused while it sends: it reads why, and is cut off if it does not end."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.certificates import certify
from tests.support.harness import Gateway, Simulator
from tests.support.processes import started, tls, write_configuration
from tests.support.strangers import connected, received

MB = 1024 * 1024
HEAD = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
LENGTH = b"content-length: %d\r\n\r\n"
REFUSED = {
    "a request without a key": (HEAD + LENGTH % (12 * MB), b"HTTP/1.1 401"),
    "a head that is too large": (HEAD + b"x-large: " + b"y" * 70_000 + b"\r\n" + LENGTH % (12 * MB), b"HTTP/1.1 431"),
    "no HTTP": (b"garbage\r\n\r\n", b"HTTP/1.1 400"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_client_that_sends_on_reads_why_it_was_refused(gateway: Gateway, kind: str) -> None:
    head, status = REFUSED[kind]
    with connected(gateway.url) as client:
        client.sendall(head + b" " * (12 * MB if b"401" in status else MB // 2))
        assert received(client).startswith(status)


def test_a_client_that_sends_on_over_tls_reads_why_it_was_refused(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    with started(configuration, **tls(certify(configuration.parent))) as (_, url):
        host, port = url.removeprefix("https://").split(":")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((host, int(port)), 20) as plain, client.wrap_socket(plain) as connection:
            head, status = REFUSED["a request without a key"]
            connection.sendall(head + b" " * 12 * MB)
            assert connection.recv(4096).startswith(status)


def test_a_client_that_does_not_end_is_cut_off(gateway: Gateway) -> None:
    sent, piece = 0, b" " * MB
    with connected(gateway.url) as client, suppress(OSError):
        client.sendall(HEAD + LENGTH % (1024 * MB))
        while sent < 256:
            client.sendall(piece)
            sent += 1
    assert sent < 256
