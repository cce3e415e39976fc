"""How often one address may send wrong keys, and who is let in all the same."""

import asyncio
import math
import tracemalloc
from collections.abc import Callable
from functools import partial

import pytest

from gateway.api.auth_throttle import FailedAuthThrottle, network_of
from gateway.domain.errors import ErrorCode, GatewayError

pytestmark = pytest.mark.anyio

HERE, THERE = "192.0.2.1", "192.0.2.2"
RIGHT = "the-right-key"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Door:
    """Checks keys as the stores do, and counts how many it was shown."""

    def __init__(self, guesses: FailedAuthThrottle) -> None:
        self._guesses = guesses
        self.right = {RIGHT}
        self.seen = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def tenant(self, secret: str, address: str = HERE) -> str:
        """What became of a tenant's key: "right", or the fault with the seconds to wait."""

        async def look() -> str:
            self.seen += 1
            await self.gate.wait()
            return self._judge(secret, ErrorCode.INVALID_API_KEY)

        try:
            return await self._guesses.check_tenant(address, f"Bearer {secret}", look)
        except GatewayError as error:
            return told_of(error)

    def admin(self, secret: str, address: str = HERE) -> str:
        look = partial(self._judge, secret, ErrorCode.ADMIN_UNAUTHORIZED)
        try:
            return self._guesses.check_first(address, secret, look)
        except GatewayError as error:
            return told_of(error)

    def _judge(self, secret: str, wrong: ErrorCode) -> str:
        if secret == "redis-away":
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE)
        if secret not in self.right:
            raise GatewayError(ErrorCode.NO_CREDENTIALS if not secret else wrong)
        return "right"


def told_of(error: GatewayError) -> str:
    waits = "" if error.retry_after_s is None else f" {math.ceil(error.retry_after_s)}"
    return error.error_code.value + waits


def make_door(per_minute: int = 4, clock: Callable[[], float] | None = None, buckets_max: int = 4096) -> Door:
    return Door(FailedAuthThrottle(per_minute, clock or Clock(), buckets_max))


async def guess(door: Door, count: int, address: str = HERE) -> list[str]:
    return [await door.tenant(f"wrong-{number}", address) for number in range(count)]


async def test_so_many_wrong_keys_are_read_and_no_more() -> None:
    door = make_door(4)
    assert [*["invalid_api_key"] * 4, "authentication_throttled 15"] == await guess(door, 5)
    assert 4 == door.seen
    assert "invalid_api_key" == await door.tenant("wrong", THERE)


async def test_the_same_wrong_key_counts_each_time() -> None:
    door = make_door(3)
    told = [await door.tenant("wrong") for _ in range(4)]
    assert [*["invalid_api_key"] * 3, "authentication_throttled 30"] == told


async def test_wrong_keys_of_tenants_and_of_administrators_count_together() -> None:
    door = make_door(2)
    assert ["invalid_api_key", "admin_unauthorized"] == [await door.tenant("a"), door.admin("b")]
    assert ["authentication_throttled 30"] * 2 == [await door.tenant("c"), door.admin("d")]


async def test_a_guess_comes_back_each_part_of_a_minute() -> None:
    clock = Clock()
    door = make_door(4, clock)
    await guess(door, 4)
    clock.now_s += 14.9
    assert "authentication_throttled 1" == await door.tenant("new")
    clock.now_s += 0.2
    assert ["invalid_api_key", "authentication_throttled 15"] == [await door.tenant("new"), await door.tenant("newer")]
    clock.now_s += 3600
    assert [*["invalid_api_key"] * 4, "authentication_throttled 15"] == await guess(door, 5)


async def test_a_tenants_key_that_was_right_anywhere_passes_where_the_guesses_are_spent() -> None:
    door = make_door()
    assert "right" == await door.tenant(RIGHT, THERE)
    await guess(door, 5)
    assert ["right"] * 100 == [await door.tenant(RIGHT) for _ in range(100)]


async def test_a_right_admin_key_passes_where_others_have_spent_the_guesses() -> None:
    """Behind a proxy that is not trusted all clients are one address; wrong keys of both kinds are 429 there."""
    door = make_door(4)
    await guess(door, 3)
    assert ["admin_unauthorized", *["authentication_throttled 15"] * 9] == [door.admin(f"w-{n}") for n in range(10)]
    assert ["right"] * 100 == [door.admin(RIGHT) for _ in range(100)]
    assert "authentication_throttled 15" == door.admin("w-10")


async def test_a_right_admin_key_is_not_known_as_a_tenants() -> None:
    door = make_door()
    door.admin(RIGHT)
    await guess(door, 5)
    assert "authentication_throttled 15" == await door.tenant(RIGHT)


async def test_an_admin_key_that_repeats_itself_leaves_room_for_others() -> None:
    clock = Clock()
    door = make_door(4, clock)
    told = []
    for _ in range(600):
        told.append(door.admin("misconfigured"))
        clock.now_s += 0.1
    assert 4 + 2 == told.count("admin_unauthorized")  # the bucket, and what came back above its half
    assert "right" == await door.tenant(RIGHT)


