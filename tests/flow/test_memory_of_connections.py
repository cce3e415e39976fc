"""What strangers' connections hold besides requests that a program reads, and places that they hold by not reading."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.connections import MANY, MB, STRANGER, TENANT, connect, is_served, over_bound, serves, started
from tests.support.harness import Gateway, Simulator, new_key, wait_until
from tests.support.processes import write_configuration
from tests.support.strangers import HEALTH, private_bytes

pytestmark = pytest.mark.slow

POST = (
    b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
ANSWERED = {
    "a long header": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 60_000 + b"\r\n\r\n",
    "a long target": b"GET /healthz?" + b"y" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "many fields": b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * 250 + b"\r\n",
    "a body that no program reads": POST % 200_000 + b"x" * 200_000,
}
PAGE = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
"""The largest response that needs no key: 180 KiB. 31 of them are more than any kernel buffers."""
BODY = POST % 50_000_000 + b"x" * 9_000_000
PIPELINED = {
    "a body behind answered requests": HEALTH * 18 + PAGE * 12 + BODY,
    "a body behind an unread response": PAGE * 31 + BODY,
    "many fields behind an unread response": PAGE * 20
    + (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * 250 + b"\r\n") * 11,
}


@pytest.fixture
def configuration(tmp_path: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url)


@pytest.fixture
def gateway(configuration: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Its unfinished heads and pipelined requests may hold 8 MiB."""
    with started(configuration, max_memory_bytes=64 * MB, write_timeout_s=600) as found:
        yield found


def unread(url: str, sent: bytes, source: str = STRANGER) -> socket.socket:
    """A connection on which requests are sent, as far as the server takes them, and no response is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.bind((source, 0))
    host, _, port = url.partition("://")[2].partition(":")
    client.connect((host, int(port)))
    client.settimeout(0.5)
    with suppress(OSError):
        client.sendall(sent)
    return client


@pytest.mark.parametrize("kind", list(ANSWERED))
def test_an_idle_connection_keeps_nothing_of_its_last_request(
    gateway: tuple[subprocess.Popen[bytes], str], kind: str
) -> None:
    process, url = gateway
    with ExitStack() as stack:
        for _ in range(20):  # what the program loads with its first requests
            assert is_answered(stack.enter_context(connect(url)), ANSWERED[kind])
        before_bytes = private_bytes(process.pid)
        for _ in range(500):
            assert is_answered(stack.enter_context(connect(url)), ANSWERED[kind])
        assert private_bytes(process.pid) - before_bytes < 12 * MB


def is_answered(client: socket.socket, request: bytes) -> bool:
    client.sendall(request)
    return client.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("kind", list(PIPELINED))
def test_pipelined_requests_hold_no_more_than_their_bound(
    gateway: tuple[subprocess.Popen[bytes], str], kind: str
) -> None:
    process, url = gateway
    with ExitStack() as stack:
        before_bytes = private_bytes(process.pid)
        count = 150 if PIPELINED[kind].endswith(b"\r\n") else 40
        for _ in range(count):
            stack.enter_context(unread(url, PIPELINED[kind]))
        assert private_bytes(process.pid) - before_bytes < 30 * MB
        assert serves(Gateway(url, new_key(url)))


def test_the_kernel_takes_little_of_responses_that_no_client_reads(
    gateway: tuple[subprocess.Popen[bytes], str],
) -> None:
    """No bound of the process counts what the kernel holds, megabytes a connection unless it is kept from that."""
    _, url = gateway
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(unread(url, PAGE * 31))
        time.sleep(2)  # there is no event for nothing more to come
        assert 10 <= pages_sent(url) <= 50


def pages_sent(url: str) -> int:
    """How many responses with the page are complete, for the gateway."""
    text = httpx.get(f"{url}/metrics", verify=False, timeout=30).text
    (found,) = re.findall(r'imagegate_requests_total\{[^}]*route="/openapi.json"[^}]*\} (\S+)', text)
    return int(float(found))


@pytest.mark.parametrize("pages", [2, 31], ids=["all responses are complete", "one is in flight"])
def test_connections_with_an_unread_response_make_room(configuration: Path, pages: int) -> None:
    """Strangers of few addresses that read nothing shut no tenant out."""
    with started(configuration, max_connections=8, write_timeout_s=600) as (_, url), ExitStack() as stack:
        key, number = new_key(url), 0
        while is_served(stack.enter_context(connect(url, TENANT))):
            stack.enter_context(unread(url, PAGE * pages, MANY[number % 4]))
            number += 1
        wait_until(lambda: serves_at(url, key), "a tenant is served", 30)
        assert over_bound(url)["process", "closed"] >= 1


def serves_at(url: str, key: str) -> bool:
    try:
        return serves(Gateway(url, key))
    except httpx.TransportError:
        return False


def test_a_response_that_is_read_slowly_is_not_cut_off_for_a_new_connection(configuration: Path) -> None:
    with started(configuration, max_connections=4, max_connections_per_address=4) as (_, url), ExitStack() as stack:
        readers = [stack.enter_context(unread(url, PAGE * 31, TENANT)) for _ in range(4)]
        for _ in range(16):  # longer than a response counts as unread
            for reader in readers:
                assert reader.recv(65536)
            assert not is_served(stack.enter_context(connect(url)))
            time.sleep(0.5)
        assert all(reader.recv(65536) for reader in readers)
