import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import groupby

import anyio
import pytest
from redis.exceptions import ResponseError

from gateway.domain.billing import AdmissionRequest
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.pricing import MadeImages, Offer, PerImage, Price
from gateway.domain.tenants import Principal
from gateway.metering.admission import Admission
from gateway.metering.recovery import ExpiredReservationReaper
from gateway.metering.reservations import Reservation
from gateway.redis import Client
from tests.support.admissions import connected, ledger, not_sent
from tests.support.admitting import admitting, put_tenant

pytestmark = pytest.mark.anyio

Asked = Callable[[str, str], Awaitable[None]]


def sweeper(redis: Client, admission: Admission, own_id: str = "me", round_s: float = 0.05) -> ExpiredReservationReaper:
    return ExpiredReservationReaper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=own_id)


@asynccontextmanager
async def left_behind(admission: Admission, *callers: Principal, count: int = 1) -> AsyncIterator[list[Reservation]]:
    """Tickets of a process that gives no sign of life, for as long as the test looks at them."""
    purchase = AdmissionRequest("req_1", "image-01", 2, (Offer((Price(0, PerImage(3500)),), MadeImages(2)),))
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(admission.admit(caller, purchase))
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
        async with left_behind(dead, *callers[::50], count=2), left_behind(alive, callers[0]):
            await asyncio.sleep(0.2)
            await sweeper(redis, alive).sweep()
            counts = {caller.tenant.name: await open_of(alive, caller.tenant.name) for caller in callers}
            never_sent = {caller.tenant.name: await not_sent(redis, caller.tenant.name) for caller in callers}
    assert {"tenant-000": 1} == {name: count for name, count in counts.items() if count}
    assert {caller.tenant.name: 2 for caller in callers[::50]} == {name: n for name, n in never_sent.items() if n}


