"""Which accounts and keys there are, while it runs."""

import asyncio

import pytest

from gateway.domain.accounts import Account, AccountLimits, Pool, ProviderKey, make_secret
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError, KeyState
from gateway.scheduler import CallReport
from gateway.scheduler.encryption import SecretBox
from gateway.scheduler.scripts import record
from tests.support.asking import connected
from tests.support.health import A, B, fail, ill, standings, succeed
from tests.support.pooling import UNLIMITED, account, left_over, pooling

pytestmark = pytest.mark.anyio

PERSON = Actor("ann", "req-1")
ADDED = ProviderKey("sim", "new", "new-1", make_secret("sk-added"))


def vault() -> SecretBox:
    return SecretBox((make_secret("an encryption key of a good length"),))


async def test_a_key_that_is_added_is_used_by_all_processes_at_once_and_stops_at_once(any_redis: str) -> None:
    async with (
        connected(any_redis) as redis,
        pooling(redis, account("a"), vault=vault()) as one,
        pooling(redis, account("a"), vault=vault()) as other,
    ):
        await one.roster.add(ADDED, UNLIMITED, PERSON)
        lease = await other.take(avoided=("a/",))
        assert ("new-1", "sk-added") == (lease.key.name, lease.key.secret.plaintext)
        await one.roster.remove("sim", "new", "new-1", PERSON)
        await other.refuse(avoided=("a/",))
        await other.pool.release(lease, CallReport(images=1))
        assert [] == await left_over(redis)


async def test_what_a_person_said_survives_a_new_configuration(any_redis: str) -> None:
    async with connected(any_redis) as redis:
        async with pooling(redis, account("a"), account("b"), vault=vault()) as process:
            await process.roster.add(ADDED, UNLIMITED, PERSON)
            await process.roster.set_state("sim", "a", None, KeyState.DISABLED, PERSON)
        async with pooling(redis, account("a"), vault=vault()) as process:
            assert {"new-1"} == {(await process.take()).key.name for _ in range(3)}
            (status,) = await process.pool.snapshot()
    assert {"a": KeyState.DISABLED, "new": KeyState.READY} == {one.name: one.state for one in status.accounts}


async def test_an_account_that_is_removed_and_added_again_keeps_its_minute(any_redis: str) -> None:
    limits = AccountLimits(requests_per_minute=2)
    async with connected(any_redis) as redis, pooling(redis, account("a"), vault=vault()) as process:
        await process.roster.add(ADDED, limits, PERSON)
        first = await process.take(avoided=("a/",))
        await process.take(avoided=("a/",))
        await process.roster.remove("sim", "new", "new-1", PERSON)
        await process.pool.release(first, CallReport(images=1))
        await process.roster.add(ADDED, limits, PERSON)
        assert (await process.refuse(avoided=("a/",), patience_s=0)).wait_s is not None


async def test_a_mended_secret_starts_with_a_clean_record(any_redis: str) -> None:
    mended = Account("sim", "a", UNLIMITED, (ProviderKey("sim", "a", "a-1", make_secret("another")),))
    async with connected(any_redis) as redis, pooling(redis, account("a")) as process:
        old = await process.take()
        await process.pool.release(await process.take(), CallReport(ErrorCode.KEY_INVALID))
        await process.refuse()
        await process.roster.declare([Pool("sim", (mended,))])
        assert "another" == (await process.take()).key.secret.plaintext
        await process.pool.release(old, CallReport(ErrorCode.KEY_INVALID))
        await process.take()


async def test_a_key_of_another_processs_configuration_is_given_back(any_redis: str) -> None:
    """The newer configuration has one more: who does not know its secret uses what it knows."""
    async with (
        connected(any_redis) as redis,
        pooling(redis, account("a")) as old,
        pooling(redis, account("a"), account("b")) as new,
    ):
        assert {"a-1"} == {(await old.take()).key.name for _ in range(6)}
        assert {"a-1", "b-1"} == {(await new.take()).key.name for _ in range(20)}
        assert 26 == sum(one.in_flight for one in (await new.pool.snapshot())[0].accounts)


