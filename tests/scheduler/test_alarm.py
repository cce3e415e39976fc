"""When it is not the keys: every one of them is refused, which is one alarm and not many dead keys."""

import pytest
from structlog.testing import capture_logs

from gateway.domain.errors import ErrorCode, KeyState
from gateway.scheduler import CallReport
from tests.support.asking import connected
from tests.support.health import PERSON, A, B, fail, ill, look, standings, succeed
from tests.support.pooling import Process, pass_time, pooling

pytestmark = pytest.mark.anyio

EVERY = {"a/a-1": ("a/a-2", "b/"), "a/a-2": ("a/a-1", "b/"), "b/b-1": ("a/",)}
"""Each key of A and B, and what to avoid in order to get it."""


async def refuse_all(process: Process) -> None:
    """Every key of A and B is refused at once."""
    leases = [await process.take(avoided=avoided) for avoided in EVERY.values()]
    for lease in leases:
        await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
    assert {"": KeyState.QUARANTINED} == await ill(process)


async def until_s(process: Process) -> int:
    """When the upstream is back."""
    return (await look(process)).until_s or 0


async def test_one_refused_key_is_no_alarm(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        with capture_logs() as logs:
            await fail(process, ErrorCode.KEY_INVALID, "a/a-2", "b/")
            await fail(process, ErrorCode.KEY_INVALID, "a/a-1", "b/")
            await succeed(process)
        assert {"a/a-1": KeyState.QUARANTINED, "a/a-2": KeyState.QUARANTINED} == await ill(process)
    assert [] == [line for line in logs if line["event"] == "all_provider_keys_rejected"]


async def test_the_only_key_of_an_upstream_is_no_alarm(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, B) as process:
        await fail(process, ErrorCode.KEY_INVALID)
        assert {"b/b-1": KeyState.QUARANTINED} == await ill(process)


async def test_all_keys_refused_at_once_are_one_alarm_and_recover_together(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        with capture_logs() as logs:
            leases = [await process.take() for _ in range(9)]
            for lease in leases:
                await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
        assert {"": KeyState.QUARANTINED} == await ill(process)
        assert not (await process.refuse()).is_busy
        await pass_time(redis, 60)
        await succeed(process)
        assert {} == await ill(process)
    assert 1 == sum(line["event"] == "all_provider_keys_rejected" for line in logs)


async def test_keys_that_one_tenant_finds_refused_while_another_is_served_are_no_alarm(any_redis: str) -> None:
    """They stay in use; if the other tenant fails too, the alarm is raised."""
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await process.pool.release(await process.take(tenant="other"), CallReport(images=1))
        for avoided in EVERY.values():
            await fail(process, ErrorCode.KEY_INVALID, *avoided)
        assert {} == await ill(process)
        for avoided in EVERY.values():
            lease = await process.take(tenant="other", avoided=avoided)
            await process.pool.release(lease, CallReport(ErrorCode.KEY_INVALID))
        assert {"": KeyState.QUARANTINED} == await ill(process)


async def test_keys_that_a_person_took_out_are_not_waited_for_to_raise_the_alarm(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        await process.roster.set_state("sim", "b", None, KeyState.DISABLED, PERSON)
        for _ in range(2):
            await fail(process, ErrorCode.KEY_INVALID)
        assert {"": KeyState.QUARANTINED, "b": KeyState.DISABLED} == await ill(process)


async def test_a_key_that_has_long_been_dead_counts_among_all(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await fail(process, ErrorCode.KEY_INVALID, *EVERY["b/b-1"])
        await pass_time(redis, 300)
        for member in ("a/a-1", "a/a-2"):
            assert "" not in await ill(process)
            await fail(process, ErrorCode.KEY_INVALID, *EVERY[member])
        assert {"": KeyState.QUARANTINED} == await ill(process)


async def test_keys_that_die_one_by_one_are_no_alarm(redis_url: str) -> None:
    """The last one alone says nothing of a configuration with which it has worked until now."""
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        for avoided in EVERY.values():
            await fail(process, ErrorCode.KEY_INVALID, *avoided)
            await pass_time(redis, 120)
        assert dict.fromkeys(EVERY, KeyState.QUARANTINED) == await ill(process)


async def test_an_account_that_rests_for_itself_does_not_silence_the_alarm(any_redis: str) -> None:
    """Its plan is used up, which says nothing of its keys."""
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await fail(process, ErrorCode.QUOTA_EXHAUSTED_PLAN, *EVERY["b/b-1"])
        for member in ("a/a-1", "a/a-2"):
            await fail(process, ErrorCode.KEY_INVALID, *EVERY[member])
        assert {"": KeyState.QUARANTINED, "b": KeyState.COOLING} == await ill(process)


async def test_one_key_that_is_really_dead_does_not_keep_the_others_down_after_an_alarm(any_redis: str) -> None:
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await refuse_all(process)
        await pass_time(redis, 60)
        await fail(process, ErrorCode.KEY_INVALID, *EVERY["a/a-1"])
        assert {"": KeyState.HALF_OPEN, "a/a-1": KeyState.QUARANTINED} == await ill(process)
        await succeed(process)
        assert {"a/a-1": KeyState.QUARANTINED} == await ill(process)


async def test_a_free_page_that_refuses_one_key_makes_the_alarm_no_longer(any_redis: str) -> None:
    """One that knows another key ends it."""
    invalid = ErrorCode.KEY_INVALID
    async with connected(any_redis) as redis, pooling(redis, A, B) as process:
        await refuse_all(process)
        before_s = await until_s(process)
        await process.roster.apply_probe_result("sim", "a", "a-1", works=False, error_code=invalid, seconds=900)
        assert before_s == await until_s(process)
        assert {"": KeyState.QUARANTINED, "a/a-1": KeyState.QUARANTINED} == await ill(process)
        await process.roster.apply_probe_result("sim", "a", "a-2", works=True, error_code=invalid, seconds=None)
        await succeed(process)
        assert {"a/a-1": KeyState.QUARANTINED} == await ill(process)


async def test_an_alarm_that_was_right_is_raised_again_and_lasts_longer(redis_url: str) -> None:
    """Trials come one at a time then, however long that takes."""
    async with connected(redis_url) as redis, pooling(redis, A, B) as process:
        await refuse_all(process)
        await pass_time(redis, 60)
        for avoided in EVERY.values():
            await fail(process, ErrorCode.KEY_INVALID, *avoided)
            await pass_time(redis, 1)
        assert {"": KeyState.QUARANTINED} == await ill(process)
        assert (await process.refuse()).wait_s == pytest.approx(119, abs=1.5)
        assert ErrorCode.KEY_INVALID.value == (await standings(process))[""].error_code
