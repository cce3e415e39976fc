"""Asking free pages, against the simulator.

What pool and roster know is told by hand, so that every case can be made.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.errors import ErrorCode, KeyState
from gateway.generation.key_checks import KeyHealthMonitor, Suspects
from gateway.generation.transport import AiohttpTransport
from gateway.redis import KEY_CHECK_LEADER, PREFIX, LeaderLock
from gateway.scheduler.status import Health
from tests.support.admissions import connected
from tests.support.harness import Simulator, serving
from tests.support.pages import asking, serving_page
from tests.support.probing import Books, Told, account, books, key, quarantined

pytestmark = pytest.mark.anyio


NOW = 1_800_000_000
PLAN: dict[str, object] = {
    "model_name": "image-01",
    "remains_time": 7_200_000,
    "current_interval_total_count": 100,
}


def cooling(error_code: ErrorCode, left_s: int = 18_000) -> Health:
    return Health(state=KeyState.COOLING, error_code=error_code.value, until_s=NOW + left_s)


@asynccontextmanager
async def probing(
    redis_url: str, url: str, found: Books, every_s: float = 60.0, provider: str = "minimax"
) -> AsyncIterator[KeyHealthMonitor]:
    """A prober that does not wait between its questions and has the turn."""
    async with connected(redis_url) as redis, AiohttpTransport() as transport:
        turn = LeaderLock(redis, KEY_CHECK_LEADER, "me", every_s)
        await turn.acquire()
        yield KeyHealthMonitor(
            asking(transport, url, provider),
            found,
            found,
            turn,
            lambda: 0.0,
            Suspects(lambda: 0.0),
            every_s=every_s,
            clock=lambda: NOW,
        )


async def told_after_a_round(redis_url: str, url: str, found: Books) -> list[Told]:
    async with probing(redis_url, url, found) as prober:
        await prober.check_unhealthy()
    return found.told


async def test_keys_that_work_again_come_back_and_the_others_rest_on(redis_url: str, simulator: Simulator) -> None:
    keys = [
        key("good-1", ErrorCode.KEY_INVALID),
        key("dead-1", ErrorCode.KEY_INVALID),
        key("good-2"),
        key("good-3", standing=cooling(ErrorCode.ACCOUNT_RATE_LIMITED)),
        key("good-4", standing=Health(state=KeyState.HALF_OPEN, error_code=ErrorCode.KEY_INVALID.value)),
    ]
    told = await told_after_a_round(redis_url, simulator.url, books(account(*keys)))
    assert [
        ("main/good-1", True, ErrorCode.KEY_INVALID, None),
        ("main/dead-1", False, ErrorCode.KEY_INVALID, 900.0),
    ] == told


async def test_a_rest_goes_on_beyond_the_next_round(redis_url: str, simulator: Simulator) -> None:
    """Otherwise somebody's request would be spent on a key that is known to be dead."""
    found = books(account(key("dead-1", ErrorCode.KEY_INVALID)))
    async with probing(redis_url, simulator.url, found, every_s=3600) as prober:
        await prober.check_unhealthy()
    assert [("main/dead-1", False, ErrorCode.KEY_INVALID, 7200.0)] == found.told


