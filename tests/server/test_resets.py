"""Clients that reset their connection after a response: nothing of it is kept."""

import gc
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.server.protocol import LimitedHttpProtocol
from tests.support.certificates import certify
from tests.support.connections import is_served
from tests.support.harness import Simulator, document, environment, serving, upstream, wait_until

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which `close` resets a connection."""
COUNT = 300


@pytest.fixture(params=["plain", "tls"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, simulator: Simulator
) -> Iterator[tuple[int, ssl.SSLContext | None]]:
    """The port of a gateway of this process, and what its clients trust."""
    files = certify(tmp_path) if request.param == "tls" else None
    tables: dict[str, object] = {}
    if files:
        tables["tls"] = {"certificate": str(files.certificate), "key": str(files.key)}
    configured = document(redis_url, upstream("sim", "minimax", simulator.url), server=tables)
    environ = environment(configured)
    settings = from_document(configured, environ, "test")
    with serving(create_app(resolve(settings, environ)), settings) as url:
        yield int(url.rpartition(":")[2]), files.trusted if files else None


def protocols() -> int:
    """How many connections' protocols are in memory."""
    gc.collect()
    return sum(type(found) is LimitedHttpProtocol for found in gc.get_objects())


def test_a_connection_that_is_reset_after_its_response_is_forgotten(server: tuple[int, ssl.SSLContext | None]) -> None:
    port, trusted = server
    before = protocols()
    for _ in range(COUNT):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        if trusted:
            client = trusted.wrap_socket(client, server_hostname="127.0.0.1")
        with client:
            assert is_served(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    wait_until(lambda: protocols() < before + COUNT // 10, "the protocols are freed", 15)
