"""Builds what tells endpoints of events."""

import heapq
import random
import ssl
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gateway.config.resolve import Config
from gateway.domain.billing import usd
from gateway.domain.calendar import Calendar
from gateway.domain.errors import GatewayError
from gateway.domain.usage import GroupBy, UsageFilter, UsageReport
from gateway.events.channels import SPENDERS, Channels
from gateway.events.deliveries import DeliveryStore
from gateway.events.endpoint_store import EndpointStore
from gateway.events.outbox import Outbox
from gateway.events.sender import LEADER_S, EventSender
from gateway.generation.posts import Poster
from gateway.generation.transport import AiohttpTransport
from gateway.metering.ledger import Ledger
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock, execute
from gateway.tenants.records import read_key, record

_DAY_S: Final = 86_400
_KEYS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class EventParts:
    """The outbox, which other rooms write to, and the sender, a background task."""

    outbox: Outbox
    sender: EventSender
    endpoints: EndpointStore
    deliveries: DeliveryStore

    async def purge(self, tenant: str) -> None:
        """Deletes the created endpoints of a tenant and its deliveries. Raises: GatewayError REDIS_UNAVAILABLE."""
        await self.endpoints.purge(tenant)
        await self.deliveries.purge(tenant)

    async def count(self) -> tuple[int, int]:
        """Returns the events that are not queued and the deliveries that are pending, for the metrics."""
        return await self.outbox.count(), await self.deliveries.count_pending()


def build_events(
    config: Config,
    redis: Client,
    outbox: Outbox,
    direct: AiohttpTransport,
    public: AiohttpTransport,
    metrics: Metrics,
    authorities: ssl.SSLContext,
) -> EventParts:
    """`direct` connects to any address, `public` to public ones only. `authorities` certify the mail server."""
    alerts, keep_s = config.alerts, config.settings.audit.retention_days * _DAY_S
    deliveries = DeliveryStore(redis)
    endpoints = EndpointStore(redis, config.secret_box, alerts.endpoints, time.time, keep_s)
    mail = replace(alerts.mail, context=authorities) if alerts.mail else None
    channels = Channels(
        alerts.rules,
        Poster(direct, public, alerts.proxies).post,
        mail.send if mail else None,
        mail.sender if mail else "",
        partial(_spenders, redis, config.calendar),
        alerts.console_url,
        time.time,
    )
    lock = LeaderLock(redis, "events_leader", uuid.uuid4().hex, LEADER_S)
    sender = EventSender(redis, outbox, endpoints, deliveries, channels, metrics, lock, random.random)
    return EventParts(outbox, sender, endpoints, deliveries)


async def _spenders(redis: Client, calendar: Calendar, tenant: str) -> Sequence[tuple[str, str]]:
    """Returns the API keys of a tenant that spent most this month, with the amounts."""
    today = calendar.day(time.time())
    report = UsageReport((GroupBy.KEY,), _KEYS_MAX)
    try:
        await Ledger(redis).fill(report, UsageFilter(today.replace(day=1), today, tenant))
    except GatewayError:  # the tenant was deleted, or Redis is unavailable: the alert matters more than this list
        return []
    spent = [(totals.usd_micros, key) for (key,), totals in report.rows() if totals.usd_micros]
    found = []
    for micros, key in heapq.nlargest(SPENDERS, spent):
        text = await execute(redis, redis.hget(record(redis, tenant, "keys"), key), object)
        label = read_key(str(text)).label if text else ""
        found.append((f"{key} {label}".strip(), usd(micros)))
    return found
