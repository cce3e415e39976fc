"""Pending and ended deliveries of every endpoint, in Redis, in one hash tag.

Redis keys, `ig3:{events:}:NAME`. ENDPOINT is an endpoint's ID:

| name | type | TTL | what |
|---|---|---|---|
| known | sorted set | 3 days | IDs of events that were queued, by time; at most 100,000 |
| due | sorted set | none | endpoints with pending deliveries, by when they are next due |
| holds | hash | 30 days | ENDPOINT -> when it may be sent to again, Unix milliseconds |
| pending:ENDPOINT | sorted set | 30 days | delivery IDs by when they are due; at most 1,000 |
| ended:ENDPOINT | sorted set | 30 days | IDs of the latest 100 deliveries that ended, by time |
| deliveries:ENDPOINT | hash | 30 days | delivery ID -> JSON |
| disabled:ENDPOINT | string | 30 days, created ones none | JSON: since when no delivery is made, and why |

An event is queued for all its endpoints in one step, and only once: its ID is in `known`. A delivery stays pending
until its result is stored, so one that a killed process was sending is sent again, with the same ID.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import structlog

from gateway.events.endpoints import ADDRESS_PREFIX
from gateway.redis import Client, execute, load_script, scan_keys
from gateway.tenants.names import TenantNames

_LOG = structlog.get_logger("imagegate.events")
KEPT_S: Final = 30 * 86_400
_KNOWN_S: Final = 3 * 86_400
_KNOWN_MAX: Final = 100_000
PENDING_MAX: Final = 1000
"""Limit on the pending deliveries of an endpoint; the one that is due first makes room."""
ENDED_MAX: Final = 100
_DUE_MAX: Final = 200
"""Endpoints per round trip."""
PENDING: Final = "pending"


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event on its way to one endpoint, with the result of the last attempt."""

    id: str
    event_id: str
    type: str
    at_ms: int
    """When the event happened, Unix milliseconds."""
    data: dict[str, object]
    tenant: str = ""
    target: str = ""
    """The address, if the endpoint is one of a tenant's `alert_to`."""
    result: str = PENDING
    """"pending", "delivered", "failed" or "dropped"."""
    attempts: int = 0
    attempted_ms: int = 0
    status: int | None = None
    error: str = ""
    answer: str = ""
    """The beginning of the last response."""


class _Queued(msgspec.Struct, frozen=True):
    is_new: bool
    dropped: list[str] | dict[str, str] = []


def delivery_id(event_id: str, endpoint: str) -> str:
    return "dlv_" + hashlib.blake2b(f"{event_id} {endpoint}".encode(), digest_size=12).hexdigest()


