"""Sessions and links in Redis: when they end, how many there are, and that two processes do not share a link."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.domain.audit import Actor
from gateway.domain.roles import ConsoleRole
from gateway.redis import execute
from gateway.tenants.sessions import LINK_S, Grant, LinkStore, SessionStore
from tests.support.administering import OPS, Stores, storing

pytestmark = pytest.mark.anyio
IDLE_S, LIFETIME_S = 1800, 43_200


@dataclass
class Clock:
    """A clock that the test sets."""

    now: float = 1_785_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stores(redis_url: str, clock: Clock) -> AsyncIterator[Stores]:
    async with storing(redis_url, clock=clock) as started:
        yield started


@pytest.fixture
def sessions(stores: Stores, clock: Clock) -> SessionStore:
    return SessionStore(stores.redis, stores.changes, clock, IDLE_S, LIFETIME_S)


def grant(subject: str = "ann") -> Grant:
    return Grant(subject=subject, label=subject, role=ConsoleRole.VIEWER, method="link")


async def test_a_session_ends_after_a_time_without_a_request(sessions: SessionStore, clock: Clock) -> None:
    token, _ = await sessions.open(grant())
    clock.now += IDLE_S - 1
    assert await sessions.read(token)
    clock.now += IDLE_S - 1  # the request before was a use
    assert await sessions.read(token)
    clock.now += IDLE_S
    assert [] == await sessions.list_open()
    assert await sessions.read(token) is None
    clock.now -= IDLE_S
    assert await sessions.read(token) is None


async def test_a_session_in_use_ends_after_its_longest_time(sessions: SessionStore, clock: Clock) -> None:
    token, opened = await sessions.open(grant())
    while clock.now + IDLE_S - 1 < opened.expires_at:
        clock.now += IDLE_S - 1
        assert await sessions.read(token)
    clock.now = opened.expires_at - 1
    last = await sessions.read(token)
    assert last
    assert opened.expires_at == last.idle_expires_at
    clock.now += 1
    assert await sessions.read(token) is None


async def test_redis_holds_no_token(sessions: SessionStore, stores: Stores) -> None:
    token, _ = await sessions.open(grant())
    links = LinkStore(stores.redis, stores.changes, stores.clock)
    link_token, *_ = await links.create("bea", ConsoleRole.LEAD, "acme", OPS)
    held = str(await execute(stores.redis, stores.redis.hgetall("ig3:{console:}:sessions"), dict[str, str]))
    held += str(await execute(stores.redis, stores.redis.hgetall("ig3:{console:}:links"), dict[str, str]))
    assert "ann" in held
    assert not [secret for secret in (token, link_token) if secret in held]


async def test_everything_in_redis_expires(sessions: SessionStore, stores: Stores) -> None:
    await sessions.open(grant())
    await LinkStore(stores.redis, stores.changes, stores.clock).create("bea", ConsoleRole.ADMIN, "", OPS)
    names = await execute(stores.redis, stores.redis.keys("ig3:{console:}:*"), list[str])
    kept = [name for name in names if await execute(stores.redis, stores.redis.ttl(name), int) < 0]
    assert {"ig3:{console:}:audit"} == set(kept)
    assert 6 == len(names)


async def test_a_person_has_ten_sessions_and_another_one_ends_the_oldest(sessions: SessionStore, clock: Clock) -> None:
    other, _ = await sessions.open(grant("bea"))
    tokens = []
    for _ in range(12):
        clock.now += 1
        tokens.append((await sessions.open(grant()))[0])
    valid = [bool(await sessions.read(token)) for token in (other, *tokens)]
    assert [True, False, False] + 10 * [True] == valid


async def test_a_session_that_was_ended_is_not_revived_by_a_late_use(sessions: SessionStore, clock: Clock) -> None:
    token, opened = await sessions.open(grant())
    clock.now += 60
    await asyncio.gather(sessions.read(token), sessions.end(opened.id, OPS))
    assert await sessions.read(token) is None
    assert [] == await sessions.list_open()


async def test_two_processes_that_redeem_a_link_at_once_open_one_session(redis_url: str, clock: Clock) -> None:
    async with storing(redis_url, clock=clock) as first, storing(redis_url, clock=clock) as second:
        stores = [LinkStore(one.redis, one.changes, clock) for one in (first, second)]
        for _ in range(20):
            token, *_ = await stores[0].create("bea", ConsoleRole.LEAD, "acme", Actor("ops"))
            found = await asyncio.gather(*(store.redeem(token) for store in stores for _ in range(3)))
            assert 1 == len([link for link in found if link])


async def test_a_link_expires_after_a_day(stores: Stores, clock: Clock) -> None:
    links = LinkStore(stores.redis, stores.changes, clock)
    token, link_id, _ = await links.create("bea", ConsoleRole.LEAD, "acme", OPS)
    clock.now += LINK_S - 1
    assert [link_id] == list(await links.list_open())
    clock.now += 1
    assert {} == await links.list_open()
    assert await links.redeem(token) is None
