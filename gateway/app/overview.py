"""Builds the overview of the admin API, and what keeps refusals."""

import time
import uuid

from gateway.api.admin.overview import OverviewSection, SpendByDay
from gateway.api.pool_gauges import PoolGauges
from gateway.config.resolve import Config
from gateway.metering.ledger import Ledger
from gateway.metering.refusals import LOCK_S, RefusalList, RefusalRecorder
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock
from gateway.scheduler import Scheduler
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames


def build_overview(config: Config, redis: Client, pool: Scheduler, gauges: PoolGauges) -> OverviewSection:
    """`gauges` have the expiry of the certificate."""
    host = config.settings.server.host

    def certificate() -> tuple[str, int] | None:
        return (host, int(gauges.certificate_end_s)) if gauges.certificate_end_s else None

    keys = KeyList(redis, TenantNames(redis), time.time)
    spend, refusals = SpendByDay(Ledger(redis)), RefusalList(redis, time.time)
    return OverviewSection(spend, config.calendar, pool, keys, refusals, certificate, time.time)


def build_refusal_recorder(redis: Client, metrics: Metrics) -> RefusalRecorder:
    lock = LeaderLock(redis, "refusals_leader", uuid.uuid4().hex, LOCK_S)
    return RefusalRecorder(redis, time.time, lock, metrics.refusals_dropped.inc)
