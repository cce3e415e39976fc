"""When a key was last used: recorded once in a while, whichever process it is used with."""

import pytest
import redis as redis_client

from tests.support.administering import OPS, Stores, storing

pytestmark = pytest.mark.anyio


class Clocks:
    """The time that all processes have."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def writes(url: str) -> int:
    """How many SET commands the server has run."""
    with redis_client.Redis.from_url(url) as client:
        return int(client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"])


async def used_at(stores: Stores, key_id: str) -> int | None:
    found = (await stores.keys.get(key_id)).last_used_at
    assert [found] == [key.last_used_at for key in await stores.keys.list_keys("acme") if key.id == key_id]
    return found


async def test_a_use_is_recorded_once_in_five_minutes_by_all_processes_together(redis_url: str) -> None:
    clock, monotonic = Clocks(), Clocks()
    async with (
        storing(redis_url, clock=clock, monotonic=monotonic) as one,
        storing(redis_url, clock=clock, monotonic=monotonic) as other,
    ):
        await one.tenant()
        made = await one.key()
        assert await used_at(one, made.key.id) is None
        began_s = int(clock.now_s)
        assert await one.fault_of(made.secret) is None
        assert began_s == await used_at(other, made.key.id)
        before = writes(redis_url)
        for _ in range(29):
            clock.now_s, monotonic.now_s = clock.now_s + 10, monotonic.now_s + 10
            assert [None, None] == [await stores.fault_of(made.secret) for stores in (one, other)]
        assert (before, began_s) == (writes(redis_url) - 1, await used_at(one, made.key.id))  # the pepper's
        clock.now_s, monotonic.now_s = clock.now_s + 10, monotonic.now_s + 10
        assert await other.fault_of(made.secret) is None
        assert began_s + 300 == await used_at(one, made.key.id)


async def test_a_wrong_secret_and_a_revoked_key_are_no_use(redis_url: str) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant()
        made = await stores.key()
        assert await stores.fault_of(made.secret[:-4] + "0000")
        assert await used_at(stores, made.key.id) is None
        revoked = await stores.keys.revoke(made.key.id, OPS)
        assert revoked.last_used_at is None
        assert await stores.fault_of(made.secret)


async def test_a_clock_that_was_set_back_still_records_uses(redis_url: str) -> None:
    clock = Clocks()
    async with storing(redis_url, clock=clock) as stores:
        await stores.tenant()
        made = await stores.key()
        assert await stores.fault_of(made.secret) is None
        clock.now_s -= 86_400
        assert await stores.fault_of(made.secret) is None
        assert int(clock.now_s) == await used_at(stores, made.key.id)
        entries = await stores.audit("acme")
    assert all("last_used_at" not in (entry["after"] or {}) for entry in entries)