async def test_of_a_quarantined_account_one_key_is_asked_that_is_well_itself(
    redis_url: str, simulator: Simulator
) -> None:
    keys = [key("dead-1", ErrorCode.KEY_INVALID), key("good-1"), key("good-2")]
    found = books(account(*keys, standing=quarantined(ErrorCode.INSUFFICIENT_BALANCE)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/good-1", True, ErrorCode.INSUFFICIENT_BALANCE, None)] == told


async def test_an_account_without_balance_rests_on(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("broke-1"), key("broke-2"), standing=quarantined(ErrorCode.INSUFFICIENT_BALANCE)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/broke-1", False, ErrorCode.INSUFFICIENT_BALANCE, 900.0)] == told


async def test_of_a_quarantined_upstream_one_key_is_asked(redis_url: str, simulator: Simulator) -> None:
    accounts = [account(key(f"good-{name}", ErrorCode.KEY_INVALID, name)) for name in ("a", "b")]
    found = books(*accounts, standing=quarantined(ErrorCode.KEY_INVALID))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("a/good-a", True, ErrorCode.KEY_INVALID, None)] == told


async def test_a_rest_for_a_fault_of_another_version_is_left_to_its_time(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("good-1", standing=Health(state=KeyState.QUARANTINED, error_code="fault_of_tomorrow"))))
    assert [] == await told_after_a_round(redis_url, simulator.url, found)


async def test_a_key_is_told_to_rest_for_what_is_wrong_with_it_now(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("broke-1", ErrorCode.KEY_INVALID)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/broke-1", False, ErrorCode.INSUFFICIENT_BALANCE, 900.0)] == told


async def test_what_a_person_holds_back_or_nobody_here_knows_is_not_asked(redis_url: str) -> None:
    app, seen = serving_page({"base_resp": {"status_code": 0}})
    invalid = ErrorCode.KEY_INVALID
    found = books(
        account(key("good-1", invalid, "off"), standing=Health(state=KeyState.DISABLED, held_by="alice")),
        account(key("good-2", invalid, "draining"), standing=Health(state=KeyState.DRAINING, held_by="alice")),
        account(key("good-3", standing=quarantined(invalid, held_by="alice")), key("good-4", invalid)),
        account(key("good-5", account="b", standing=Health(state=KeyState.DISABLED)), standing=quarantined(invalid)),
    )
    del found.keys["main/good-4"]
    with serving(app) as url:
        assert [] == await told_after_a_round(redis_url, url, found)
    assert [] == seen


@pytest.mark.parametrize(
    "error_code", [ErrorCode.KEY_LIMIT_REACHED, ErrorCode.KEY_MODEL_DENIED, ErrorCode.ACCOUNT_UNVERIFIED]
)
async def test_what_no_page_shows_is_left_to_its_time(
    redis_url: str, simulator: Simulator, error_code: ErrorCode
) -> None:
    found = books(account(key("good-1", error_code)))
    assert [] == await told_after_a_round(redis_url, simulator.url, found)


async def test_a_list_of_models_brings_back_a_key_and_not_its_balance(redis_url: str) -> None:
    async def models(_: Request) -> Response:
        return Response(json.dumps({"object": "list", "data": []}))

    broke = quarantined(ErrorCode.INSUFFICIENT_BALANCE)
    found = books(account(key("good-1", ErrorCode.KEY_INVALID)), account(key("good-2", account="b"), standing=broke))
    with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        async with probing(redis_url, url, found, provider="302ai") as prober:
            await prober.check_unhealthy()
    assert [("main/good-1", True, ErrorCode.KEY_INVALID, None)] == found.told


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_an_answer_that_says_nothing_of_the_key_changes_nothing(redis_url: str, status: int) -> None:
    app, seen = serving_page({}, status)
    with serving(app) as url:
        found = books(account(key("good-1", ErrorCode.KEY_INVALID)))
        assert [] == await told_after_a_round(redis_url, url, found)
    assert ["good-1"] == seen


async def test_the_end_of_a_used_up_window_is_asked_for_at_every_round(redis_url: str) -> None:
    """It may be released early: somebody buys more."""
    row = PLAN | {"current_interval_usage_count": 100, "current_interval_remaining_percent": 0}
    app, _ = serving_page({"base_resp": {"status_code": 0}, "model_remains": [row]})
    found = books(account(key("good-1"), standing=cooling(ErrorCode.QUOTA_EXHAUSTED_PLAN)))
    with serving(app) as url:
        async with probing(redis_url, url, found) as prober:
            await prober.check_unhealthy()
            row |= {"current_interval_usage_count": 40, "current_interval_remaining_percent": 60}
            await prober.check_unhealthy()
    rested, lifted = (False, ErrorCode.QUOTA_EXHAUSTED_PLAN, 7200.0), (True, ErrorCode.QUOTA_EXHAUSTED_PLAN, None)
    assert [("main/good-1", *rested), ("main/good-1", *lifted)] == found.told


@pytest.mark.parametrize(
    ("left_s", "told"), [(7201, [("main/good-1", False, ErrorCode.QUOTA_EXHAUSTED_DAILY, 7200.0)]), (7200, [])]
)
async def test_a_page_that_leaves_doubt_can_only_shorten_the_rest(
    redis_url: str, left_s: int, told: list[Told]
) -> None:
    """Its counts may be those of the next window already, which ends much later."""
    row = PLAN | {"current_interval_usage_count": 0}
    app, _ = serving_page({"base_resp": {"status_code": 0}, "model_remains": [row]})
    found = books(account(key("good-1"), standing=cooling(ErrorCode.QUOTA_EXHAUSTED_DAILY, left_s)))
    with serving(app) as url:
        assert told == await told_after_a_round(redis_url, url, found)


async def test_a_key_that_cannot_be_settled_keeps_no_other(redis_url: str, simulator: Simulator) -> None:
    found = books(account(*(key(f"good-{number}", ErrorCode.KEY_INVALID) for number in range(3))))
    found.failures = [ErrorCode.REDIS_UNAVAILABLE]
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert ["main/good-1", "main/good-2"] == [name for name, *_ in told]


async def test_who_has_lost_the_turn_asks_no_more(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("good-1", ErrorCode.KEY_INVALID)))
    async with connected(redis_url) as redis, probing(redis_url, simulator.url, found) as prober:
        await redis.set(f"{PREFIX}:{KEY_CHECK_LEADER}", "you")
        await prober.check_unhealthy()
    assert [] == found.told


async def test_of_many_processes_one_asks_and_a_redis_that_fails_ends_none(redis_url: str) -> None:
    app, seen = serving_page({"base_resp": {"status_code": 0}}, delay_s=0.05)

    async def told(found: Books, count: int) -> None:
        while len(found.told) < count:  # noqa: ASYNC110 - the books know no event
            await asyncio.sleep(0.01)

    found = books(account(*(key(f"good-{number}", ErrorCode.KEY_INVALID) for number in range(3))))
    found.failures = [ErrorCode.REDIS_UNAVAILABLE, ErrorCode.REDIS_UNAVAILABLE]
    with serving(app) as url:
        async with AiohttpTransport() as transport, connected(redis_url) as redis:
            turns = [LeaderLock(redis, KEY_CHECK_LEADER, f"process-{number}", 1.0) for number in range(4)]
            pages = asking(transport, url)
            background_tasks = [
                KeyHealthMonitor(pages, found, found, turn, lambda: 0.0, Suspects(lambda: 0.0), every_s=1.0)
                for turn in turns
            ]
            tasks = [asyncio.create_task(companion.run()) for companion in background_tasks]
            await asyncio.wait_for(told(found, 7), 30)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
            )
    assert [f"good-{at % 3}" for at in range(len(seen))] == seen
