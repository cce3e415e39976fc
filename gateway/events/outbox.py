"""Streams of events that are not queued for their endpoints yet: of each tenant, each upstream, and the gateway.

A script that decides an event appends it to the stream of its own hash tag, `ig3:{NAME}:events`,
`ig3:{pool:UPSTREAM}:events`; what this program decides without a script goes to `ig3:events`. Fields: `type`, `at_ms`,
`data` (a JSON object), and `id` if the same event may be appended twice. An entry is deleted once it is queued. So an
event is decided once, and a process that is killed between two steps loses none.

A stream without an owner in `ig3:events_announced` is found by a sweep.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from gateway.domain.events import EventType, event_id
from gateway.events.deliveries import Delivery
from gateway.redis import Client, execute
from gateway.tenants.audit import pool_owner
from gateway.tenants.records import names_record, record
from gateway.tenants.store import batched

_LOG = structlog.get_logger("imagegate.events")
LENGTH_MAX: Final = 10_000
"""About as many entries a stream holds; the oldest are dropped."""
_PAGE: Final = 100
_OWNERS_MAX: Final = 20
"""Tenants whose streams are read in a round."""
_ANNOUNCED_MAX: Final = 100_000
_ANNOUNCED_S: Final = 7 * 86_400
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
"""Without the '.' that separates it in what is signed."""
_TYPE: Final = re.compile(r"[a-z0-9_]{1,50}(\.[a-z0-9_]{1,50}){0,4}", re.ASCII)
_AT_MAX_MS: Final = 10**14
"""The year 5138."""
PLATFORM: Final = ""
"""The owner of the gateway's own stream; others are a tenant's name or "pool:UPSTREAM"."""

Entry = tuple[str, Delivery | None]
"""ID in its stream, and the event as an unaddressed delivery; None if the entry is no event."""


class Outbox:
    """Reads and writes the streams. Its methods raise GatewayError REDIS_UNAVAILABLE."""

    def __init__(self, redis: Client, upstreams: Callable[[], Collection[str]]) -> None:
        """`upstreams` returns the names of the configured upstreams."""
        self._redis, self._upstreams = redis, upstreams
        self._announced = f"{redis.prefix}:events_announced"

    def stream(self, owner: str) -> str:
        return record(self._redis, owner, "events") if owner else f"{self._redis.prefix}:events"

    async def notify(self, tenant: str) -> None:
        """Announces that a tenant has events. Redis: one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(self._announced, {tenant: time.time()})
        pipeline.zremrangebyrank(self._announced, _ANNOUNCED_MAX, -1)
        pipeline.expire(self._announced, _ANNOUNCED_S)
        await execute(self._redis, pipeline.execute(), object)

    async def append(
        self, kind: EventType, data: Mapping[str, object], tenant: str = PLATFORM, *, at_s: float = 0, name: str = ""
    ) -> None:
        """Appends an event that no script decides. One that is appended twice with the same `name` is sent once.

        Redis: one round trip, two for a tenant's.
        """
        stream, at_ms = self.stream(tenant), round(1000 * (at_s or time.time()))
        entry: dict[str, str | int] = {"type": kind.value, "at_ms": at_ms, "data": msgspec.json.encode(data).decode()}
        if name:
            entry["id"] = event_id(stream, name)
        adding = self._redis.xadd(stream, entry, maxlen=LENGTH_MAX, approximate=True)  # type: ignore[arg-type]
        await execute(self._redis, adding, object)
        if tenant:
            await self.notify(tenant)

    async def owners(self) -> list[str]:
        """Takes announced tenants, and returns them with the upstreams and the gateway.

        A tenant is taken before its stream is read: an event that comes later announces it again. If this process is
        killed before it has read the stream, the sweep finds the stream.
        Redis: one round trip.
        """
        taken = await execute(self._redis, self._redis.zpopmin(self._announced, _OWNERS_MAX), list[tuple[str, float]])
        return [PLATFORM, *map(pool_owner, self._upstreams()), *(name for name, _ in taken)]

    async def sweep(self) -> None:
        """Announces every tenant that has events. Redis: one round trip per hundred tenants."""
        names = await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])
        for batch in batched(sorted(names)):
            pipeline = self._redis.pipeline(transaction=False)
            for name in batch:
                pipeline.xlen(self.stream(name))
            lengths = await execute(self._redis, pipeline.execute(), list[int])
            for name, length in zip(batch, lengths, strict=True):
                if length:
                    await self.notify(name)

    async def read(self, owner: str) -> list[Entry]:
        """Returns the oldest events of a stream, at most a page. Redis: one round trip."""
        reading = self._redis.xrange(self.stream(owner), count=_PAGE)
        entries = await execute(self._redis, reading, list[tuple[str, dict[str, str]]])
        return [(name, self._event(owner, name, fields)) for name, fields in entries]

    async def delete(self, owner: str, names: Sequence[str]) -> None:
        """Deletes queued entries, and announces a tenant that may have more. Redis: at most two round trips."""
        await execute(self._redis, self._redis.xdel(self.stream(owner), *names), object)
        if len(names) == _PAGE and _is_tenant(owner):
            await self.notify(owner)

    async def count(self) -> int:
        """Returns the number of entries of all announced streams. Redis: two round trips."""
        names = await execute(self._redis, self._redis.zrange(self._announced, 0, 10 * _OWNERS_MAX), list[str])
        pipeline = self._redis.pipeline(transaction=False)
        for owner in (PLATFORM, *map(pool_owner, self._upstreams()), *names):
            pipeline.xlen(self.stream(owner))
        return sum(await execute(self._redis, pipeline.execute(), list[int]))

    def _event(self, owner: str, name: str, fields: dict[str, str]) -> Delivery | None:
        """Reads an entry. One that is no event is logged."""
        try:
            data = msgspec.json.decode(fields["data"], type=dict[str, object])
            kind, at_ms, given = fields["type"], int(fields["at_ms"].partition(".")[0]), fields.get("id", "")
        except (KeyError, ValueError, msgspec.MsgspecError):
            kind, at_ms = "", 0
        if not _TYPE.fullmatch(kind) or not 0 < at_ms < _AT_MAX_MS:
            _LOG.error("event_invalid", stream=self.stream(owner), entry=name)
            return None
        unique = given if _ID.fullmatch(given) else event_id(self.stream(owner), given or name)
        tenant = owner if _is_tenant(owner) else ""
        return Delivery(id="", event_id=unique, type=kind, at_ms=at_ms, data=data, tenant=tenant)


def _is_tenant(owner: str) -> bool:
    return owner != PLATFORM and not owner.startswith(pool_owner(""))
