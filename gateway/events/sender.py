"""Queues events for their endpoints and delivers them, on one process at a time.

An event is delivered at least once to each endpoint that is not disabled, with the same ID: until an attempt is
accepted, or the last of the schedule has failed. Deliveries of one endpoint follow each other, so that those that are
accepted at once arrive in the order of their events; a slow endpoint delays no other.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import GatewayError
from gateway.domain.events import EventType
from gateway.events.channels import Attempt, Channels
from gateway.events.deliveries import Delivery, DeliveryStore, delivery_id
from gateway.events.endpoint_store import EndpointStore
from gateway.events.endpoints import Endpoint, tenant_endpoint
from gateway.events.outbox import Outbox
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock
from gateway.tenants.names import TenantNames
from gateway.tenants.records import read_tenant
from gateway.tenants.store import read_fields

_LOG = structlog.get_logger("imagegate.events")
TICK_S: Final = 1.0
LEADER_S: Final = 15.0
_SWEEP_S: Final = 60.0
_ENDPOINTS_MAX: Final = 64
"""Endpoints that are sent to at one time."""
_TURN_MAX: Final = 50
"""Deliveries of an endpoint before others may have its place."""
_ANSWER_MAX_CHARS: Final = 200
DELAYS_S: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After each failed attempt, as Standard Webhooks advises. After the tenth the delivery has failed."""
_JITTER: Final = 0.1
_RETRY_AFTER_MAX_S: Final = 86_400.0
_GONE: Final = 410
_OF_THRESHOLDS: Final = frozenset((EventType.QUOTA_THRESHOLD.value, EventType.BUDGET_THRESHOLD.value))
_BUSY: Final = frozenset((429, 502, 504))
_BUSY_HOLD_S: Final = 60.0
"""Minimum time in which an endpoint gets nothing after one of these."""


