"""Builds the overview of the admin API."""

import time

from gateway.api.admin.overview import OverviewSection, SpendByDay
from gateway.api.pool_gauges import PoolGauges
from gateway.config.resolve import Config
from gateway.metering.ledger import Ledger
from gateway.redis import Client
from gateway.scheduler import Scheduler
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames


def build_overview(config: Config, redis: Client, pool: Scheduler, gauges: PoolGauges) -> OverviewSection:
    """`gauges` have the expiry of the certificate."""
    host = config.settings.server.host

    def certificate() -> tuple[str, int] | None:
        return (host, int(gauges.certificate_end_s)) if gauges.certificate_end_s else None

    keys = KeyList(redis, TenantNames(redis), time.time)
    return OverviewSection(SpendByDay(Ledger(redis)), config.calendar, pool, keys, certificate, time.time)
