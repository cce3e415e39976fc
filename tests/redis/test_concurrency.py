import asyncio

import anyio
import pytest

from gateway.redis.circuit_breaker import ConcurrencyLimiter

pytestmark = pytest.mark.anyio


def taking(slots: ConcurrencyLimiter, count: int = 1) -> list["asyncio.Task[bool]"]:
    return [asyncio.ensure_future(slots.acquire()) for _ in range(count)]


async def ended(*tasks: "asyncio.Task[bool]") -> list[bool]:
    with anyio.fail_after(5):
        return await asyncio.gather(*tasks)


async def test_who_comes_first_is_served_first() -> None:
    slots = ConcurrencyLimiter(2)
    tasks = taking(slots, 4)
    await asyncio.sleep(0.01)
    assert [True, True, False, False] == [task.done() for task in tasks]
    slots.release()
    await asyncio.sleep(0.01)
    assert [True, True, True, False] == [task.done() for task in tasks]
    slots.release()
    assert [True] * 4 == await ended(*tasks)


async def test_all_who_wait_can_be_sent_away_and_those_who_come_later_wait_again() -> None:
    slots = ConcurrencyLimiter(0)
    tasks = taking(slots, 3)
    await asyncio.sleep(0)
    slots.reject_waiters()
    later = taking(slots)
    assert [False] * 3 == await ended(*tasks)
    slots.release()
    assert [True] == await ended(*later)


@pytest.mark.parametrize("is_given", [False, True])
async def test_a_slot_is_not_lost_with_one_who_goes_away(*, is_given: bool) -> None:
    slots = ConcurrencyLimiter(0)
    going, staying = taking(slots, 2)
    await asyncio.sleep(0.01)
    if is_given:
        slots.release()
    going.cancel()
    await asyncio.wait({going})
    if not is_given:
        slots.release()
    assert [True] == await ended(staying)


async def test_one_who_goes_away_while_sent_away_leaves_nothing_behind() -> None:
    slots = ConcurrencyLimiter(0)
    [going] = taking(slots)
    await asyncio.sleep(0.01)
    slots.reject_waiters()
    going.cancel()
    await asyncio.wait({going})
    slots.release()
    assert [True] == await ended(*taking(slots))
    later = taking(slots)
    await asyncio.sleep(0.01)
    assert not later[0].done()
    slots.reject_waiters()
    assert [False] == await ended(*later)
