import asyncio

import pytest

from gateway.domain.faults import Fault, GatewayError
from gateway.memory import ByteAccount, ByteBudget

pytestmark = pytest.mark.anyio


def refusal(account: ByteAccount, count: int) -> Fault | None:
    try:
        account.take(count)
    except GatewayError as error:
        return error.fault
    return None


async def test_a_tenant_is_refused_beyond_its_half_and_all_beyond_three_quarters() -> None:
    budget = ByteBudget(100)
    one, two, three = (ByteAccount(budget, name) for name in ("a", "a", "b"))
    assert [None, Fault.TENANT_MEMORY_FULL, None] == [refusal(one, 50), refusal(two, 1), refusal(three, 25)]
    assert Fault.MEMORY_FULL is refusal(three, 1)
    for account in (one, two, three):
        account.close()
    assert 0 == budget.held_bytes


async def test_a_reply_waits_for_room_and_one_at_a_time_goes_on_without() -> None:
    budget = ByteBudget(100)
    accounts = [ByteAccount(budget, name) for name in ("a", "b", "c")]
    for account in accounts:
        await account.wait_for(33)
    tasks = [asyncio.create_task(account.wait_for(10)) for account in accounts]
    await asyncio.sleep(0)
    assert [True, False, False] == [task.done() for task in tasks]
    assert 109 == budget.held_bytes
    accounts[0].close()
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    for account in accounts[1:]:
        account.close()
    assert 0 == budget.held_bytes


async def test_a_tenant_beyond_its_half_does_not_make_another_wait() -> None:
    budget = ByteBudget(100)
    greedy, waiting, other = (ByteAccount(budget, name) for name in ("a", "a", "b"))
    await greedy.wait_for(60)
    stuck = asyncio.create_task(waiting.wait_for(10))
    await asyncio.wait_for(other.wait_for(30), 1)
    assert not stuck.done()
    greedy.close()
    await asyncio.wait_for(stuck, 1)
