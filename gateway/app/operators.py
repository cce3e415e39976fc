"""Builds the sections of the admin API that concern the whole gateway, and what keeps refusals."""

import time
import uuid
from collections.abc import Sequence

from gateway import __version__
from gateway.api.admin import AdminSection
from gateway.api.admin.configuration import ConfigurationSection
from gateway.api.admin.overview import OverviewSection, SpendByDay
from gateway.api.admin.pool import PoolSection
from gateway.api.bodies import BodyLimits
from gateway.api.pool_gauges import PoolGauges
from gateway.app.backends import SchedulerParts
from gateway.config.described import ConfigInForce
from gateway.generation.key_checks import KeyHealthMonitor
from gateway.metering.ledger import Ledger
from gateway.metering.refusals import LOCK_S, RefusalList, RefusalRecorder
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock
from gateway.scheduler.history import StateHistory
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames


def build_operators_sections(
    in_force: ConfigInForce,
    redis: Client,
    scheduling: SchedulerParts,
    prober: KeyHealthMonitor,
    gauges: PoolGauges,
    limits: BodyLimits,
) -> Sequence[AdminSection]:
    """`gauges` have the expiry of the certificate."""
    settings, pool = in_force.started.settings, scheduling.scheduler

    def certificate() -> tuple[str, int] | None:
        return (settings.server.host, int(gauges.certificate_end_s)) if gauges.certificate_end_s else None

    spend, refusals = SpendByDay(Ledger(redis)), RefusalList(redis, time.time)
    keys = KeyList(redis, TenantNames(redis), time.time)
    return (
        PoolSection(pool, scheduling.members, prober, limits, StateHistory(redis)),
        OverviewSection(spend, in_force.started.calendar, pool, keys, refusals, certificate, time.time),
        ConfigurationSection(__version__, in_force.describe),
    )


def build_refusal_recorder(redis: Client, metrics: Metrics) -> RefusalRecorder:
    lock = LeaderLock(redis, "refusals_leader", uuid.uuid4().hex, LOCK_S)
    return RefusalRecorder(redis, time.time, lock, metrics.refusals_dropped.inc)
