"""A call is repeated only with the time that it needs: one that is cut off is charged, and gives no picture."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.errors import ErrorCode
from tests.support.admissions import connected, ledger
from tests.support.harness import serving, wait_until
from tests.support.upstreams import ONE_AT_ONCE, Site, fault_of, running

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

DEADLINE_S = 3.0
LATE_S = 2.5
"""When so much has passed, less than half a second is left."""
SLOW_S = 1.0


@dataclass
class Timed:
    """An upstream that answers its calls one after the other: (seconds, code), 0 for a picture; the last one stays."""

    answers: list[tuple[float, int]]
    calls: int = 0
    url: str = field(default="", init=False)

    async def answer(self, request: Request) -> Response:
        await request.body()
        seconds, code = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        await asyncio.sleep(seconds)
        data = {} if code else {"data": {"image_urls": ["https://cdn.hailuoai.com/x.jpg"]}}
        body = data | {"base_resp": {"status_code": code, "status_msg": ""}}
        return Response(msgspec.json.encode(body), media_type="application/json")


@asynccontextmanager
async def answering(*upstreams: Timed) -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        if not upstreams:
            yield
            return
        first, *others = upstreams
        with serving(Starlette(routes=[Route("/v1/image_generation", first.answer, methods=["POST"])])) as first.url:
            async with answering(*others):
                yield


@pytest.mark.parametrize("code", [1000, 2049, 1002])
async def test_before_any_call_delivered_the_reserve_must_be_left(redis_url: str, code: int) -> None:
    upstream = Timed([(LATE_S, code), (0.0, 0)])
    async with answering(upstream), connected(redis_url) as redis:
        site = Site("up", upstream.url, ("a/a-1", "b/b-1"))
        async with running(redis_url, site, deadline_s=DEADLINE_S, reserve_s=SLOW_S) as make:
            assert await fault_of(make) in {
                ErrorCode.UPSTREAM_ERROR,
                ErrorCode.KEY_INVALID,
                ErrorCode.ACCOUNT_RATE_LIMITED,
            }
        [(_, line)] = await ledger(redis)
    assert (1, "refused", "0") == (upstream.calls, line["outcome"], line["usd_micros"])


@pytest.mark.parametrize("code", [1000, 2049, 1002])
async def test_a_call_is_not_repeated_with_less_time_than_calls_lately_took(redis_url: str, code: int) -> None:
    upstream = Timed([(SLOW_S, 0), (LATE_S, code), (SLOW_S, 0)])
    async with answering(upstream), connected(redis_url) as redis:
        site = Site("up", upstream.url, ("a/a-1", "b/b-1"))
        async with running(redis_url, site, deadline_s=DEADLINE_S) as make:
            await make()
            assert await fault_of(make) in {
                ErrorCode.UPSTREAM_ERROR,
                ErrorCode.KEY_INVALID,
                ErrorCode.ACCOUNT_RATE_LIMITED,
            }
        lines = [line for _, line in await ledger(redis)]
    assert (2, ["delivered", "refused"]) == (upstream.calls, [line["outcome"] for line in lines])


@pytest.mark.parametrize("is_known", [False, True])
async def test_the_next_target_is_not_asked_with_less_time_than_it_takes(redis_url: str, *, is_known: bool) -> None:
    first = Timed([(0.0, 1000), (LATE_S, 1000)] if is_known else [(LATE_S, 1000)])
    second = Timed([(SLOW_S, 0)])
    async with answering(first, second), connected(redis_url) as redis:
        sites = (Site("first", first.url, ("a/a-1",)), Site("second", second.url, ("b/b-1",)))
        reserve_s = 0.0 if is_known else SLOW_S
        async with running(redis_url, *sites, deadline_s=DEADLINE_S, reserve_s=reserve_s) as make:
            if is_known:
                await make()
            assert ErrorCode.UPSTREAM_ERROR is await fault_of(make)
        line = (await ledger(redis))[-1][1]
    assert (int(is_known), "refused") == (second.calls, line["outcome"])


async def test_a_repetition_does_not_wait_until_too_little_time_is_left(redis_url: str) -> None:
    """The first account's key is dead; the other account is busy until only half a second is left."""
    upstream = Timed([(2 * SLOW_S, 0), (LATE_S, 0), (0.0, 2049), (0.0, 0)])
    async with answering(upstream):
        site = Site("up", upstream.url, ("a/a-1", "b/b-1"), limits=ONE_AT_ONCE)
        async with running(redis_url, site, deadline_s=DEADLINE_S, max_wait_s=60.0) as make:
            await make()
            slow = asyncio.ensure_future(make())
            await asyncio.to_thread(wait_until, lambda: upstream.calls == 2, "the slow call arrives")
            await fault_of(make)
            assert not slow.done()
            await slow
    assert 3 == upstream.calls


async def test_with_time_left_a_call_is_repeated(redis_url: str) -> None:
    upstream = Timed([(SLOW_S, 0), (0.0, 1000), (0.0, 0)])
    async with answering(upstream), running(redis_url, Site("up", upstream.url, ("a/a-1", "b/b-1"))) as make:
        await make()
        await make()
    assert 3 == upstream.calls


async def test_a_first_call_may_begin_with_little_time(redis_url: str) -> None:
    """It is the only one that the request has."""
    upstream = Timed([(0.0, 0)])
    async with (
        answering(upstream),
        running(redis_url, Site("up", upstream.url), deadline_s=DEADLINE_S, reserve_s=60.0) as make,
    ):
        await make()
    assert 1 == upstream.calls
