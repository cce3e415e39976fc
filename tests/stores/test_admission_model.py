"""Random histories of admissions, settlements and deaths, against a model that keeps nothing but a list of events."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from gateway.domain.billing import BillingRule, Durations, Price, Purchase, Share
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.tenants import Caller
from gateway.stores import Client, Script, Value, answer, connect
from gateway.stores.admission import Admission
from gateway.stores.tickets import Ticket
from tests.admitting import admitting, put_tenant

NAMES: Final = (
    "requests_per_minute",
    "images_per_minute",
    "concurrency",
    "images_per_day",
    "images_per_month",
    "usd_micros_per_month",
)
KEYS: Final = ("keyaaaaaaa", "keybbbbbbb")
PRICES: Final = (Price(1_798_761_600, 4000), Price(0, 3500))
"""The first from 2027-01-01 on."""
START_MS: Final = 1_798_761_000_000
"""Ten minutes before the end of a day, a month and a year."""
LEASE_S: Final = 60
UNSWEPT_MS: Final = 900_000
"""So long an expired ticket holds its place, unless somebody settles it."""
RULE: Final = BillingRule(charges_withheld=True, charges_unconfirmed=True)


@dataclass
class Event:
    """One admitted request, as the model knows it."""

    at_ms: int
    key: str
    price: int
    requests: int
    images: int
    """Held: what was asked, and after the settlement what is charged."""
    expires_ms: int
    ticket: Ticket
    leave: Callable[[], Awaitable[object]]
    is_open: bool = True
    sent: int = 0
    share: Share | None = None


@dataclass
class Model:
    """The oracle: all events, looked through from the beginning each time."""

    limits: dict[str, dict[str, int]]
    now_ms: int = START_MS
    events: list[Event] = field(default_factory=list)

    def used(self, scope: str, name: str, now_s: int | None = None) -> int:
        now_s = self.now_ms // 1000 if now_s is None else now_s
        mine = [event for event in self.events if scope in {"tenant", event.key}]
        recent = [event for event in mine if event.at_ms // 1000 >= now_s - 60]
        this_day, this_month = (
            [event for event in mine if _utc(event.at_ms)[:parts] == _utc(self.now_ms)[:parts]] for parts in (3, 2)
        )
        match name:
            case "requests_per_minute":
                return sum(event.requests for event in recent)
            case "images_per_minute":
                return sum(event.images for event in recent)
            case "concurrency":
                return sum(event.is_open and event.expires_ms + UNSWEPT_MS > self.now_ms for event in mine)
            case "images_per_day":
                return sum(event.images for event in this_day)
            case "images_per_month":
                return sum(event.images for event in this_month)
            case _:
                return sum(event.images * event.price for event in this_month)

    def price(self) -> int:
        return 4000 if self.now_ms >= 1000 * PRICES[0].since_s else 3500

    def refused(self, key: str, images: int) -> list[tuple[str, str, int, int]]:
        """(scope, limit, allowed, asked) of everything that a request would exceed."""
        asked = dict.fromkeys(NAMES, images) | {"requests_per_minute": 1, "concurrency": 1}
        asked["usd_micros_per_month"] = images * self.price()
        return [
            (scope, name, allowed, asked[name])
            for scope in ("tenant", key)
            for name, allowed in self.limits[scope].items()
            if self.used(scope, name) + asked[name] > allowed
        ]

    def frees_at_s(self, scope: str, name: str, allowed: int, asked: int) -> int:
        """The first second in which it would fit, if nothing else happened."""
        now_s = self.now_ms // 1000
        return next(s for s in range(now_s, now_s + 63) if self.used(scope, name, s) + asked <= allowed)

    def expected(self, key: str, images: int) -> tuple[Fault | None, int | None]:
        """The fault of an admission, and for a rate that frees the seconds until then."""
        found = self.refused(key, images)
        if any(name in NAMES[3:] for _, name, _, _ in found):
            return Fault.QUOTA_EXHAUSTED, None
        if any(asked > allowed for _, _, allowed, asked in found):
            return Fault.RATE_EXCEEDED_BY_ONE, None
        if not found:
            return None, None
        waits = [self.frees_at_s(*entry) - self.now_ms // 1000 for entry in found if entry[1] != "concurrency"]
        return Fault.RATE_LIMITED, max(waits, default=2)


def _utc(at_ms: int) -> tuple[int, int, int]:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.year, moment.month, moment.day


class World:
    """The model beside the real thing on a real Redis, whose scripts take the time from a key."""

    def __init__(self, redis: Client, model: Model) -> None:
        self.redis, self.model = redis, model
        self.admission = admitting(redis, rule=RULE, lease_s=LEASE_S)
        for name in ("admit", "send", "extend", "settle"):
            setattr(self.admission, f"_{name}", _with_clock(redis, name))
        self.callers: dict[str, Caller] = {}

    async def set_up(self) -> None:
        await answer(self.redis, self.redis.flushall(), bool)
        await self.declare()
        await self.advance(0)

    async def declare(self) -> None:
        limits = self.model.limits
        for key in KEYS:
            self.callers[key] = await put_tenant(self.redis, "acme", limits["tenant"], limits[key], key)

    async def advance(self, by_ms: int) -> None:
        self.model.now_ms += by_ms
        seconds, rest_ms = divmod(self.model.now_ms, 1000)
        await answer(self.redis, self.redis.delete("{acme}clock"), int)
        await answer(self.redis, self.redis.rpush("{acme}clock", seconds, rest_ms * 1000), int)

    async def admit(self, key: str, images: int) -> None:
        fault, wait_s = self.model.expected(key, images)
        purchase = Purchase("req", "image-01", images, PRICES)
        held = self.admission.admit(self.callers[key], purchase, Durations)
        if fault:
            with pytest.raises(GatewayError) as caught:
                async with held:  # left at once, should it be let in
                    pass
            told = caught.value
            assert (fault, wait_s) == (told.fault, wait_s and round(told.retry_after_s or 0)), told.detail
            return
        ticket = await held.__aenter__()
        model = self.model
        event = Event(
            model.now_ms, key, model.price(), 1, images, model.now_ms + 1000 * LEASE_S, ticket, _leaving(held)
        )
        model.events.append(event)

    async def send(self, event: Event, images: int) -> None:
        images = min(images, event.ticket.purchase.images - event.sent)
        if not event.is_open or not images:
            return
        event.share = await self.admission.open(event.ticket, "sim", "main", images)
        event.sent += images
        event.expires_ms = max(event.expires_ms, self.model.now_ms + 1000 * LEASE_S)

    async def finish(self, event: Event, delivered: int, withheld: int) -> None:
        """The request ends: of what was sent so much was delivered and withheld, the rest was never heard of."""
        if not event.is_open:
            return
        delivered = min(delivered, event.sent)
        withheld = min(withheld, event.sent - delivered)
        if event.share:
            event.share.deliver(delivered + withheld, delivered, withheld)
        await event.leave()
        self._close(event)

    async def die(self, event: Event) -> None:
        """The process dies without a word, and somebody sweeps: nothing happens before the lease has ended."""
        if not event.is_open:
            return
        await self.admission.settle_expired("acme", event.ticket.id)
        if event.expires_ms <= self.model.now_ms:
            self._close(event)

    def _close(self, event: Event) -> None:
        event.is_open, event.images, event.requests = False, event.sent, int(event.sent > 0)

    async def end(self) -> None:
        """Every process comes to its end, also those that were taken for dead: nothing is charged twice."""
        for event in self.model.events:
            if event.is_open:
                self._close(event)
            await event.leave()
        await self.compare()
        await self.compare_ledger()

    async def compare(self) -> None:
        usage = await self.admission.usage("acme")
        assert usage is not None
        found = {
            "requests_per_minute": usage.requests_last_minute,
            "images_per_minute": usage.images_last_minute,
            "concurrency": usage.concurrency,
            "images_per_day": usage.images_today,
            "images_per_month": usage.images_this_month,
            "usd_micros_per_month": usage.usd_micros_this_month,
        }
        assert {name: self.model.used("tenant", name) for name in NAMES} == found
        assert sum(event.is_open for event in self.model.events) == usage.open_requests
        assert await answer(self.redis, self.redis.hlen("ig2:{acme}:rate"), int) <= 61

    async def compare_ledger(self) -> None:
        """Sums and records of the closed requests, over all days."""
        days = await answer(self.redis, self.redis.zrange("ig2:{acme}:days", 0, -1), list[str])
        spent = images = records = 0
        for day in days:
            sums = await answer(self.redis, self.redis.hgetall(f"ig2:{{acme}}:sums:{day}"), dict[str, str])
            spent += sum(int(value) for name, value in sums.items() if "|usd_micros|" in name)
            stream = await answer(
                self.redis, self.redis.xrange(f"ig2:{{acme}}:ledger:{day}"), list[tuple[str, dict[str, str]]]
            )
            records += len(stream)
            images += sum(int(line[name]) for _, line in stream for name in ("delivered", "withheld", "unconfirmed"))
            assert spent == sum(
                event.images * event.price
                for event in self.model.events
                if not event.is_open and "".join(f"{part:02}" for part in _utc(event.at_ms)) <= day
            )
        closed = [event for event in self.model.events if not event.is_open]
        assert (sum(event.images for event in closed), len(closed)) == (images, records)


def _leaving(held: Any) -> Callable[[], Awaitable[object]]:
    return lambda: held.__aexit__(None, None, None)


def _with_clock(redis: Client, name: str) -> Script:
    text = (files("gateway.stores") / "lua" / f"{name}.lua").read_text("utf-8")
    assert "redis.call('TIME')" in text
    told = text.replace("redis.call('TIME')", "redis.call('LRANGE', '{acme}clock', 0, -1)")

    async def run(keys: list[str], args: list[Value]) -> object:
        return await answer(redis, redis.eval(told, len(keys), *keys, *args), object)

    return run


limit_values = {
    "requests_per_minute": st.integers(0, 6),
    "images_per_minute": st.integers(0, 20),
    "concurrency": st.integers(0, 4),
    "images_per_day": st.integers(0, 60),
    "images_per_month": st.integers(0, 60),
    "usd_micros_per_month": st.integers(0, 200_000),
}
limit_sets = st.fixed_dictionaries({}, optional=limit_values)
steps = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from(KEYS), st.integers(1, 10)),
    st.tuples(st.just("admit"), st.sampled_from(KEYS), st.integers(1, 10)),
    st.tuples(st.just("advance"), st.integers(0, 70_000)),
    st.tuples(st.just("advance"), st.sampled_from((999, 1_000, 59_999, 60_000, 60_001, 600_000, 86_400_000))),
    st.tuples(st.just("send"), st.integers(0, 30), st.integers(1, 10)),
    st.tuples(st.just("finish"), st.integers(0, 30), st.integers(0, 10), st.integers(0, 3)),
    st.tuples(st.just("die"), st.integers(0, 30)),
    st.tuples(st.just("limits"), limit_sets, limit_sets),
)


async def _replay(url: str, limits: dict[str, dict[str, int]], history: list[tuple[Any, ...]]) -> None:
    redis = connect(url, 5.0)
    try:
        world = World(redis, Model(limits))
        await world.set_up()
        for what, *details in history:
            events = world.model.events
            match what, details:
                case "limits", [tenant, key]:
                    world.model.limits = {"tenant": tenant, KEYS[0]: key, KEYS[1]: {}}
                    await world.declare()
                case "admit", [key, images]:
                    await world.admit(key, images)
                case "advance", [by_ms]:
                    await world.advance(by_ms)
                case _, [index, *rest] if events:
                    await getattr(world, what)(events[index % len(events)], *rest)
            await world.compare()
        await world.compare_ledger()
        await world.end()
    finally:
        await redis.aclose()


@settings(max_examples=400)
@given(limits=limit_sets, key_limits=limit_sets, history=st.lists(steps, max_size=40))
@example(
    limits={"requests_per_minute": 1},
    key_limits={},
    history=[("advance", 999), ("admit", KEYS[0], 1), ("advance", 59_002), ("admit", KEYS[0], 1)],
)
@example(
    limits={"images_per_month": 15},
    key_limits={"usd_micros_per_month": 60_000},
    history=[
        ("advance", 600_000),
        *(("admit", KEYS[0], 8), ("send", 0, 8), ("finish", 0, 8, 0)),
        ("advance", 86_400_000),
        *(("admit", KEYS[0], 8), ("admit", KEYS[1], 7), ("admit", KEYS[0], 1)),
    ],
)
def test_every_history_is_admitted_and_charged_as_the_model_says(
    one_redis_server: str, limits: dict[str, int], key_limits: dict[str, int], history: list[tuple[Any, ...]]
) -> None:
    asyncio.run(_replay(one_redis_server, {"tenant": limits, KEYS[0]: key_limits, KEYS[1]: {}}, history))


@pytest.mark.parametrize("month", range(1, 13))
@pytest.mark.parametrize("year", [1999, 2000, 2024, 2026, 2027, 2100])
def test_days_and_months_are_those_of_the_calendar(redis_url: str, year: int, month: int) -> None:
    """Month ends and leap years: a quota resets at the first moment of the next month."""

    async def look(at: datetime) -> tuple[Fault, str]:
        redis = connect(redis_url, 5.0)
        world = World(redis, Model({"tenant": {"images_per_month": 1}, **{key: {} for key in KEYS}}))
        world.model.now_ms = int(at.timestamp() * 1000)
        await world.set_up()
        try:
            async with _admitted(world.admission, world.callers[KEYS[0]]):
                with pytest.raises(GatewayError) as caught:
                    await _admitted(world.admission, world.callers[KEYS[0]]).__aenter__()
        finally:
            await redis.aclose()
        return caught.value.fault, caught.value.detail

    first = datetime(year, month, 1, tzinfo=UTC)
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    for at in (first, datetime.fromtimestamp(following.timestamp() - 1, UTC)):
        fault, detail = asyncio.run(look(at))
        assert Fault.QUOTA_EXHAUSTED is fault
        assert f"It resets at {following:%Y-%m-%dT%H:%M:%SZ}." in detail


def _admitted(admission: Admission, caller: Caller) -> Any:
    return admission.admit(caller, Purchase("req", "image-01", 1, PRICES), Durations)


def test_the_model_is_not_blind(redis_url: str) -> None:
    """A script that takes a twentieth request where 19 are allowed is found out."""
    history: list[tuple[Any, ...]] = [("admit", KEYS[0], 1)] * 3
    wrong = json.loads('{"requests_per_minute": 2}')

    async def replay_with_wrong_limits() -> None:
        redis = connect(redis_url, 5.0)
        world = World(redis, Model({"tenant": {}, **{key: {} for key in KEYS}}))
        await world.set_up()
        world.model.limits["tenant"] = wrong  # the model knows it, Redis does not
        try:
            for _, key, images in history:
                await world.admit(key, images)
        finally:
            for event in world.model.events:
                await event.leave()
            await redis.aclose()

    with pytest.raises(pytest.fail.Exception):
        asyncio.run(replay_with_wrong_limits())
