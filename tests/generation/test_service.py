"""The use case without a socket: a plain context is all that a caller needs."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.domain.billing import BatchLine
from gateway.domain.errors import ErrorCode
from gateway.domain.tenants import Rates
from gateway.generation.context import RequestContext
from tests.support.harness import Simulator
from tests.support.upstreams import ONE_AT_ONCE, Site, fault_of, running

pytestmark = pytest.mark.anyio

Make = Callable[..., Any]


def context(**given: Any) -> RequestContext:
    return RequestContext("req_1", time.monotonic(), **given)


async def test_a_context_says_what_became_of_its_request(redis_url: str, simulator: Simulator) -> None:
    own = context()
    async with running(redis_url, Site("sim", simulator.url, per_call=1)) as make:
        result = await make(2, "a lake", context=own)
    assert (2, 0) == (len(result.pictures), result.missing)
    assert ("image-01", 2, 2, 0) == (own.model, own.asked, own.delivered, own.missing)
    assert own.reservation is not None
    assert (7000, "delivered") == (own.reservation.charged_usd_micros, own.reservation.tally.settlement.value)
    assert (2, True) == (own.trace.attempts, own.trace.admit is not None)
    assert own.rates == own.reservation.rates


async def test_a_context_whose_deadline_has_passed_sends_nothing_and_costs_nothing(
    redis_url: str, simulator: Simulator
) -> None:
    simulator.reset()
    own = context(deadline_s=time.monotonic() - 1)
    async with running(redis_url, Site("sim", simulator.url)) as make:
        assert ErrorCode.DEADLINE is await fault_of(make, context=own)
    assert own.reservation is not None
    assert (0, 0, 0) == (own.reservation.charged_usd_micros, own.trace.attempts, simulator.images_billed())


async def test_a_batch_line_waits_for_an_idle_account_until_its_deadline(redis_url: str, simulator: Simulator) -> None:
    """Longer than `max_wait_s`, behind every interactive request, and as a line of its batch in the ledger."""
    own = context(batch=BatchLine("batch_1", "a"), deadline_s=time.monotonic() + 30)
    ended: list[str] = []

    async def run(name: str, make: Make, **job: Any) -> None:
        await make(**job)
        ended.append(name)

    async with running(redis_url, Site("sim", simulator.url, limits=ONE_AT_ONCE), max_wait_s=1, deadline_s=30) as make:
        first = asyncio.ensure_future(run("first", make, prompt="[delay=1]"))
        await asyncio.sleep(0.5)
        line = asyncio.ensure_future(run("line", make, context=own))
        await asyncio.sleep(0.2)
        assert not line.done()
        await asyncio.gather(first, line, run("interactive", make, prompt="[delay=1]"))
    assert ["first", "interactive", "line"] == ended
    assert own.reservation is not None
    assert (own.batch, Rates()) == (own.reservation.purchase.batch, own.rates)


async def test_a_disconnect_ends_the_wait_for_an_account(redis_url: str, simulator: Simulator) -> None:
    gone = asyncio.Event()
    async with running(redis_url, Site("sim", simulator.url, limits=ONE_AT_ONCE), max_wait_s=30, deadline_s=60) as make:
        first = asyncio.ensure_future(make(1, "[delay=2]"))
        await asyncio.sleep(0.5)
        waiting = asyncio.ensure_future(fault_of(make, context=context(disconnected=gone)))
        await asyncio.sleep(0.3)
        gone.set()
        assert ErrorCode.CLIENT_DISCONNECTED is await asyncio.wait_for(waiting, 20)
        await first
