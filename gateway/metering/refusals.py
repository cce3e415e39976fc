"""Keeps requests that were refused before anything was bought: who asked when, and the error code.

Never the prompt, never the detail of an error. A refusal costs its request an append to a bounded list; this process
writes what it has once a second. So a flood takes no more memory, and one round trip a second of Redis.

Invariants: no entry is older than 7 days when it is read. A tenant has at most 1,000; all tenants together have about
10,000, of which those with the most give way.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.domain.errors import GatewayError
from gateway.redis import Client, LeaderLock, execute
from gateway.tenants.merged_streams import Entry, MergedStreams, Selection
from gateway.tenants.records import record
from gateway.tenants.store import batched

NO_TENANT: Final = "refusals:"
"""The owner of refusals without a tenant: the API key was wrong. No tenant can have this name."""
KEEP_S: Final = 7 * 86_400
HOURS: Final = 24
LOCK_S: Final = 60.0
"""How often the streams are trimmed, by one process."""
_EVERY_S: Final = 1.0
_PENDING_MAX: Final = 1_000
_OWNER_PENDING_MAX: Final = 50
"""So that the flood of one tenant leaves room for the others."""
_OWNER_MAX: Final = 1_000
_ALL_MAX: Final = 10_000
_OWNERS_MAX: Final = 500
_COUNTS_KEPT_S: Final = 2 * 86_400


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request."""

    request_id: str
    tenant: str
    """ID; "" if the API key was wrong."""
    key_id: str
    model: str
    """As configured; never the caller's text."""
    error_code: str
    param: str


class RefusalRecorder:
    """Writes the refusals of this process."""

    def __init__(
        self, redis: Client, clock: Callable[[], float], lock: LeaderLock, note_dropped: Callable[[int], object]
    ) -> None:
        """`note_dropped` counts refusals that are not kept."""
        self._redis, self._clock, self._lock, self._note_dropped = redis, clock, lock, note_dropped
        self._pending: deque[tuple[str, dict[str, str | int]]] = deque()
        self._by_owner: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        """By error code, of which there is a limited number."""

    def note(self, refusal: Refusal) -> None:
        """Takes a refusal, or only counts it if there are too many."""
        self._counts[refusal.error_code] += 1
        owner = refusal.tenant or NO_TENANT
        if len(self._pending) >= _PENDING_MAX or self._by_owner[owner] >= _OWNER_PENDING_MAX:
            self._note_dropped(1)
            return
        self._by_owner[owner] += 1
        named = {"key_id": refusal.key_id, "model": refusal.model, "param": refusal.param}
        fields: dict[str, str | int] = {name: value for name, value in named.items() if value}
        fields |= {"request_id": refusal.request_id, "code": refusal.error_code}
        self._pending.append((owner, fields | {"at_ms": round(1000 * self._clock())}))

    async def run(self) -> None:
        """Writes and trims; runs until cancelled."""
        while True:
            for _ in range(round(LOCK_S / _EVERY_S)):
                await asyncio.sleep(_EVERY_S)
                await self.flush()
            with suppress(GatewayError):  # Redis is unavailable: the next round trims
                if await self._lock.acquire():
                    await self.trim()

    async def flush(self) -> None:
        """Writes what was noted. What Redis does not confirm is dropped. Redis: at most one round trip."""
        pending, counts = list(self._pending), dict(self._counts)
        self._pending.clear()
        self._by_owner.clear()
        self._counts.clear()
        if not counts:
            return
        now_s = self._clock()
        pipeline = self._redis.pipeline(transaction=False)
        for owner, fields in pending:
            stream = record(self._redis, owner, "refusals")
            pipeline.xadd(stream, fields, maxlen=_OWNER_MAX, approximate=False)  # type: ignore[arg-type]
        for owner in {owner for owner, _ in pending}:
            pipeline.expire(record(self._redis, owner, "refusals"), KEEP_S)
            if owner != NO_TENANT:
                pipeline.zadd(owners_record(self._redis.prefix), {owner: now_s})
        pipeline.expire(owners_record(self._redis.prefix), KEEP_S)
        hour = _counts_record(self._redis, datetime.fromtimestamp(now_s, UTC))
        for code, count in counts.items():
            pipeline.hincrby(hour, code, count)
        pipeline.expire(hour, _COUNTS_KEPT_S)
        try:
            await execute(self._redis, pipeline.execute(), object)
        except GatewayError:
            self._note_dropped(len(pending))

    async def trim(self) -> None:
        """Trims the streams to their bounds. Raises: GatewayError. Redis: at most four round trips a 100 tenants."""
        registry = owners_record(self._redis.prefix)
        oldest_ms = round(1000 * (self._clock() - KEEP_S))
        owners = await execute(self._redis, self._redis.zrange(registry, 0, -1), list[str])
        gone, kept = owners[: max(0, len(owners) - _OWNERS_MAX)], owners[-_OWNERS_MAX:]
        await self._each("UNLINK", gone)
        await self._each("XTRIM", [*kept, NO_TENANT], "MINID", oldest_ms)
        sizes = dict(zip(kept, await self._each("XLEN", kept), strict=True))
        most = fair_share(list(sizes.values()), _ALL_MAX)
        await self._each("XTRIM", [owner for owner, size in sizes.items() if size > most], "MAXLEN", most)
        if forgotten := [*gone, *(owner for owner, size in sizes.items() if not size)]:
            await execute(self._redis, self._redis.zrem(registry, *forgotten), int)

    async def _each(self, command: str, owners: Sequence[str], *args: str | int) -> list[int]:
        """Returns the replies to one command per stream."""
        replies: list[int] = []
        for batch in batched(list(owners)):
            pipeline = self._redis.pipeline(transaction=False)
            for owner in batch:
                pipeline.execute_command(command, record(self._redis, owner, "refusals"), *args)
            replies += await execute(self._redis, pipeline.execute(), list[int])
        return replies