class DeliveryStore:
    """The deliveries of all endpoints. Raises: GatewayError REDIS_UNAVAILABLE, as all its methods do."""

    def __init__(self, redis: Client) -> None:
        self._redis, self._names = redis, TenantNames(redis)
        self._queue = load_script(redis, "events/queue")
        self._move, self._due = load_script(redis, "events/move"), load_script(redis, "events/due")

    def _key(self, *names: str) -> str:
        return events_record(self._redis.prefix, ":".join(names))

    async def queue(self, event_id: str, deliveries: Sequence[tuple[str, Delivery]]) -> list[str] | None:
        """Queues the deliveries of an event, each with its endpoint; None if the event was queued before.

        Returns: endpoints of which the oldest delivery was dropped. Redis: one round trip, lua/queue.lua.
        """
        keys = [self._key(name) for name in ("known", "due", "holds")]
        for endpoint, _ in deliveries:
            keys += [self._key(kind, endpoint) for kind in ("pending", "deliveries")]
        args = {
            "event_id": event_id,
            "deliveries": [{"endpoint": to, "id": one.id, "text": _json(one)} for to, one in deliveries],
            "pending_max": PENDING_MAX,
            "known_s": _KNOWN_S,
            "known_max": _KNOWN_MAX,
            "kept_s": KEPT_S,
        }
        queued = msgspec.json.decode(str(await self._queue(keys, [msgspec.msgpack.encode(args)])), type=_Queued)
        return list(queued.dropped) if queued.is_new else None

    async def due(self) -> list[str]:
        """Returns endpoints that have due deliveries. Redis: one round trip, lua/due.lua."""
        return list(map(str, await self._find_due(["due"], {"count": _DUE_MAX})))

    async def next_due(self, endpoint: str) -> Delivery | None:
        """Returns the delivery of an endpoint that is due first. Redis: one round trip, lua/due.lua."""
        names = [f"pending:{endpoint}", "holds", f"deliveries:{endpoint}"]
        while found := await self._find_due(names, {"endpoint": endpoint}):
            try:
                return msgspec.json.decode(str(found[1]), type=Delivery)
            except msgspec.DecodeError:
                _LOG.error("event_invalid", stream=self._key(names[0]), entry=str(found[0]))
                await self._run_move(endpoint, str(found[0]), "", PENDING, None, 0)
        return None

    async def _find_due(self, names: Sequence[str], args: Mapping[str, object]) -> list[object]:
        found = await self._due([self._key(name) for name in names], [msgspec.msgpack.encode(args)])
        assert isinstance(found, list)
        return found

    async def find(self, endpoint: str, wanted: str) -> Delivery | None:
        text = await execute(self._redis, self._redis.hget(self._key("deliveries", endpoint), wanted), object)
        return msgspec.json.decode(str(text), type=Delivery) if text else None

    async def move(self, endpoint: str, delivery: Delivery, delay_s: float | None, *, hold_s: float = 0) -> bool:
        """Stores a delivery that is due again after a delay, or without one has ended.

        Returns: False if it is no longer pending. Redis: one round trip, lua/move.lua.
        """
        return await self._run_move(endpoint, delivery.id, _json(delivery), PENDING, delay_s, hold_s)

    async def replay(self, endpoint: str, delivery: Delivery) -> bool:
        """Makes an ended delivery due, with the same event ID. Returns: False if it has not ended."""
        again = msgspec.structs.replace(delivery, result=PENDING, attempts=0)
        return await self._run_move(endpoint, again.id, _json(again), "ended", 0, 0)

    async def _run_move(
        self, endpoint: str, name: str, text: str, come: str, delay_s: float | None, hold_s: float
    ) -> bool:
        keys = [self._key("due"), self._key("holds")]
        keys += [self._key(kind, endpoint) for kind in ("pending", "deliveries", "ended")]
        args = {
            "endpoint": endpoint,
            "id": name,
            "text": text,
            "from": come,
            "delay_ms": -1 if delay_s is None else round(delay_s * 1000),
            "hold_ms": round(hold_s * 1000),
            "ended_max": ENDED_MAX,
            "kept_s": KEPT_S,
        }
        return await self._move(keys, [msgspec.msgpack.encode(args)]) == 1

    async def list_latest(self, endpoint: str) -> list[Delivery]:
        """Returns at most 100 deliveries, the latest event first. Redis: two round trips."""
        pipeline = self._redis.pipeline(transaction=False)
        for kind in ("pending", "ended"):
            pipeline.zrevrange(self._key(kind, endpoint), 0, ENDED_MAX - 1)
        found = [name for names in await execute(self._redis, pipeline.execute(), list[list[str]]) for name in names]
        if not found:
            return []
        reading = self._redis.hmget(self._key("deliveries", endpoint), found)
        texts = await execute(self._redis, reading, list[str | None])
        stored = [msgspec.json.decode(text, type=Delivery) for text in texts if text]
        return sorted(stored, key=lambda one: -one.at_ms)[:ENDED_MAX]

    async def forget(self, endpoint: str) -> None:
        """Deletes all deliveries of an endpoint. Redis: one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrem(self._key("due"), endpoint)
        pipeline.delete(*(self._key(kind, endpoint) for kind in ("pending", "ended", "deliveries", "disabled")))
        await execute(self._redis, pipeline.execute(), object)

    async def purge(self, tenant: str) -> None:
        """Deletes the deliveries of a tenant, given by its ID, and those of other events that name it.

        Redis: a scan of all keys, and at most two round trips per endpoint and one per delivery of the tenant.
        """
        start = self._key("deliveries", "")
        async with aclosing(scan_keys(self._redis, f"{start}*")) as parts:
            async for keys in parts:
                for key in keys:
                    await self._purge(key.removeprefix(start), tenant)

    async def _purge(self, endpoint: str, tenant: str) -> None:
        reading = self._redis.hgetall(self._key("deliveries", endpoint))
        stored = (await execute(self._redis, reading, dict[str, str])).items()
        named = {name: one for name, text in stored if (one := _names(text))}
        ids = await self._names.ids_of(sorted(set().union(*named.values())))
        doomed = [name for name, names in named.items() if tenant in {ids[one] for one in names}]
        if doomed and endpoint.startswith(ADDRESS_PREFIX):  # an address of this tenant's `alert_to`
            await self.forget(endpoint)
            return
        for name in doomed:
            await self._run_move(endpoint, name, "", "", None, 0)

    async def count_pending(self) -> int:
        """Returns the number of pending deliveries. Redis: two round trips."""
        endpoints = await execute(self._redis, self._redis.zrange(self._key("due"), 0, -1), list[str])
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint in endpoints[: 10 * _DUE_MAX]:
            pipeline.zcard(self._key("pending", endpoint))
        return sum(await execute(self._redis, pipeline.execute(), list[int])) if endpoints else 0


def events_record(prefix: str, name: str) -> str:
    """Returns a Redis key of the endpoints. No tenant has the name of this hash tag."""
    return f"{prefix}:{{events:}}:{name}"


def _names(text: str) -> set[str]:
    """Returns the ID and the name of the tenant that a stored delivery is about."""
    try:
        delivery = msgspec.json.decode(text, type=Delivery)
    except msgspec.DecodeError:
        return set()
    return {name for name in (delivery.tenant, delivery.data.get("tenant")) if name and isinstance(name, str)}


def _json(delivery: Delivery) -> str:
    return msgspec.json.encode(delivery).decode()
