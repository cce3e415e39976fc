"""Makes calls fail, and reads the resulting cooldowns."""

from gateway.domain.accounts import AccountLimits
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, KeyState
from gateway.scheduler import CallReport
from gateway.scheduler.status import AccountStatus, Health, PoolStatus
from tests.scheduler.clocked_pool import ClockedPool
from tests.support.pooling import Process, account

ACCUSERS_MAX = 8
"""Errors that the calls of this many tenants meet count for all tenants: lua/health.lua."""

A, B = account("a", "a-1", "a-2"), account("b")
PERSON = Actor("ann")


async def look(process: Process) -> PoolStatus:
    return (await process.pool.snapshot())[0]


async def standings(process: Process) -> dict[str, Health]:
    """Returns the health by "" (the upstream), account and ACCOUNT/KEY."""
    pool = await look(process)
    found: dict[str, Health] = {"": pool}
    for one in pool.accounts:
        found |= {one.name: one} | {f"{key.account}/{key.name}": key for key in one.keys}
    return found


async def ill(process: Process) -> dict[str, KeyState]:
    return {name: one.state for name, one in (await standings(process)).items() if one.state is not KeyState.READY}


async def only(process: Process) -> AccountStatus:
    (found,) = (await look(process)).accounts
    return found


async def fail(process: Process, error_code: ErrorCode, *avoided: str, pause_s: float | None = None) -> None:
    """Fails a call with a key that is not avoided."""
    await process.pool.release(await process.take(avoided=avoided), CallReport(error_code, pause_s))


async def succeed(process: Process, *avoided: str) -> None:
    await process.pool.release(await process.take(avoided=avoided), CallReport(images=1))


def transitions(process: Process) -> dict[tuple[str, str, str], float]:
    """Counts state changes by account/key, state and error code."""
    (family,) = (one for one in process.metrics.registry.collect() if one.name == "imagegate_pool_state_changes")
    return {
        (f"{of['account']}/{of['key']}".strip("/"), of["state"], of["code"]): count
        for _, of, count, *_ in family.samples
    }


def open_breaker(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(100, 100, 10), "b": AccountLimits(100, 100, 10)}, breaker_failures=1)
    clocked.take("first")
    clocked.release("first", error_code="upstream_error", breaker="ill")
    assert "down" == clocked.lease("second", patience_s=5)["decision"]
    clocked.clock.advance(10.1)