@dataclass(frozen=True, slots=True, repr=False)
class RefusalList:
    """Reads refusals. Its methods raise GatewayError REDIS_UNAVAILABLE."""

    redis: Client
    clock: Callable[[], float]

    async def page(self, tenant: str | None, limit: int, wanted: Selection) -> tuple[list[Entry], str | None]:
        """Returns the newest refusals of a tenant, or of all, and the cursor of the next page.

        Redis: one round trip, one per hundred tenants more; with a filter at most ten times as many.
        """
        oldest_ms = max(wanted.first_ms, round(1000 * (self.clock() - KEEP_S)))
        owners = {tenant} if tenant else {NO_TENANT, *await self._owners()}
        streams = MergedStreams(self.redis, "refusals", _OWNER_MAX, _ALL_MAX // _OWNER_MAX)
        found, following = await streams.page(owners, limit, Selection(oldest_ms, wanted.end, wanted.matches))
        return found, str(following) if following else None

    async def counts(self) -> tuple[int, list[tuple[str, int]]]:
        """Returns the Unix second since which refusals are counted, and their number by error code, highest first.

        It is the beginning of an hour, 23 to 24 hours ago. Redis: one round trip.
        """
        last = datetime.fromtimestamp(self.clock(), UTC).replace(minute=0, second=0, microsecond=0)
        hours = [last - timedelta(hours=number) for number in range(HOURS)]
        pipeline = self.redis.pipeline(transaction=False)
        for hour in hours:
            pipeline.hgetall(_counts_record(self.redis, hour))
        total: Counter[str] = Counter()
        for counts in await execute(self.redis, pipeline.execute(), list[dict[str, str]]):
            total.update({code: int(count) for code, count in counts.items()})
        return int(hours[-1].timestamp()), total.most_common()

    async def _owners(self) -> list[str]:
        return await execute(self.redis, self.redis.zrange(owners_record(self.redis.prefix), 0, -1), list[str])


def owners_record(prefix: str) -> str:
    """Returns the name of the sorted set of tenants that have refusals, by the last one."""
    return f"{prefix}:{{{NO_TENANT}}}:owners"


def fair_share(sizes: Sequence[int], most: int) -> int:
    """Returns the greatest size such that all `sizes`, cut to it, are together at most `most`."""
    for at, size in enumerate(ordered := sorted(sizes)):
        share = (most - sum(ordered[:at])) // (len(ordered) - at)
        if size > share:
            return share
    return max(sizes, default=0)


def _counts_record(redis: Client, hour: datetime) -> str:
    return record(redis, NO_TENANT, f"counts:{hour:%Y%m%d%H}")