@pytest.mark.parametrize(("secret", "told"), [("", "no_credentials"), ("redis-away", "redis_unavailable")])
async def test_an_admin_key_that_is_missing_is_no_guess(secret: str, told: str) -> None:
    door = make_door(2)
    assert [told] * 10 == [door.admin(secret) for _ in range(10)]
    assert ["invalid_api_key"] * 2 == (await guess(door, 3))[:2]


async def test_a_key_that_nobody_has_seen_waits_with_the_guessers() -> None:
    door = make_door()
    await guess(door, 5)
    assert "authentication_throttled 15" == await door.tenant(RIGHT)


async def test_who_repeats_one_wrong_key_leaves_room_for_a_new_right_one() -> None:
    """A misconfigured client asks ten times a second; a colleague behind the same address comes for the first time."""
    clock = Clock()
    door = make_door(4, clock)
    told = []
    for _ in range(600):
        told.append(await door.tenant("misconfigured"))
        clock.now_s += 0.1
    assert 4 + 2 == told.count("invalid_api_key")  # the bucket, and what came back above its half
    assert "right" == await door.tenant(RIGHT)


async def test_a_key_that_is_right_no_more_is_a_guess_and_known_no_more() -> None:
    door = make_door(2)
    assert "right" == await door.tenant(RIGHT)
    door.right.clear()
    told = [await door.tenant(RIGHT) for _ in range(3)]
    assert ["invalid_api_key", "invalid_api_key", "authentication_throttled 30"] == told


@pytest.mark.parametrize("secret", ["", "redis-away"])
async def test_no_key_and_no_answer_are_no_guess(secret: str) -> None:
    door = make_door(2)
    for told in ("no_credentials" if not secret else "redis_unavailable",) * 10:
        assert told == await door.tenant(secret)
    assert ["invalid_api_key", "invalid_api_key"] == (await guess(door, 3))[:2]


async def test_no_key_is_told_so_also_where_the_guesses_are_spent() -> None:
    door = make_door(2)
    await guess(door, 3)
    assert "no_credentials" == await door.tenant("")


async def test_zero_limits_nothing() -> None:
    door = make_door(0)
    assert ["invalid_api_key"] * 1000 == await guess(door, 1000)


async def test_of_wrong_keys_sent_at_once_no_more_are_read_than_there_are_tokens() -> None:
    door = make_door(50)
    door.gate.clear()
    tasks = [asyncio.ensure_future(door.tenant(f"wrong-{number}")) for number in range(200)]
    await asyncio.sleep(0)
    door.gate.set()
    told = await asyncio.gather(*tasks)
    assert (50, 150) == (told.count("invalid_api_key"), told.count("authentication_throttled 2"))
    assert 50 == door.seen


async def test_of_new_right_keys_sent_at_once_all_pass() -> None:
    """All tenants come from one address where a proxy is not trusted, and a process that starts knows none."""
    door = make_door(5)
    door.right = {f"right-{number}" for number in range(200)}
    door.gate.clear()
    tasks = [asyncio.ensure_future(door.tenant(f"right-{number}")) for number in range(200)]
    await asyncio.sleep(0)
    door.gate.set()
    assert ["right"] * 200 == await asyncio.gather(*tasks)


async def test_a_check_that_is_cancelled_leaves_its_place() -> None:
    door = make_door(1)
    door.gate.clear()
    for number in range(3):
        task = asyncio.ensure_future(door.tenant(f"wrong-{number}"))
        await asyncio.sleep(0)
        task.cancel()
        assert ["CancelledError"] == [
            type(found).__name__ for found in await asyncio.gather(task, return_exceptions=True)
        ]
    door.gate.set()
    assert "right" == await door.tenant(RIGHT)


async def test_many_addresses_do_not_make_a_spent_one_forgotten() -> None:
    door = make_door(4, buckets_max=100)
    await guess(door, 5)
    for number in range(1000):
        await door.tenant("wrong", f"2001:db8:0:{number:x}::1")
    assert "authentication_throttled 15" == await door.tenant("new")


async def test_memory_has_a_bound() -> None:
    """Thousands of networks guess, each with long keys."""
    door = make_door(4, buckets_max=1000)
    for number in range(1000):
        await door.tenant("x" * 1000, f"2001:db8:0:{number:x}::1")
    tracemalloc.start()
    try:
        for number in range(5000):
            await door.tenant("x" * 1000, f"2001:db8:1:{number:x}::1")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1_500_000


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002/64"),
        ("2001:db8:1:2::", "20010db800010002/64"),
        ("2001:DB8:1:2:FFFF::1", "20010db800010002/64"),
        ("2001:db8:1:3::1", "20010db800010003/64"),
        ("fe80::1%eth0", "fe80000000000000/64"),
        ("", ""),
        ("not an address", "not an address"),
        ("y" * 1000, "y" * 64),
    ],
)
async def test_an_address_stands_for_its_network(address: str, network: str) -> None:
    assert network == network_of(address)
