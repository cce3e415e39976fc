"""Strangers who send without end, or never read: what one connection may cost, in a process of its own."""

import asyncio
import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
from starlette.responses import PlainTextResponse

from gateway.server.config import Bounds, ConnectionLimits, server_config
from gateway.server.shutdown import Server
from gateway.server.sockets import bind
from tests.support.attack_vectors import FLOODS, PARTS
from tests.support.harness import Gateway, Simulator, new_key, wait_until
from tests.support.processes import start_gateway, write_configuration
from tests.support.strangers import HEALTH, connected, received, replies, resident_mb, talk

pytestmark = pytest.mark.slow

LIMITS = ConnectionLimits()
GROWTH_MAX_MB = 40
"""What requests of a mebibyte need, and far below what the floods below made of one connection."""
FLOOD_BYTES = 100_000_000


@dataclass(frozen=True)
class Process:
    """`imagegate serve`."""

    process: subprocess.Popen[bytes]
    gateway: Gateway

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def peak_mb(self) -> int:
        return resident_mb(self.process.pid)

    @property
    def is_well(self) -> bool:
        return 200 == self.gateway.generate(prompt="a cat", response_format="url").status_code


@pytest.fixture(scope="module")
def running(
    one_redis_server: str, one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    bounds = "[server]\nheader_timeout_s = 2\nbody_timeout_s = 2\nwrite_timeout_s = 2\n"
    path = write_configuration(tmp_path_factory.mktemp("g"), one_redis_server, one_simulator.url)
    path.write_text(bounds + path.read_text())
    process, url = start_gateway(path)
    try:
        yield Process(process, Gateway(url, new_key(url)))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "reads", [pytest.param(True, id="reading"), pytest.param(False, id="not reading", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", list(FLOODS))
def test_a_flood_is_cut_off_and_costs_no_memory(running: Process, kind: str, *, reads: bool) -> None:
    assert running.is_well
    before_mb = running.peak_mb
    with connected(running.url, receive_bytes=0 if reads else 2048) as client:
        sent = flood(client, *FLOODS[kind], reads=reads)
    assert sent < FLOOD_BYTES
    assert running.is_well
    assert running.peak_mb - before_mb < GROWTH_MAX_MB


def flood(client: socket.socket, begin: bytes, piece: bytes, *, reads: bool) -> int:
    """How many bytes the server took before it closed, or all of them."""
    reader = threading.Thread(target=received, args=(client,), daemon=True)
    sent = 0
    with suppress(OSError):
        client.sendall(begin)
        if reads:
            reader.start()
        while sent < FLOOD_BYTES:
            client.sendall(piece)
            sent += len(piece)
    if reads:
        reader.join(20)
    return sent


def test_a_body_that_nobody_reads_costs_no_memory(running: Process) -> None:
    """A hundred strangers begin bodies of a gibibyte and send what is taken of them."""
    assert running.is_well
    before_mb = running.peak_mb
    begin = b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(connected(running.url))
            client.sendall(begin + b"x" * 65536)
        assert running.is_well
    assert running.peak_mb - before_mb < GROWTH_MAX_MB


@pytest.mark.parametrize("kind", list(PARTS))
def test_a_body_of_millions_of_parts_is_refused_before_it_is_taken_apart(running: Process, kind: str) -> None:
    """It has 16 MiB, as a native request may: millions of objects would hold everybody up for seconds."""
    assert running.is_well
    before_mb = running.peak_mb
    answer = running.gateway.post("/v1/image_generation", PARTS[kind])
    assert 2013 == answer.json()["base_resp"]["status_code"]
    assert "it has too many values" in answer.json()["base_resp"]["status_msg"]
    assert running.peak_mb - before_mb < 2 * 16 + GROWTH_MAX_MB


def test_requests_sent_ahead_are_answered_up_to_a_number(running: Process) -> None:
    """In order, and then the connection ends: the rest has to be sent again."""
    first = replies(talk(running.url, HEALTH * (LIMITS.pipelined_max + 1 + 1000)))
    assert [200] * (LIMITS.pipelined_max + 1) == [reply.status for reply in first]
    assert "close" == first[-1].headers["connection"]


def test_idle_connections_keep_nobody_out_and_end(running: Process) -> None:
    assert running.is_well
    before_mb = running.peak_mb
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(running.url)) for _ in range(300)]
        assert running.is_well
        assert [b""] * 300 == [received(client) for client in idle]
    assert running.peak_mb - before_mb < GROWTH_MAX_MB


@contextmanager
def answering(body: str, write_timeout_s: float = 0.3, bounds: Bounds | None = None) -> Iterator[tuple[str, Server]]:
    """A program with one answer, in a server whose sockets hold little of it."""
    config = server_config(PlainTextResponse(body), 5)
    config.lifespan = "off"
    config.connection_limits = ConnectionLimits(write_timeout_s=write_timeout_s)
    config.bounds = bounds or Bounds()
    server, listener = Server(config), bind("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server starts")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(20)


def test_an_answer_that_is_never_read_does_not_keep_a_closed_connection() -> None:
    """It is too small to stop the program that writes it, and too large for the sockets."""
    with answering("y" * 50_000) as (url, server), connected(url, receive_bytes=2048) as client:
        client.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        wait_until(lambda: server.server_state.total_requests == 1, "it is answered")
        wait_until(lambda: not server.server_state.connections, "its connection is given up")


def test_an_answer_that_is_being_read_is_not_cut_off_for_a_new_connection() -> None:
    """Its request is done, and most of its bytes are still in the process."""
    size = 2_000_000
    with answering("y" * size, 60, Bounds(in_all=1)) as (url, server), connected(url, receive_bytes=2048) as client:
        client.sendall(HEALTH)
        wait_until(lambda: server.server_state.total_requests == 1, "it is answered")
        assert b"" == talk(url, HEALTH)
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < size:
            answer += client.recv(65536)
        assert [(200, size)] == [(reply.status, len(reply.body)) for reply in replies(answer)]
        assert 200 == replies(talk(url, HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")))[0].status