async def test_the_first_requests_of_all_all_find_a_key(any_redis: str) -> None:
    """Many at once meet a pool that Redis does not know yet: whoever fills it, nobody is sent away."""
    async with (
        connected(any_redis, timeout_s=10) as redis,
        pooling(redis, account("a"), is_new=True) as one,
        pooling(redis, account("a"), is_new=True) as two,
    ):
        await asyncio.gather(*((one, two)[number % 2].take() for number in range(40)))


async def test_a_pool_survives_a_script_flush(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, account("a")) as process:
        lease = await process.take()
        await redis.script_flush()
        await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
        assert not (await process.refuse()).is_busy


async def test_upstreams_share_nothing_even_with_keys_of_the_same_names(any_redis: str) -> None:
    accounts = account("a"), account("a", upstream="other")
    async with connected(any_redis) as redis, pooling(redis, *accounts) as process:
        await process.pool.release(await process.take(), CallReport(ErrorCode.KEY_INVALID))
        assert "other" == (await process.take(upstream="other")).key.upstream


async def test_without_redis_a_lease_is_a_fault_of_the_gateway() -> None:
    async with (
        connected("unix:///nowhere/redis.sock") as redis,
        pooling(redis, account("a"), is_new=True) as process,
    ):
        with pytest.raises(GatewayError) as caught:
            await process.ask()
    assert ErrorCode.REDIS_UNAVAILABLE is caught.value.error_code


async def test_nothing_can_be_added_without_a_vault_or_twice_and_what_is_declared_not_be_removed(
    redis_url: str,
) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        for act in (process.roster.add(ADDED, None, PERSON), process.roster.remove("sim", "a", "a-1", PERSON)):
            with pytest.raises(GatewayError) as caught:
                await act
            assert ErrorCode.CONFLICT is caught.value.error_code
        with pytest.raises(GatewayError) as caught:
            await process.roster.remove("sim", "a", "a-9", PERSON)
        assert ErrorCode.NOT_FOUND is caught.value.error_code


async def test_a_secret_that_another_key_has_is_not_added(any_redis: str) -> None:
    """Its account would be taken to have limits of its own."""
    twins = [ProviderKey("sim", account, "twin-1", make_secret("a-1")) for account in ("a", "new")]
    async with connected(any_redis) as redis, pooling(redis, account("a"), vault=vault()) as process:
        for twin in twins:
            with pytest.raises(GatewayError) as caught:
                await process.roster.add(twin, UNLIMITED, PERSON)
            assert ErrorCode.CONFLICT is caught.value.error_code
            assert "'a/a-1' has the same secret" in caught.value.detail
        assert {"": KeyState.READY, "a": KeyState.READY, "a/a-1": KeyState.READY} == {
            name: one.state for name, one in (await standings(process)).items()
        }
        assert 0 == await redis.xlen(record("sim", "audit"))


async def test_what_a_person_enables_may_be_tried_at_once(any_redis: str) -> None:
    """They know that it is mended; what they did not name rests on."""
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        for error_code, avoided in (
            (ErrorCode.KEY_MODEL_DENIED, ("a/a-2", "b/")),
            (ErrorCode.INSUFFICIENT_BALANCE, ("a/a-1", "b/")),
            (ErrorCode.KEY_INVALID, ("a/",)),
        ):
            await fail(process, error_code, *avoided)
        resting = {"a": KeyState.QUARANTINED, "a/a-1": KeyState.QUARANTINED, "b/b-1": KeyState.QUARANTINED}
        assert resting == await ill(process)
        await process.roster.set_state("sim", "a", None, KeyState.READY, PERSON)
        assert resting | {"a": KeyState.HALF_OPEN, "a/a-1": KeyState.HALF_OPEN} == await ill(process)
        await succeed(process, "a/a-2")
        assert {"b/b-1": KeyState.QUARANTINED} == await ill(process)
        await process.roster.set_state("sim", "b", "b-1", KeyState.READY, PERSON)
        await succeed(process, "a/")
        assert {} == await ill(process)


async def test_a_key_that_is_enabled_and_does_not_work_rests_again(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        await fail(process, ErrorCode.KEY_INVALID, "a/")
        await process.roster.set_state("sim", "b", "b-1", KeyState.READY, PERSON)
        await fail(process, ErrorCode.KEY_INVALID, "a/")
        assert {"b/b-1": KeyState.QUARANTINED} == await ill(process)
