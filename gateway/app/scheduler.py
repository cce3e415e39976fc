"""Composes the pool of upstream accounts: its schedule, its roster, and who brings resting keys back."""

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.app.admin import read_vault
from gateway.config import Settings
from gateway.domain.accounts import Pool
from gateway.generation.key_checker import KeyHealthMonitor, Suspects
from gateway.generation.key_checks import KeyChecker
from gateway.lifespan import AsyncCallback
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.redis.journal import Journal
from gateway.redis.leader import KEY_CHECK_LEADER, LeaderLock
from gateway.scheduler import Scheduler, channel_of
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue
from gateway.scheduler.scripts import Scripts
from gateway.scheduler.unsaved_releases import Releases

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class SchedulerParts:
    """What the rest of the program needs of it."""

    pool: Scheduler
    roster: AccountRegistry
    queue: Queue
    releases: Releases

    @property
    def background_tasks(self) -> tuple[AsyncCallback, ...]:
        """What runs beside the program."""
        return self.queue.listen, self.queue.run_heartbeat, self.roster.run


def build_scheduler(
    settings: Settings,
    environ: Mapping[str, str],
    redis: Client,
    metrics: Metrics,
    pools: tuple[Pool, ...],
    journal: Journal,
) -> SchedulerParts:
    """Raises: SettingsError."""
    scripts = Scripts(redis, metrics, time.time)
    process, lease_s = uuid.uuid4().hex[:12], settings.requests.reservation_lease_s
    roster = AccountRegistry(
        redis,
        scripts,
        read_vault(settings, environ),
        time.time,
        process=process,
        audit_keep_s=settings.audit.retention_days * _DAY_S,
    )
    roster.configure(pools)
    queue = Queue(redis, scripts, roster, channel_of(process), process, time.monotonic, lease_s)
    pool = Scheduler(scripts, roster, queue, time.time, time.monotonic, lease_s)
    return SchedulerParts(pool, roster, queue, Releases(scripts, journal))


def build_key_checker(
    settings: Settings, redis: Client, pooling: SchedulerParts, pages: KeyChecker, suspects: Suspects
) -> KeyHealthMonitor:
    every_s = settings.pool.probe_interval_s
    turn = LeaderLock(redis, KEY_CHECK_LEADER, uuid.uuid4().hex, every_s)
    return KeyHealthMonitor(pages, pooling.roster, pooling.pool, turn, random.random, suspects, every_s=every_s)
