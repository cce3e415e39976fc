import asyncio
import tracemalloc

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.exchange import read_reply
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.generation.transport import AiohttpTransport
from tests.support.harness import wait_until
from tests.support.hostile import Plan, hostile
from tests.support.memory import MB, picture_reply


def refusal(account: ByteAccount, count: int) -> ErrorCode | None:
    try:
        account.take(count)
    except GatewayError as error:
        return error.error_code
    return None


def test_a_tenant_is_refused_beyond_its_half_and_another_beyond_half_of_the_rest() -> None:
    budget = ByteBudget(100)
    one, two, three = (ByteAccount(budget, name) for name in ("a", "a", "b"))
    assert [None, ErrorCode.TENANT_MEMORY_FULL, None] == [refusal(one, 50), refusal(two, 1), refusal(three, 25)]
    assert ErrorCode.MEMORY_FULL is refusal(three, 1)
    for account in (one, two, three):
        account.close()
    assert 0 == budget.held_bytes


MOVES = st.lists(st.tuples(st.integers(0, 4), st.integers(-3000, 3000)), max_size=60)
BUDGET_BYTES = 10_000


@given(moves=MOVES)
def test_tenants_that_take_all_they_can_leave_room_for_another(moves: list[tuple[int, int]]) -> None:
    """1/2^N of the budget, in whatever order N of them take and give back."""
    budget = ByteBudget(BUDGET_BYTES)
    accounts = [ByteAccount(budget, str(tenant)) for tenant in range(5)]
    for tenant, count in moves:
        account = accounts[tenant]
        if count < 0:
            account.note(max(count, -account.held_bytes))
        for part in (count, count // 2, count // 4):
            refusal(account, max(0, part))
    free_bytes = BUDGET_BYTES - budget.held_bytes
    assert free_bytes * 2 ** len({tenant for tenant, _ in moves}) >= BUDGET_BYTES
    assert None is refusal(ByteAccount(budget, "another"), free_bytes // 2)


@pytest.mark.anyio
async def test_what_goes_on_beyond_its_share_leaves_room_for_another() -> None:
    """Each hostile tenant has one request of any size, and one of them the whole budget; the next is served."""
    budget = ByteBudget(800)
    stuck = []
    for name in ("a", "b", "c"):
        for _ in range(2):
            account = ByteAccount(budget, name)
            stuck.append(asyncio.create_task(take_all(account, 1000)))
    await asyncio.sleep(0.01)
    assert [False] * 5 == sorted(task.done() for task in stuck)[:5]
    other = ByteAccount(budget, "other")
    assert None is refusal(other, 800 // 2 ** (3 + 3) // 2)
    await asyncio.wait_for(other.wait_for(1), 1)
    assert budget.held_bytes < 800 + 1000
    for task in stuck:
        task.cancel()


async def take_all(account: ByteAccount, count: int) -> None:
    for _ in range(count):
        await account.wait_for(1)


@pytest.mark.anyio
async def test_a_reply_waits_for_room_and_one_at_a_time_goes_on_without() -> None:
    budget = ByteBudget(100)
    accounts = [ByteAccount(budget, name) for name in ("a", "a", "a")]
    for account in accounts:
        await account.wait_for(16)
    tasks = [asyncio.create_task(account.wait_for(60)) for account in accounts]
    await asyncio.sleep(0)
    assert [True, False, False] == [task.done() for task in tasks]
    assert 108 == budget.held_bytes
    accounts[0].close()
    await asyncio.sleep(0.01)
    assert [True, True, False] == [task.done() for task in tasks]
    accounts[1].close()
    await asyncio.wait_for(tasks[2], 1)
    accounts[2].close()
    assert 0 == budget.held_bytes


@pytest.mark.anyio
async def test_a_tenant_beyond_its_half_does_not_make_another_wait() -> None:
    budget = ByteBudget(100)
    greedy, waiting, other = (ByteAccount(budget, name) for name in ("a", "a", "b"))
    await greedy.wait_for(60)
    stuck = asyncio.create_task(waiting.wait_for(10))
    await asyncio.wait_for(other.wait_for(20), 1)
    assert not stuck.done()
    greedy.close()
    await asyncio.wait_for(stuck, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_replies_that_wait_for_room_hold_the_budget_and_one_reply_and_all_arrive() -> None:
    """100 replies of 1.4 MB within 4 MB. The replies that arrived are held until the others have waited."""
    budget, is_read, raw = ByteBudget(4 * MB), asyncio.Event(), picture_reply(1_400_000)

    async def call(transport: AiohttpTransport, url: str) -> int:
        account = ByteAccount(budget, "acme")
        try:
            reply = await read_reply(transport, httpx.Request("POST", url, content=b"{}"), 2 * MB, account)
            await is_read.wait()
            return len(reply.body)
        finally:
            account.close()

    with hostile() as provider:
        provider.begin(Plan((raw, "close")))
        async with AiohttpTransport() as transport:
            tracemalloc.start()
            try:
                calls = [asyncio.create_task(call(transport, provider.url)) for _ in range(100)]
                await asyncio.to_thread(wait_until, lambda: provider.requests >= 20, "many are called")
                for _ in range(200):  # whatever can be received is
                    await asyncio.sleep(0.01)
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            is_read.set()
            sizes = await asyncio.gather(*calls)
    assert {len(raw.partition(b"\r\n\r\n")[2])} == set(sizes)
    assert peak_bytes < 4 * MB + len(raw) + 100 * 40_000, "what a call holds besides is its own objects"
    assert 0 == budget.held_bytes