class EventSender:
    """Delivers events. `send_test` works on every process, the others on the one that holds the lock."""

    def __init__(
        self,
        redis: Client,
        outbox: Outbox,
        endpoints: EndpointStore,
        deliveries: DeliveryStore,
        channels: Channels,
        metrics: Metrics,
        lock: LeaderLock,
        random: Callable[[], float],
    ) -> None:
        self._redis, self._outbox, self._endpoints, self._deliveries = redis, outbox, endpoints, deliveries
        self._channels, self._metrics, self._lock, self._random = channels, metrics, lock, random
        self._names = TenantNames(redis)
        self._busy: set[str] = set()
        self._swept_s = -math.inf
        self._is_leader = False

    async def run(self) -> None:
        """Queues and delivers while this process holds the lock; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._elect())
            while True:
                try:
                    if self._is_leader:
                        await self.queue_events()
                        await self.start_due(group)
                except GatewayError as error:
                    _LOG.debug("event_round_failed", detail=str(error))
                await asyncio.sleep(TICK_S)

    async def _elect(self) -> None:
        """Acquires or renews the lock, however long a round lasts; runs until cancelled."""
        while True:
            try:
                self._is_leader = await self._lock.acquire() or await self._lock.renew()
            except GatewayError:
                self._is_leader = False  # Redis is unavailable
            await asyncio.sleep(LEADER_S / 5)

    async def queue_events(self) -> None:
        """Queues the events of all streams that have some. Raises: GatewayError REDIS_UNAVAILABLE."""
        if time.monotonic() - self._swept_s > _SWEEP_S:
            await self._outbox.sweep()
            self._swept_s = time.monotonic()
        for owner in await self._outbox.owners():
            entries = await self._outbox.read(owner)
            for _, event in entries:
                if event:
                    await self._queue(event)
            if entries:
                await self._outbox.delete(owner, [name for name, _ in entries])

    async def _queue(self, event: Delivery) -> None:
        """Queues one event for the endpoints that get it, if it is new. Its data get the tenant's current name."""
        targets: tuple[str, ...] = ()
        if event.tenant and (fields := await read_fields(self._redis, event.tenant)):
            tenant = read_tenant(event.tenant, fields)
            targets = tenant.alert_to
            event = msgspec.structs.replace(event, data=event.data | {"tenant": tenant.current_name})
        found = await self._endpoints.matching(event.type, event.tenant, targets)
        enabled = [one for one in found if not await self._endpoints.disabled(one[0])]
        addressed = [
            (to, msgspec.structs.replace(event, id=delivery_id(event.event_id, to), target=target))
            for to, target in enabled
        ]
        dropped = await self._deliveries.queue(event.event_id, addressed)
        if dropped is not None:
            percent = str(event.data.get("percent", "")) if event.type in _OF_THRESHOLDS else ""
            self._metrics.events.labels(event.type, event.tenant, percent).inc()
        for endpoint in dropped or ():
            self._count(None, "dropped")
            _LOG.error("event_delivery_dropped", endpoint=endpoint, reason="too many pending deliveries")

    async def start_due(self, group: asyncio.TaskGroup) -> None:
        """Starts to deliver to endpoints that are due. Raises: GatewayError REDIS_UNAVAILABLE."""
        for endpoint in await self._deliveries.due():
            if endpoint not in self._busy and len(self._busy) < _ENDPOINTS_MAX:
                self._busy.add(endpoint)
                group.create_task(self.deliver_due(endpoint))

    async def deliver_due(self, name: str) -> None:
        """Delivers what is due at an endpoint, one after another."""
        try:
            for _ in range(_TURN_MAX):
                delivery = await self._deliveries.next_due(name)
                if delivery is None:
                    return
                await self._deliver(name, delivery)
        except GatewayError as error:
            _LOG.debug("event_round_failed", detail=str(error))  # Redis is unavailable: the delivery is still pending
        finally:
            self._busy.discard(name)

    async def _deliver(self, name: str, delivery: Delivery) -> None:
        endpoint = await self._find(name, delivery)
        if endpoint is None or await self._endpoints.disabled(name):
            await self._deliveries.move(name, msgspec.structs.replace(delivery, result="dropped"), None)
            self._count(endpoint, "dropped")
            return
        attempt = await self._channels.send(endpoint, delivery)
        tried = msgspec.structs.replace(
            delivery,
            attempts=delivery.attempts + 1,
            attempted_ms=round(time.time() * 1000),
            status=attempt.status,
            error=attempt.error,
            answer=attempt.text[:_ANSWER_MAX_CHARS],
        )
        if attempt.status is not None and 200 <= attempt.status < 300:
            await self._end(endpoint, tried, "delivered")
        elif attempt.status == _GONE:
            await self._end(endpoint, tried, "failed")
            await self._disable(endpoint, "it answered 410 Gone")
        elif tried.attempts > len(DELAYS_S):
            await self._end(endpoint, tried, "failed")
            if not await self._has_accepted(name, tried):
                await self._disable(endpoint, f"{tried.attempts} attempts to deliver an event failed in three days")
        else:
            await self._retry(endpoint, tried, attempt)

    async def _retry(self, endpoint: Endpoint, tried: Delivery, attempt: Attempt) -> None:
        """Delays the next attempt, and all others if the endpoint is busy or says when to come back."""
        delay_s = DELAYS_S[tried.attempts - 1] * (1 + _JITTER * self._random())
        asked_s = min(attempt.retry_after_s or 0.0, _RETRY_AFTER_MAX_S)
        hold_s = max(asked_s, _BUSY_HOLD_S) if attempt.status in _BUSY else asked_s
        delay_s = max(delay_s, hold_s)
        await self._deliveries.move(endpoint.id, tried, delay_s, hold_s=hold_s)
        self._count(endpoint, "failed")
        _LOG.warning("event_delivery_failed", **_named(endpoint, tried), retry_in_s=round(delay_s))

    async def _end(self, endpoint: Endpoint, tried: Delivery, result: str) -> None:
        await self._deliveries.move(endpoint.id, msgspec.structs.replace(tried, result=result), None)
        self._count(endpoint, "delivered" if result == "delivered" else "given_up")
        if result == "failed":
            _LOG.error("event_delivery_given_up", **_named(endpoint, tried))

    async def _disable(self, endpoint: Endpoint, reason: str) -> None:
        """Disables an endpoint, and tells the other endpoints of the platform."""
        if await self._endpoints.disable(endpoint.id, reason):
            _LOG.error("event_endpoint_disabled", endpoint=endpoint.id, channel=endpoint.channel.value, reason=reason)
            tenant = await self._names.current(endpoint.tenant) if endpoint.tenant else None
            data = {"endpoint": endpoint.id, "name": endpoint.name, "tenant": tenant, "reason": reason}
            await self._outbox.append(EventType.WEBHOOK_DISABLED, data)

    async def _has_accepted(self, name: str, failed: Delivery) -> bool:
        """Returns whether the endpoint has accepted another delivery since the event happened."""
        latest = await self._deliveries.list_latest(name)
        return any(one.result == "delivered" and one.attempted_ms > failed.at_ms for one in latest)

    async def _find(self, name: str, delivery: Delivery) -> Endpoint | None:
        """Returns None for an endpoint that was deleted, or an address that its tenant no longer has."""
        if not delivery.target:
            return await self._endpoints.find(name)
        fields = await read_fields(self._redis, delivery.tenant)
        if not fields or delivery.target not in read_tenant(delivery.tenant, fields).alert_to:
            return None
        return tenant_endpoint(delivery.target, delivery.tenant)

    async def send_test(self, endpoint: Endpoint, kind: EventType) -> Attempt:
        """Sends an event of a type with the values of an example, once. Raises: GatewayError REDIS_UNAVAILABLE."""
        now_ms = round(time.time() * 1000)
        event_id = f"evt_test_{now_ms}"
        data: dict[str, object] = (
            {"id": "batch_test"} if kind.value.startswith("batch.") else {"tenant": "test", "test": True}
        )
        event = Delivery(id="", event_id=event_id, type=kind.value, at_ms=now_ms, data=data)
        return await self._channels.send(endpoint, event)

    def _count(self, endpoint: Endpoint | None, result: str) -> None:
        self._metrics.event_deliveries.labels(endpoint.channel.value if endpoint else "none", result).inc()


def _named(endpoint: Endpoint, delivery: Delivery) -> dict[str, object]:
    """Returns the fields of a log line: no address, which may be secret."""
    return {
        "endpoint": endpoint.id,
        "channel": endpoint.channel.value,
        "event_id": delivery.event_id,
        "event_type": delivery.type,
        "attempts": delivery.attempts,
        "status": delivery.status,
        "detail": delivery.error or None,
    }
