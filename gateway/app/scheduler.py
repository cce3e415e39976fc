"""Composes the pool of upstream accounts: its schedule, its roster, and who brings resting keys back."""

import random
import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway import __version__
from gateway.config.resolve import Config
from gateway.generation import ImageDownloader, JobPolicy, UpstreamClient, Upstreams
from gateway.generation.calls import CallLimits
from gateway.generation.downloads import DownloadLimits
from gateway.generation.key_checker import KeyHealthMonitor, Suspects
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport
from gateway.lifespan import AsyncCallback
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.redis.journal import Journal
from gateway.redis.leader import PROBING, LeaderLock
from gateway.scheduler import Scheduler, channel_of
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue
from gateway.scheduler.scripts import Scripts
from gateway.scheduler.unsaved_releases import Releases

_DAY_S = 86_400
USER_AGENT: Final = f"imagegate/{__version__}"


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
        return self.queue.listen, self.queue.run_heartbeat, self.roster.keep


def build_scheduler(config: Config, redis: Client, metrics: Metrics, journal: Journal) -> SchedulerParts:
    scripts = Scripts(redis, metrics, time.time)
    process, lease_s = uuid.uuid4().hex[:12], config.settings.requests.reservation_lease_s
    roster = AccountRegistry(
        redis,
        scripts,
        config.secret_box,
        time.time,
        process=process,
        audit_keep_s=config.settings.audit.retention_days * _DAY_S,
    )
    roster.configure(config.upstreams.pools)
    queue = Queue(redis, scripts, roster, channel_of(process), process, time.monotonic, lease_s)
    pool = Scheduler(scripts, roster, queue, time.time, time.monotonic, lease_s)
    return SchedulerParts(pool, roster, queue, Releases(scripts, journal))


def build_key_checker(
    config: Config, redis: Client, pooling: SchedulerParts, pages: KeyChecker, suspects: Suspects
) -> KeyHealthMonitor:
    every_s = config.settings.pool.probe_interval_s
    turn = LeaderLock(redis, PROBING, uuid.uuid4().hex, every_s)
    return KeyHealthMonitor(pages, pooling.roster, pooling.pool, turn, random.random, suspects, every_s=every_s)


def build_upstreams(
    config: Config,
    pooling: SchedulerParts,
    metrics: Metrics,
    direct: AiohttpTransport,
    public: AiohttpTransport,
    suspects: Suspects,
) -> Upstreams:
    """`direct` connects to configured addresses, `public` to public ones only."""
    requests = config.settings.requests
    connect_s = requests.connect_timeout_s
    limits = CallLimits(
        connect_s, requests.call_timeout_s, requests.call_timeout_per_image_s, requests.max_response_bytes
    )
    client = UpstreamClient(
        *(direct, pooling.pool, limits, metrics, USER_AGENT, time.monotonic, pooling.releases.keep, suspects.note)
    )
    download_limits = DownloadLimits(connect_s, requests.download_timeout_s, requests.max_download_bytes)
    downloader = ImageDownloader(public, direct, download_limits, USER_AGENT)
    reserve_s = min(requests.call_timeout_s, requests.deadline_s / 2)
    policy = JobPolicy(requests.deadline_s, reserve_s, requests.max_attempts)
    return Upstreams(*(pooling.pool, client, downloader, metrics, config.upstreams, policy, time.time, time.monotonic))
