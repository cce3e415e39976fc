import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from gateway.domain.billing import Durations, Price, Purchase
from gateway.domain.tenants import Caller
from gateway.stores import Client
from gateway.stores.admission import Admission
from gateway.stores.sweeper import Sweeper
from gateway.stores.tickets import Ticket
from tests.admitting import admitting, put_tenant
from tests.stores.test_admission import connected, ledger

pytestmark = pytest.mark.anyio


def sweeper(redis: Client, admission: Admission, own_id: str = "me", round_s: float = 0.05) -> Sweeper:
    return Sweeper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=own_id)


@asynccontextmanager
async def left_behind(admission: Admission, *callers: Caller, count: int = 1) -> AsyncIterator[list[Ticket]]:
    """Tickets of a process that gives no sign of life, for as long as the test looks at them."""
    purchase = Purchase("req_1", "image-01", 2, (Price(0, 3500),))
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(admission.admit(caller, purchase, Durations))
            for caller in callers
            for _ in range(count)
        ]


async def open_of(admission: Admission, tenant: str) -> int:
    usage = await admission.usage(tenant)
    assert usage is not None
    return usage.open_requests


async def test_a_round_settles_what_has_expired_for_every_tenant_and_nothing_else(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        dead, alive = admitting(redis, lease_s=0.1), admitting(redis)
        callers = [await put_tenant(redis, f"tenant-{number:03}") for number in range(250)]
        async with left_behind(dead, *callers[::50], count=2) as left, left_behind(alive, callers[0]):
            await asyncio.sleep(0.2)
            await sweeper(redis, alive).sweep()
            counts = {caller.tenant.name: await open_of(alive, caller.tenant.name) for caller in callers}
            lines = [line for caller in callers for _, line in await ledger(redis, caller.tenant.name)]
    assert {"tenant-000": 1} == {name: count for name, count in counts.items() if count}
    assert ["not_sent"] * 10 == [line["outcome"] for line in lines]
    assert {ticket.id for ticket in left} == {line["ticket"] for line in lines}


async def test_more_than_fit_into_a_round_are_settled_in_the_next(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        dead = admitting(redis, lease_s=0.1)
        async with left_behind(dead, await put_tenant(redis), count=250):
            await asyncio.sleep(0.2)
            for _ in range(3):
                await sweeper(redis, dead).sweep()
            assert 0 == await open_of(dead, "acme")
            assert 250 == len(await ledger(redis))


async def test_two_that_sweep_at_once_settle_each_ticket_once(each_redis: str) -> None:
    async with connected(each_redis) as one, connected(each_redis) as other:
        dead = admitting(one, lease_s=0.1)
        async with left_behind(dead, await put_tenant(one), count=80):
            await asyncio.sleep(0.2)
            async with anyio.create_task_group() as group:
                group.start_soon(sweeper(one, dead).sweep)
                group.start_soon(sweeper(other, admitting(other)).sweep)
            assert 80 == len(await ledger(one))


async def test_one_process_at_a_time_sweeps_and_another_takes_over_when_it_dies(each_redis: str) -> None:
    swept: list[str] = []

    async def watch(name: str, tenant: str, ticket: str) -> None:
        swept.append(name)

    async with connected(each_redis) as redis:
        dead = admitting(redis, lease_s=0.05)
        first = Sweeper(redis, lambda *what: watch("first", *what), time.time, round_s=0.1, own_id="first")
        second = Sweeper(redis, lambda *what: watch("second", *what), time.time, round_s=0.1, own_id="second")
        async with left_behind(dead, await put_tenant(redis)):
            with anyio.move_on_after(1.5):
                async with anyio.create_task_group() as group:
                    group.start_soon(first.run)
                    await asyncio.sleep(0.3)
                    group.start_soon(second.run)
            alone = set(swept)
            swept.clear()
            with anyio.move_on_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(second.run)
                    while not swept:  # noqa: ASYNC110 - the program has no event for its tests
                        await asyncio.sleep(0.05)
                    group.cancel_scope.cancel()
    assert ({"first"}, {"second"}) == (alone, set(swept))


async def test_a_sweeper_goes_on_after_redis_was_away(redis_url: str) -> None:
    async with connected(redis_url, 0.3) as redis, connected(redis_url) as patient:
        dead = admitting(redis, lease_s=0.1)
        async with left_behind(dead, await put_tenant(redis)):
            await redis.client_pause(900)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(sweeper(redis, dead).run)
                    while await open_of(admitting(patient), "acme"):  # noqa: ASYNC110 - likewise
                        await asyncio.sleep(0.1)
                    group.cancel_scope.cancel()


async def test_a_tenant_that_cannot_be_settled_keeps_no_other(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        dead = admitting(redis, lease_s=0.1)
        callers = [await put_tenant(redis, name) for name in ("a", "b", "c")]
        async with left_behind(dead, *callers):
            day = time.strftime("%Y%m%d", time.gmtime())
            await redis.set(f"ig2:{{a}}:ledger:{day}", "damaged")
            await asyncio.sleep(0.2)
            await sweeper(redis, dead).sweep()
            assert [1, 0, 0] == [await open_of(dead, caller.tenant.name) for caller in callers]


async def test_the_living_renew_their_leases_before_anybody_sweeps_after_an_outage(redis_url: str) -> None:
    """Redis stood still for longer than a lease: nobody is taken for dead because of that."""
    async with connected(redis_url, 0.2) as redis, connected(redis_url) as patient:
        admission, caller = admitting(redis, lease_s=2.0), await put_tenant(redis, limits={"concurrency": 1})
        async with left_behind(admission, caller):
            async with anyio.create_task_group() as group:
                group.start_soon(admission.keep_alive)
                group.start_soon(sweeper(redis, admission, round_s=1.0).run)
                await asyncio.sleep(2.2)
                await patient.client_pause(3500)
                await asyncio.sleep(6.0)
                group.cancel_scope.cancel()
            assert 1 == await open_of(admitting(patient), "acme")
            assert [] == await ledger(patient)


async def test_a_tenant_that_could_not_be_asked_is_left_alone_for_one_round_more(each_redis: str) -> None:
    """Its living processes were cut off too: they renew their leases before anybody takes them for dead."""
    async with connected(each_redis) as redis:
        dead = admitting(redis, lease_s=0.1)
        caller, other = await put_tenant(redis), await put_tenant(redis, "other")
        async with left_behind(dead, caller, other):
            await asyncio.sleep(0.2)
            swept = sweeper(redis, dead)
            swept._unreached = {"acme"}
            await swept.sweep()
            first = [await open_of(dead, name) for name in ("acme", "other")]
            await swept.sweep()
            second = [await open_of(dead, name) for name in ("acme", "other")]
    assert ([1, 0], [0, 0]) == (first, second)
