"""Composes the pool of upstream accounts: its schedule, its roster, and who brings resting keys back."""

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.app.admin import read_vault
from gateway.config import Settings
from gateway.domain.accounts import Pool
from gateway.generation.key_checker import Prober, Suspects
from gateway.generation.key_checks import Pages
from gateway.lifespan import Act
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.redis.journal import Journal
from gateway.redis.leader import PROBING, Turn
from gateway.scheduler import KeyPool, channel_of
from gateway.scheduler.members import Roster
from gateway.scheduler.queue import Queue
from gateway.scheduler.scripts import Scripts
from gateway.scheduler.unsaved_releases import Releases

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Pooling:
    """What the rest of the program needs of it."""

    pool: KeyPool
    roster: Roster
    queue: Queue
    releases: Releases

    @property
    def companions(self) -> tuple[Act, ...]:
        """What runs beside the program."""
        return self.queue.listen, self.queue.tend, self.roster.keep


def build_pooling(
    settings: Settings,
    environ: Mapping[str, str],
    redis: Client,
    metrics: Metrics,
    pools: tuple[Pool, ...],
    journal: Journal,
) -> Pooling:
    """Raises: SettingsError."""
    scripts = Scripts(redis, metrics, time.time)
    process, lease_s = uuid.uuid4().hex[:12], settings.requests.lease_s
    roster = Roster(
        redis,
        scripts,
        read_vault(settings, environ),
        time.time,
        process=process,
        audit_keep_s=settings.audit.keep_days * _DAY_S,
    )
    roster.configure(pools)
    queue = Queue(redis, scripts, roster, channel_of(process), process, time.monotonic, lease_s)
    pool = KeyPool(scripts, roster, queue, time.time, time.monotonic, lease_s)
    return Pooling(pool, roster, queue, Releases(scripts, journal))


def build_prober(settings: Settings, redis: Client, pooling: Pooling, pages: Pages, suspects: Suspects) -> Prober:
    every_s = settings.pool.probe_every_s
    turn = Turn(redis, PROBING, uuid.uuid4().hex, every_s)
    return Prober(pages, pooling.roster, pooling.pool, turn, random.random, suspects, every_s=every_s)
