"""What connections with TLS hold: TLS libraries have large buffers, and shrink none of them."""

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.server.config import TLS_BYTES
from tests.support.certificates import Files, certify
from tests.support.connections import MB, STRANGER, connect, is_served, started
from tests.support.harness import Simulator, wait_until
from tests.support.processes import log_of, tls, write_configuration
from tests.support.strangers import private_bytes

PAGE = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n%s\r\n"
"""The largest response that needs no key: 180 KiB."""
BURST = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 250000\r\n\r\n" + b"x" * 250_000
COUNT = 250

Started = tuple[subprocess.Popen[bytes], str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return certify(tmp_path)


@pytest.fixture
def configuration(tmp_path: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url)


@pytest.fixture
def gateway(configuration: Path, files: Files) -> Iterator[Started]:
    with started(configuration, **dict[str, object](tls(files))) as found:
        yield found


def wrapped(url: str, trusted: ssl.SSLContext, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(60)
    client.bind((STRANGER, 0))
    client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    return trusted.wrap_socket(client, server_hostname="127.0.0.1")


def response(client: socket.socket) -> int:
    """Reads one response. Returns the length of its body, or of what came of it."""
    head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    expected = int(re.findall(rb"content-length: (\d+)", head)[0])
    size = len(body)
    while size < expected and (part := client.recv(min(65536, expected - size))):
        size += len(part)
    return size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silent", "a burst", "a large response", "everything", "a large hello"])
def test_an_idle_connection_costs_what_is_counted_for_it(gateway: Started, files: Files, kind: str) -> None:
    process, url = gateway
    sent = {"a burst": [BURST], "a large response": [PAGE % b""], "everything": [PAGE % b"", PAGE % b"", BURST]}
    sent["a large hello"] = sent["everything"]
    trusted = files.trusted
    if kind == "a large hello":
        trusted.set_alpn_protocols(["http/1.1", *["x" * 255] * 240])

    def begin() -> None:
        if kind == "silent":
            stack.enter_context(connect(url))
            return
        client = stack.enter_context(wrapped(url, trusted))
        client.sendall(b"".join(sent[kind]))
        assert [response(client) > 0 for _ in sent[kind]] == [True] * len(sent[kind])
        if len(sent[kind]) > 1:
            with socket.socket(fileno=os.dup(client.fileno())) as beneath:
                beneath.sendall(b"\x17\x03\x03\x40\x00" + b"x" * 16_000)  # the largest record, but for its end

    with ExitStack() as stack:
        for _ in range(20):  # what the program loads with its first requests
            begin()
        before_bytes = private_bytes(process.pid)
        for _ in range(COUNT):
            begin()
        time.sleep(1)  # there is no event for the last of the handshakes
        assert private_bytes(process.pid) - before_bytes < COUNT * (
            TLS_BYTES if kind == "a large hello" else TLS_BYTES // 2
        )


@pytest.mark.slow
def test_memory_comes_back_after_connections_close(gateway: Started, files: Files) -> None:
    process, url = gateway
    with wrapped(url, files.trusted) as first:
        assert is_served(first)
    before_bytes = private_bytes(process.pid)
    with ExitStack() as stack:
        for _ in range(2 * COUNT):
            client = stack.enter_context(wrapped(url, files.trusted))
            client.sendall(BURST)
            assert response(client)
        assert private_bytes(process.pid) - before_bytes > 20 * MB
    wait_until(lambda: private_bytes(process.pid) - before_bytes < 18 * MB, "the memory is returned", 60)


@pytest.mark.slow
def test_connections_fit_into_half_of_the_memory_budget(configuration: Path, files: Files) -> None:
    settings = dict[str, object](tls(files)) | {"max_memory_bytes": 20 * TLS_BYTES}
    with started(configuration, **settings) as (_, url), ExitStack() as stack:
        clients = [stack.enter_context(wrapped(url, files.trusted)) for _ in range(25)]
        assert [False] * 15 + [True] * 10 == [is_served(client) for client in clients]
    (line,) = [line for line in log_of(configuration) if line["event"] == "connections_bounded"]
    assert ("info", 20, 8192) == (line["level"], line["max_connections"], line["configured"])


@pytest.mark.slow
@pytest.mark.parametrize("field", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
def test_responses_that_are_read_late_are_complete(gateway: Started, files: Files, field: bytes) -> None:
    _, url = gateway
    with wrapped(url, files.trusted) as quick, wrapped(url, files.trusted, receive_bytes=4096) as late:
        quick.sendall(PAGE % b"")
        size = response(quick)
        late.sendall(PAGE % b"" * 7 + PAGE % field)
        time.sleep(1)  # it is written as far as the kernel takes it
        assert [size] * 8 == [response(late) for _ in range(8)]
        assert is_served(late) == (not field)
