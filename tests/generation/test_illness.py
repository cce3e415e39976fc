"""An upstream that is ill as a whole: left alone, tried by one call, and never made worse by repeated ones."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.domain.accounts import PoolConfig
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ResponseFormat
from gateway.domain.tracing import Trace
from tests.support.harness import Simulator, serving
from tests.support.upstreams import Answer, Scripted, Site, fault_of, running

pytestmark = pytest.mark.anyio

OPEN_S = 0.5
BREAKER = PoolConfig(breaker_failures=3, breaker_open_s=OPEN_S)
KEYS = tuple(f"{name}/{name}-1" for name in "abc")


def started(stack: ExitStack, *answers: Answer, **scripts: list[Answer]) -> Scripted:
    """An upstream that gives these answers to each key, the last one for ever."""
    made = Scripted({name.replace("_", "-"): lines for name, lines in scripts.items()}, list(answers) or ["ok"])
    made.url = stack.enter_context(serving(made.app()))
    return made


@asynccontextmanager
async def ailing(redis_url: str, *sites: Site, **options: Any) -> AsyncIterator[Callable[..., Any]]:
    """Each job makes one call; the breaker opens after three bad ones."""
    chosen: dict[str, Any] = {"max_attempts": 1, "terms": BREAKER, "max_wait_s": 0.0} | options
    async with running(redis_url, *sites, **chosen) as make:

        async def make_encoded(**job: Any) -> Any:
            return await make(delivery=ResponseFormat.BASE64, **job)

        yield make_encoded


@pytest.mark.parametrize(
    "answer",
    [
        "http 502",
        "json 503",
        "http 521",
        "own 500",
        "http 504",
        "cut",
        "html",
        "empty",
        1000,
        1001,
        1033,
    ],
)
async def test_an_upstream_that_fails_again_and_again_is_left_alone(
    redis_url: str, stack: ExitStack, answer: Answer
) -> None:
    upstream = started(stack, answer)
    terms = PoolConfig(breaker_failures=3, breaker_open_s=60)
    async with ailing(redis_url, Site("up", upstream.url, KEYS), terms=terms) as make:
        for _ in range(3):
            assert await fault_of(make) is not ErrorCode.NO_HEALTHY_ACCOUNT
        assert [ErrorCode.NO_HEALTHY_ACCOUNT] * 5 == [await fault_of(make) for _ in range(5)]
    assert 3 == upstream.calls.total()


@pytest.mark.parametrize("answer", [1002, 1008, 1026, 2013, 2049, "ok"])
async def test_what_a_key_an_account_or_a_tenant_is_at_fault_for_ails_no_upstream(
    redis_url: str, stack: ExitStack, answer: Answer
) -> None:
    """Nor do failures with anything else between them: it answers, so it lives."""
    answers: list[Answer] = ["http 502", "http 502", answer] * 3
    upstream = started(stack, **{f"k_{number}": [each] for number, each in enumerate(answers)})
    keys = tuple(f"a{number}/k-{number}" for number in range(len(answers)))
    async with ailing(redis_url, Site("up", upstream.url, keys)) as make:
        for _ in answers:
            with suppress(GatewayError):
                await make()
    assert {f"k-{number}": 1 for number in range(len(answers))} == dict(upstream.calls)


async def test_an_upstream_that_cannot_be_reached_is_left_alone(redis_url: str) -> None:
    terms, trace = PoolConfig(breaker_failures=2, breaker_open_s=60), Trace()
    async with ailing(redis_url, Site("gone", "http://127.0.0.1:1", KEYS), terms=terms) as make:
        assert ErrorCode.CONNECT_FAILED is await fault_of(make)
        assert ErrorCode.NO_HEALTHY_ACCOUNT is await fault_of(make, trace=trace)
    assert [] == trace.calls


async def test_an_upstream_that_hangs_is_left_alone(redis_url: str, simulator: Simulator) -> None:
    terms = PoolConfig(breaker_failures=2, breaker_open_s=60)
    async with ailing(redis_url, Site("sim", simulator.url, KEYS), terms=terms, call_timeout_s=0.4) as make:
        assert [ErrorCode.READ_TIMEOUT] * 2 == [await fault_of(make, prompt="[hang]") for _ in range(2)]
        assert ErrorCode.NO_HEALTHY_ACCOUNT is await fault_of(make)
    assert 2 == simulator.invoice()["total"]["requests"]


async def test_an_upstream_is_not_to_blame_for_calls_that_the_deadline_cut_short(
    redis_url: str, simulator: Simulator
) -> None:
    """They had less time than a call is given: that there was no answer says nothing of it."""
    terms = PoolConfig(breaker_failures=2, breaker_open_s=60)
    async with ailing(redis_url, Site("sim", simulator.url, KEYS), terms=terms, deadline_s=0.4) as make:
        assert [ErrorCode.READ_TIMEOUT] * 4 == [await fault_of(make, prompt="[hang]") for _ in range(4)]
        assert 1 == len((await make()).pictures)


async def test_after_its_rest_one_call_tries_an_upstream_and_all_are_served_when_it_is_well(
    redis_url: str, stack: ExitStack
) -> None:
    upstream = started(stack, "http 502", "ok")
    async with ailing(redis_url, Site("up", upstream.url, KEYS)) as make:
        for _ in range(3):
            await fault_of(make)
        await asyncio.sleep(OPEN_S + 0.1)
        assert 1 == len((await make()).pictures)
        assert [1] * 6 == [len(made.pictures) for made in await asyncio.gather(*(make() for _ in range(6)))]
    assert 3 + 1 + 6 == upstream.calls.total()


async def test_an_upstream_that_is_still_ill_is_tried_by_one_call_and_rests_for_longer(
    redis_url: str, stack: ExitStack
) -> None:
    upstream = started(stack, "http 502")
    async with ailing(redis_url, Site("up", upstream.url, KEYS)) as make:
        for _ in range(3):
            await fault_of(make)
        await asyncio.sleep(OPEN_S + 0.1)
        error_codes = Counter(await asyncio.gather(*(fault_of(make) for _ in range(10))))
        assert 1 == error_codes[ErrorCode.INVALID_RESPONSE]
        assert 9 == error_codes[ErrorCode.NO_HEALTHY_ACCOUNT] + error_codes[ErrorCode.NO_CAPACITY]
        assert 4 == upstream.calls.total()
        resting_until = time.monotonic() + 2 * OPEN_S - 0.3
        while time.monotonic() < resting_until:
            assert ErrorCode.NO_HEALTHY_ACCOUNT is await fault_of(make)
            await asyncio.sleep(0.05)
    assert 4 == upstream.calls.total()


@pytest.mark.parametrize("answer", ["own 502", 1000, "empty"])
async def test_an_ill_first_target_is_followed_by_the_second_and_soon_not_asked(
    redis_url: str, stack: ExitStack, answer: Answer
) -> None:
    first, second = started(stack, answer), started(stack)
    sites = (Site("first", first.url, KEYS), Site("second", second.url, ("d/d-1",)))
    terms = PoolConfig(breaker_failures=3, breaker_open_s=60)
    async with ailing(redis_url, *sites, terms=terms, max_attempts=3) as make:
        assert [1] * 11 == [len((await make()).pictures) for _ in range(11)]
    assert 3 == first.calls.total()
    assert 11 == second.images == second.calls.total()


async def test_repeated_calls_are_a_fifth_of_all_at_the_most(redis_url: str, stack: ExitStack) -> None:
    """An outage of a hundred requests, of which each might be sent three times."""
    upstream = started(stack, 1000)
    keys = tuple(f"{name}/{name}-1" for name in "abcdefgh")
    async with ailing(
        redis_url, Site("up", upstream.url, keys), terms=PoolConfig(breaker_failures=1000), max_attempts=3
    ) as make:
        for _ in range(5):
            error_codes = await asyncio.gather(*(fault_of(make) for _ in range(20)))
            assert {ErrorCode.UPSTREAM_ERROR} == set(error_codes)
    assert 100 < upstream.calls.total() <= 100 + 20 + 3


async def test_the_first_of_the_retry_budget_are_for_every_upstream_of_its_own(
    redis_url: str, stack: ExitStack
) -> None:
    """What one upstream's outage used up is not taken from another."""
    ill, hiccup = started(stack, 1000), started(stack, x_1=[1000, "ok"])
    terms = PoolConfig(breaker_failures=1000)
    async with ailing(redis_url, Site("ill", ill.url, KEYS), terms=terms, max_attempts=3) as make:
        await asyncio.gather(*(fault_of(make) for _ in range(30)))
    async with ailing(redis_url, Site("hiccup", hiccup.url, ("x/x-1", "y/y-1")), terms=terms, max_attempts=3) as make:
        assert 1 == len((await make()).pictures)


@pytest.mark.parametrize("answer", [1002, 1008, 1041, 2056])
async def test_an_account_s_fault_is_never_met_twice_by_one_job(
    redis_url: str, stack: ExitStack, answer: Answer
) -> None:
    upstream = started(stack, answer)
    keys = ("a/a-1", "a/a-2", "b/b-1", "b/b-2", "c/c-1", "c/c-2")
    async with ailing(redis_url, Site("up", upstream.url, keys), max_attempts=6) as make:
        await fault_of(make)
    assert ["a", "b", "c"] == sorted(key[0] for key in upstream.calls.elements())


async def test_bad_keys_are_passed_over_although_the_retry_budget_is_used_up(redis_url: str, stack: ExitStack) -> None:
    """They are out by then: nothing is made worse, and the clients notice nothing."""
    bad: dict[str, list[Answer]] = {f"k_{number}": [2049] for number in range(8)}
    upstream = started(stack, **bad)
    keys = (*(f"a{number}/k-{number}" for number in range(8)), "good/good-1")
    async with ailing(redis_url, Site("up", upstream.url, keys), max_attempts=9) as make:
        assert [1] * 4 == [len((await make()).pictures) for _ in range(4)]
