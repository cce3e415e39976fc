"""A process's scheduler with its background tasks, for tests without a gateway."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.domain.accounts import Account, AccountLimits, Pool, PoolConfig, ProviderKey, make_secret
from gateway.observability.metrics import Metrics
from gateway.redis import Client, execute
from gateway.scheduler import Lease, LeaseRequest, NoCapacity, Scheduler, channel_of
from gateway.scheduler.encryption import SecretBox
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue
from gateway.scheduler.scripts import Scripts, record

_PROCESSES = itertools.count()
UNLIMITED = AccountLimits(100_000, 1_000_000, 10_000)
MINUTE_S = 61.0
"""The rate window with the usual margin."""
TAKEN_BACK = (
    "leases",
    "leased",
    "grants",
    "queue",
    "waiters",
    "classes",
    "waits",
    "active",
    "weights",
)
"""Redis keys that are empty when no request has or awaits a lease."""
_PASS_TIME = """
local us, base = tonumber(ARGV[1]), string.match(KEYS[1], '^(.*:)[^:]*$')
local function sooner(record, names)
  for _, name in ipairs(names) do if record[name] then record[name] = record[name] - us end end
end
for _, name in ipairs({'loads', 'leased', 'health', 'flows'}) do
  local kept = redis.call('HGETALL', base .. name)
  for i = 1, #kept, 2 do
    local record = cmsgpack.unpack(kept[i + 1])
    sooner(record, {'t', 'rate_at', 'concurrency_at', 'used_at', 'paced_at', 'batch_at', 'since_us', 'until_us', 'vt'})
    if name == 'flows' then sooner(record, {'s'}) end
    for j = 1, record.log and #record.log or 0, 4 do record.log[j] = record.log[j] - us end
    redis.call('HSET', base .. name, kept[i], cmsgpack.pack(record))
  end
end
for _, name in ipairs({'timers', 'leases', 'used', 'recent', 'served'}) do
  for _, member in ipairs(redis.call('ZRANGE', base .. name, 0, -1)) do
    redis.call('ZINCRBY', base .. name, -us, member)
  end
end
local meta = base .. 'meta'
redis.call('HSET', meta, 'minute', tonumber(redis.call('HGET', meta, 'minute') or 0) - math.floor(us / 60000000))
for _, name in ipairs({'well_since', 'over_share_due'}) do
  local at = tonumber(redis.call('HGET', meta, name) or 0)
  redis.call('HSET', meta, name, string.format('%.0f', math.max(0, at - us)))
end
return 1
"""


async def pass_time(redis: Client, seconds: float, upstream: str = "sim") -> None:
    """Ages everything of an upstream; live processes stay alive."""
    await execute(redis, redis.eval(_PASS_TIME, 1, record(upstream, "meta"), round(seconds * 1e6)), int)


async def left_over(redis: Client, upstream: str = "sim") -> list[str]:
    """Returns the existing keys of TAKEN_BACK."""
    return [name for name in TAKEN_BACK if await execute(redis, redis.exists(record(upstream, name)), int)]


async def stays() -> None:
    """A client that never disconnects."""
    await asyncio.Event().wait()


@dataclass
class Process:
    """One gateway process's part of the scheduler."""

    pool: Scheduler
    roster: AccountRegistry
    queue: Queue
    metrics: Metrics

    async def ask(self, **changes: Any) -> Lease | NoCapacity:
        """Requests a lease: by default one image for tenant `acme` at `sim`, without waiting."""
        return await self.pool.lease(replace(DEMAND, **changes), stays)

    async def take(self, **changes: Any) -> Lease:
        found = await self.ask(**changes)
        assert isinstance(found, Lease), found
        return found

    async def refuse(self, **changes: Any) -> NoCapacity:
        found = await self.ask(**changes)
        assert isinstance(found, NoCapacity), found
        return found


UNPACED = PoolConfig(paced_percent=0)
"""Free capacity is granted immediately."""
DEMAND = LeaseRequest("sim", "image-01", 1, "acme", 1, 0.0)


def account(name: str, *keys: str, upstream: str = "sim", limits: AccountLimits = UNLIMITED) -> Account:
    """Returns an account with keys that are their own secrets; by default one, `NAME-1`."""
    named = keys or (f"{name}-1",)
    return Account(upstream, name, limits, tuple(ProviderKey(upstream, name, key, make_secret(key)) for key in named))


@asynccontextmanager
async def pooling(
    redis: Client,
    *accounts: Account,
    terms: PoolConfig = UNPACED,
    vault: SecretBox | None = None,
    lease_s: float = 60.0,
    clock: Callable[[], float] = time.time,
    is_new: bool = False,
) -> AsyncIterator[Process]:
    """Runs a process with these accounts, registered in Redis unless the gateway `is_new`."""
    metrics = Metrics()
    scripts = Scripts(redis, metrics, clock)
    process = f"test{next(_PROCESSES)}"
    roster = AccountRegistry(redis, scripts, vault, clock, process=process, audit_keep_s=1000)
    pools = [
        Pool(upstream, tuple(one for one in accounts if one.upstream == upstream), terms)
        for upstream in dict.fromkeys(one.upstream for one in accounts)
    ]
    roster.configure(pools)
    queue = Queue(redis, scripts, roster, channel_of(process), process, time.monotonic, lease_s)
    pool = Scheduler(scripts, roster, queue, clock, time.monotonic, lease_s)
    if not is_new:
        await roster.declare(pools)
    background_tasks = [asyncio.ensure_future(run()) for run in (queue.run_heartbeat, queue.listen, roster.run)]
    try:
        yield Process(pool, roster, queue, metrics)
    finally:
        living = set(background_tasks)
        while living:  # redis-py sometimes swallows a cancellation
            for companion in living:
                companion.cancel()
            _, living = await asyncio.wait(living, timeout=1)
        await roster.withdraw()