async def test_a_thousand_that_one_process_left_are_settled_in_one_round(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        dead = admitting(redis, lease_s=0.5)
        async with left_behind(dead, await put_tenant(redis), count=1000):
            await asyncio.sleep(0.6)
            await sweeper(redis, dead).sweep()
            assert 0 == await open_of(dead, "acme")
            assert 1000 == await not_sent(redis)


@asynccontextmanager
async def expired(url: str, **counts: int) -> AsyncIterator[tuple[Client, list[tuple[str, str]], Asked]]:
    """Tenants with so many expired tickets; who was asked to be settled; and a settling that only notes it."""
    async with connected(url) as redis:
        for name, count in counts.items():
            await put_tenant(redis, name)
            await redis.zadd(f"ig3:{{{name}}}:open", {f"{name}{number:05}": number for number in range(count)})
        asked: list[tuple[str, str]] = []

        async def settle(tenant: str, reservation: str) -> None:
            asked.append((tenant, reservation))
            await redis.zrem(f"ig3:{{{tenant}}}:open", reservation)

        yield redis, asked, settle


async def test_of_each_tenant_a_hundred_are_settled_before_more_of_one(redis_url: str) -> None:
    async with expired(redis_url, a=350, b=120, c=3) as (redis, asked, settle):
        await ExpiredReservationReaper(redis, settle, time.time, round_s=1, own_id="me").sweep()
    turns = [(name, len(list(group))) for name, group in groupby(tenant for tenant, _ in asked)]
    assert [("a", 100), ("b", 100), ("c", 3), ("a", 100), ("b", 20), ("a", 150)] == turns


async def test_a_round_ends_though_more_are_left(redis_url: str) -> None:
    """The tenants that had nothing a while ago may have something now."""
    async with expired(redis_url, a=10_150) as (redis, asked, settle):
        swept = ExpiredReservationReaper(redis, settle, time.time, round_s=60, own_id="me")
        await swept.sweep()
        assert 10_000 == len(asked)
        await swept.sweep()
    assert 10_150 == len(set(asked)) == len(asked)


async def test_a_sweeper_that_has_lost_its_lock_begins_no_further_pass(redis_url: str) -> None:
    async with expired(redis_url, a=350, b=1) as (redis, asked, settle):

        async def settle_slowly(tenant: str, reservation: str) -> None:
            await settle(tenant, reservation)
            if len(asked) == 50:
                await redis.set("ig3:recovery_leader", "another")

        await ExpiredReservationReaper(redis, settle_slowly, time.time, round_s=1, own_id="me").sweep()
    assert 100 == len(asked)


async def test_a_long_round_keeps_the_lock(redis_url: str) -> None:
    async with expired(redis_url, a=450) as (redis, asked, settle):

        async def settle_slowly(tenant: str, reservation: str) -> None:
            await settle(tenant, reservation)
            await asyncio.sleep(0.004)

        swept = ExpiredReservationReaper(redis, settle_slowly, time.time, round_s=0.4, own_id="me")
        assert await swept._is_leader()
        await swept.sweep()
    assert 450 == len(asked)  # 1.8 s at least, of a lock of 1.2 s


async def test_tickets_that_cannot_be_settled_keep_none_behind_them(redis_url: str) -> None:
    """As many as a pass takes: a damaged day of the ledger may have them."""
    async with expired(redis_url, a=280) as (redis, asked, settle):

        async def refuse(tenant: str, reservation: str) -> None:
            if reservation < "a00130":
                asked.append((tenant, reservation))
                raise GatewayError(ErrorCode.REDIS_UNAVAILABLE) from ResponseError("WRONGTYPE")
            await settle(tenant, reservation)

        await ExpiredReservationReaper(redis, refuse, time.time, round_s=1, own_id="me").sweep()
        assert 280 == len(asked) == len(set(asked))


async def test_a_tenant_whose_node_is_away_is_tried_once_a_round(redis_url: str) -> None:
    async with expired(redis_url, a=280, b=2) as (redis, asked, settle):

        async def refuse(tenant: str, reservation: str) -> None:
            if tenant == "a":
                asked.append((tenant, reservation))
                raise GatewayError(ErrorCode.REDIS_UNAVAILABLE) from ConnectionError("gone")
            await settle(tenant, reservation)

        await ExpiredReservationReaper(redis, refuse, time.time, round_s=1, own_id="me").sweep()
    assert ["a", "b", "b"] == [tenant for tenant, _ in asked]


async def test_what_is_alive_by_the_server_s_clock_is_asked_for_once_a_round(redis_url: str) -> None:
    """This process's own clock is ahead."""
    async with expired(redis_url, a=280) as (redis, asked, _):

        async def leave(tenant: str, reservation: str) -> None:
            asked.append((tenant, reservation))

        await ExpiredReservationReaper(redis, leave, time.time, round_s=1, own_id="me").sweep()
    assert 100 == len(asked)


async def test_two_that_sweep_at_once_settle_each_ticket_once(each_redis: str) -> None:
    async with connected(each_redis) as one, connected(each_redis) as other:
        dead = admitting(one, lease_s=0.1)
        async with left_behind(dead, await put_tenant(one), count=80):
            await asyncio.sleep(0.2)
            async with anyio.create_task_group() as group:
                group.start_soon(sweeper(one, dead).sweep)
                group.start_soon(sweeper(other, admitting(other)).sweep)
            assert 80 == await not_sent(one)


async def test_one_process_at_a_time_sweeps_and_another_takes_over_when_it_dies(each_redis: str) -> None:
    swept: list[str] = []

    async def watch(name: str, tenant: str, reservation: str) -> None:
        swept.append(name)

    async with connected(each_redis) as redis:
        dead = admitting(redis, lease_s=0.05)
        first = ExpiredReservationReaper(
            redis, lambda *what: watch("first", *what), time.time, round_s=0.1, own_id="first"
        )
        second = ExpiredReservationReaper(
            redis, lambda *what: watch("second", *what), time.time, round_s=0.1, own_id="second"
        )
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
            await redis.set(f"ig3:{{a}}:ledger:{day}", "damaged")
            await asyncio.sleep(0.2)
            await sweeper(redis, dead).sweep()
            assert [1, 0, 0] == [await open_of(dead, caller.tenant.name) for caller in callers]


@pytest.mark.slow
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
