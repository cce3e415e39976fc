"""Deleting tenants for good: what is personal goes, and the bill stays to the micro-dollar."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pytest
import redis
from msgspec.structs import replace as replace_struct

from gateway.domain.accounts import make_secret
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Tenant
from gateway.domain.usage import GroupBy, UsageFilter, UsageReport
from gateway.events.deliveries import Delivery, DeliveryStore
from gateway.events.endpoint_store import EndpointStore
from gateway.events.endpoints import Channel, Endpoint
from gateway.metering.ledger import Ledger
from gateway.metering.purge import TenantPurger
from gateway.metering.verification import LedgerVerifier
from gateway.redis import Client, LeaderLock
from gateway.scheduler.encryption import SecretBox
from tests.support.administering import OPS, Stores, storing
from tests.support.bookkeeping import Settled, numbered, settle

pytestmark = pytest.mark.anyio

TODAY = date(2026, 7, 28)
ADDRESS = "mailto:ada@example.com"
ALWAYS = UsageFilter(date(2020, 1, 1), date(2030, 1, 1))
PERSONAL = ("acme", "design", "Ada", "ada@example.com", "CC-7", "web shop", "req_10", "hero", "client-of-acme")


@dataclass(frozen=True)
class Purging:
    stores: Stores
    purger: TenantPurger
    pseudonym: str = ""

    async def totals(self) -> dict[str, list[int]]:
        report = UsageReport((GroupBy.TENANT, GroupBy.DAY, GroupBy.KEY), 1000)
        await Ledger(self.stores.redis).fill(report, ALWAYS)
        return {f"{group[0]} {group[1:]}": [sums.requests, sums.usd_micros] for group, sums in report.rows()}

    async def verified(self) -> tuple[int, int, int]:
        ledger = Ledger(self.stores.redis)
        found, _ = await LedgerVerifier(ledger, 400, time.time).verify(ALWAYS)
        return found.days, found.records, len(found.differences)


def endpoints_of(store: Client, *declared: Endpoint) -> EndpointStore:
    return EndpointStore(store, SecretBox([make_secret("0123456789abcdef" * 2)]), declared, time.time, 86_400)


def events_purge(store: Client) -> Callable[[str], Awaitable[None]]:
    async def purge(tenant: str) -> None:
        await endpoints_of(store).purge(tenant)
        await DeliveryStore(store).purge(tenant)

    return purge


async def notify(store: Client) -> None:
    """Creates an endpoint of `acme` and one of the platform, with pending and ended deliveries, as `alert_to` has."""
    endpoints, deliveries = endpoints_of(store), DeliveryStore(store)
    for tenant in ("acme", ""):
        await endpoints.create(Endpoint("", "https://hooks.example.com/", Channel.SLACK, ("*",), "x", tenant), OPS)
    await store.delete("ig3:{events:}:audit")  # older entries keep the name
    about = [("acme", "design", "quota.exhausted"), ("acme", "design", "key.created"), ("shop", "shop", "key.created")]
    for number, (tenant, name, kind) in enumerate([*about, ("", "design", "webhook.disabled")]):
        found = await endpoints.matching(kind, tenant, (ADDRESS,) if tenant == "acme" else ())
        event = Delivery(id="", event_id=f"evt_{number}", type=kind, at_ms=number, data={"tenant": name}, tenant=tenant)
        made = [(to, replace_struct(event, id=f"dlv_{number}", target=target)) for to, target in found]
        await deliveries.queue(event.event_id, made)
        for to, delivery in made if number == 0 else ():
            assert await deliveries.move(to, replace_struct(delivery, result="failed"), None)
            await endpoints.disable(to, "it answered 410 Gone")


@asynccontextmanager
async def purging(url: str) -> AsyncIterator[Purging]:
    """A tenant with an owner, two names, a key and a bill of three days, beside another tenant."""
    async with storing(url) as stores:
        about = {"owner": "Ada", "contact": "ada@example.com", "cost_centre": "CC-7", "tags": {"feature": "hero"}}
        about |= {"alert_to": (ADDRESS,)}
        await stores.tenant("acme", **about)
        await stores.tenant("shop")
        await stores.tenants.claim("design", "acme")
        await stores.tenants.update("acme", lambda had: replace(had, renamed_to="design"), OPS)
        key = (await stores.key("acme", "web shop")).key.id
        billed = Settled(key=key)
        with redis.Redis.from_url(url) as client:
            client.hset("ig3:{acme}:closed", "202606", '{"cost_centre":"CC-7","owner":"Ada","tags":{"feature":"hero"}}')
            for days in range(3):
                made = numbered(replace(billed, day=TODAY - timedelta(days)), 3 + days, first=10 * days)
                settle(client, [replace(one, idempotency=f"client-of-acme {one.request_id}") for one in made])
            settle(client, numbered(replace(billed, batch="batch_1"), 4, first=100))
            settle(client, [Settled(tenant="shop")])
            await notify(stores.redis)
            client.xadd("ig3:{acme}:refusals", {"request_id": "req_10", "code": "internal"})
            client.zadd("ig3:{refusals:}:owners", {"acme": 1, "shop": 2})
            for name in ("day:20260728", "outcome:t1", f"key:{key}:month:202607"):
                client.set(f"ig3:{{acme}}:{name}", "a prompt of client-of-acme")
        lock = LeaderLock(stores.redis, "purge_leader", "one", 60)
        assert await lock.acquire()
        yield Purging(stores, TenantPurger(stores.redis, stores.changes, lock, events_purge(stores.redis)))


def disabled(tenant: Tenant) -> Tenant:
    return replace(tenant, is_disabled=True, disabled_by="ops")


async def everything(stores: Stores) -> str:
    """All keys and values, as bytes of a dump would have them."""
    found = []
    async for name in stores.redis.scan_iter("*"):
        kind = await stores.redis.type(name)
        reads: dict[object, Any] = {
            "hash": stores.redis.hgetall,
            "set": stores.redis.smembers,
            "stream": stores.redis.xrange,
            "string": stores.redis.get,
        }
        value = await (reads[kind](name) if kind in reads else stores.redis.zrange(name, 0, -1))
        found.append(f"{name} {value}")
    return "\n".join(found)


async def test_what_is_personal_goes_and_the_bill_stays(each_redis: str) -> None:
    async with purging(each_redis) as given:
        stores = given.stores
        before, verified = await given.totals(), await given.verified()
        assert 0 == verified[2]
        await stores.tenants.update("acme", disabled, OPS)
        pseudonym = await given.purger.begin("acme", OPS)
        assert pseudonym == await given.purger.begin("acme", OPS)
        await given.purger.sweep()
        expected = {name.replace("acme ", f"{pseudonym} "): sums for name, sums in before.items()}
        assert expected == await given.totals()
        assert verified == await given.verified()
        text = await everything(stores)
        assert [] == [word for word in PERSONAL if word in text]
        assert {pseudonym, "shop"} == await stores.tenants.names()
        assert [("ops", "tenant.purge")] == await stores.actions(pseudonym)
        [shared] = await endpoints_of(stores.redis).list_all()
        assert ["dlv_2"] == [one.id for one in await DeliveryStore(stores.redis).list_latest(shared.id)]
        assert [shared.id] == await stores.redis.zrange("ig3:{events:}:due", 0, -1)
        stored = {name.removeprefix("ig3:{events:}:") async for name in stores.redis.scan_iter("ig3:{events:}:*:*")}
        assert {f"{kind}:{shared.id}" for kind in ("pending", "deliveries", "disabled")} == stored
        await given.purger.sweep()
        assert expected == await given.totals()
        for name in ("acme", "design"):  # both are free again, and have nothing of the former
            await stores.tenant(name)
        assert expected == await given.totals()


@pytest.mark.parametrize("kind", ["open", "recent", "erasing"])
async def test_it_waits_for_what_can_still_be_charged_or_stored(each_redis: str, kind: str) -> None:
    async with purging(each_redis) as given:
        before = await given.totals()
        await given.stores.tenants.update("acme", disabled, OPS)
        await given.purger.begin("acme", OPS)
        await given.stores.redis.set(f"ig3:{{acme}}:{kind}", "1")
        await given.purger.sweep()
        assert before == await given.totals()
        assert "acme" == (await given.stores.tenants.get("acme")).name
        await given.stores.redis.delete(f"ig3:{{acme}}:{kind}")
        await given.purger.sweep()
        assert before != await given.totals()


async def test_enabling_the_tenant_ends_a_purge_that_has_not_begun(each_redis: str) -> None:
    async with purging(each_redis) as given:
        before = await given.totals()
        await given.stores.tenants.update("acme", disabled, OPS)
        await given.purger.begin("acme", OPS)
        await given.stores.tenants.update("acme", lambda had: replace(had, is_disabled=False, disabled_by=""), OPS)
        await given.purger.sweep()
        await given.stores.tenants.update("acme", disabled, OPS)
        await given.purger.sweep()
        assert before == await given.totals()


@pytest.mark.parametrize("calls", range(3, 60, 8))
async def test_a_process_that_dies_anywhere_costs_nothing(redis_url: str, calls: int) -> None:
    """The connection of the first process fails after a number of calls; another one goes on from there."""
    async with purging(redis_url) as given, storing(redis_url) as dying:
        before, verified = await given.totals(), await given.verified()
        await given.stores.tenants.update("acme", disabled, OPS)
        pseudonym = await given.purger.begin("acme", OPS)
        run, left = dying.redis.guard.run, calls

        async def limited(call: Coroutine[object, object, object], **options: Any) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                call.close()
                raise redis.ConnectionError("the process is killed")
            return await run(call, **options)

        dying.redis.guard.run = limited  # type: ignore[method-assign, assignment]
        first = TenantPurger(
            dying.redis, dying.changes, LeaderLock(dying.redis, "purge_leader", "one", 60), events_purge(dying.redis)
        )
        try:
            await first.sweep()
        except GatewayError:
            names = {name.partition(" ")[0] for name in await given.totals()}
            assert names in ({"acme", "shop"}, {pseudonym, "shop"})
            assert sorted(before.values()) == sorted((await given.totals()).values())
        dying.redis.guard.run = run  # type: ignore[method-assign]
        await given.purger.sweep()
        expected = {name.replace("acme ", f"{pseudonym} "): sums for name, sums in before.items()}
        assert (expected, verified) == (await given.totals(), await given.verified())
        text = await everything(given.stores)
        assert [] == [word for word in PERSONAL if word in text]


async def test_its_keys_are_refused(each_redis: str) -> None:
    async with purging(each_redis) as given:
        secret = (await given.stores.key("acme")).secret
        assert await given.stores.fault_of(secret) is None
        await given.stores.tenants.update("acme", disabled, OPS)
        await given.purger.begin("acme", OPS)
        await given.purger.sweep()
        assert ErrorCode.INVALID_API_KEY is await given.stores.fault_of(secret)
