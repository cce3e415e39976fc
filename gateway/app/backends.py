"""Builds what runs on Redis and on the upstreams: metering, scheduler, tenants with the admin API, and calls."""

import hashlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway import __version__
from gateway.api.attribution import Attributor
from gateway.config import Settings, SettingsError
from gateway.config.resolve import Config
from gateway.generation.calls import CallLimits, UpstreamClient
from gateway.generation.conversion import ImageConverter
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.key_checks import KeyChecker, KeyHealthMonitor, Suspects
from gateway.generation.runner import JobPolicy, Upstreams
from gateway.generation.tasks import TaskTracker
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.metering.notices import NOTICE_LEADER, ROUND_S, Notices
from gateway.metering.recovery import ExpiredReservationReaper
from gateway.metering.reservations import RepeatPolicy, ReservationConfig
from gateway.metering.transfers import Transfers
from gateway.observability.metrics import Metrics
from gateway.redis import FORMS, KEY_CHECK_LEADER, Client, LeaderLock, connect
from gateway.redis.client import PREFIX
from gateway.redis.journal import Journal
from gateway.scheduler import Scheduler, channel_of
from gateway.scheduler.leases import Releases
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.queue import Queue
from gateway.scheduler.scripts import Scripts
from gateway.scheduler.tasks import TaskStore
from gateway.tenants.authentication import Authenticator

USER_AGENT: Final = f"imagegate/{__version__}"
_DAY_S: Final = 86_400
_RECOVERY_ROUND_S: Final = 5.0
"""How often a process searches for expired reservations of dead processes."""


def connect_redis(config: Config, timeout_s: float | None = None) -> Client:
    """Creates a client, which connects at its first call. Raises: SettingsError if the URL is invalid."""
    redis = config.settings.redis
    try:
        return connect(redis.url, timeout_s or redis.timeout_ms / 1000, config.redis_credentials, redis.key_prefix)
    except ValueError as error:
        raise SettingsError(f"redis.url: {error}. Give {FORMS}.") from error


@dataclass(frozen=True, slots=True)
class MeteringParts:
    """Admission and settlement of requests."""

    admission: Admission
    transfers: Transfers
    background_tasks: tuple[AsyncCallback, ...]
    repeats: RepeatPolicy


def build_metering(
    config: Config,
    redis: Client,
    metrics: Metrics,
    journal: Journal,
    notify: Callable[[str], Awaitable[None]] | None = None,
) -> MeteringParts:
    """Its background tasks settle what is unsettled, and the reservations of dead processes.

    `notify` announces that a tenant has events.
    """
    lease_s, kept, replays = (
        config.settings.requests.reservation_lease_s,
        config.settings.ledger,
        config.settings.replays,
    )
    channel, keyed_s = f"{redis.prefix}:jobs:{uuid.uuid4().hex[:12]}", 3600.0 * replays.key_retention_hours
    repeats = RepeatPolicy(channel, replays.unknown_outcome_s, keyed_s, replays.max_keys_per_tenant)
    terms = ReservationConfig(
        *(config.billing, lease_s, kept.retention_days, kept.max_recent_requests, kept.max_records_per_day, repeats),
        config.calendar,
        tuple(sorted(set(config.settings.alerts.percent))),
    )
    admission = Admission(redis, terms, metrics, time.monotonic, lambda: uuid.uuid4().hex, journal, time.time, notify)
    redis.guard.on_opened = admission.mark_data_suspect  # a hanging master is replaced without a broken connection
    round_s = min(_RECOVERY_ROUND_S, lease_s / 2)
    own_id = uuid.uuid4().hex
    reaper = ExpiredReservationReaper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=own_id)
    transfers = Transfers(redis, lease_s, lambda: uuid.uuid4().hex)
    notices = Notices(redis, LeaderLock(redis, NOTICE_LEADER, own_id, ROUND_S), time.time, config.calendar, notify)
    background_tasks = (admission.run, admission.keep_alive, transfers.run, reaper.run, notices.run)
    return MeteringParts(admission, transfers, background_tasks, repeats)


def redis_id(config: Config) -> str:
    """Identifies a gateway's data by its key prefix and the address of its Redis, without the password."""
    redis = config.settings.redis
    address = redis.url.rpartition("@")[2]
    name = address if redis.key_prefix == PREFIX else f"{redis.key_prefix}@{address}"
    return hashlib.sha256(name.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class SchedulerParts:
    """The scheduler with its members, queue and undelivered releases."""

    scheduler: Scheduler
    members: AccountRegistry
    queue: Queue
    releases: Releases
    tasks: TaskStore


def build_scheduler(config: Config, redis: Client, metrics: Metrics, journal: Journal) -> SchedulerParts:
    scripts = Scripts(redis, metrics, time.time, config.calendar)
    process, lease_s = uuid.uuid4().hex[:12], config.settings.requests.reservation_lease_s
    members = AccountRegistry(
        redis,
        scripts,
        config.secret_box,
        time.time,
        process=process,
        audit_keep_s=config.settings.audit.retention_days * _DAY_S,
    )
    members.configure(config.upstreams.pools)
    queue = Queue(redis, scripts, members, channel_of(process, redis.prefix), process, time.monotonic, lease_s)
    scheduler = Scheduler(scripts, members, queue, time.time, time.monotonic, lease_s)
    return SchedulerParts(scheduler, members, queue, Releases(scripts, journal), TaskStore(scripts))


def build_key_checker(
    config: Config, redis: Client, scheduling: SchedulerParts, checker: KeyChecker, suspects: Suspects
) -> KeyHealthMonitor:
    every_s = config.settings.pool.probe_interval_s
    lock = LeaderLock(redis, KEY_CHECK_LEADER, uuid.uuid4().hex, every_s)
    return KeyHealthMonitor(
        checker, scheduling.members, scheduling.scheduler, lock, random.random, suspects, every_s=every_s
    )


def build_upstreams(
    config: Config,
    scheduling: SchedulerParts,
    admission: Admission,
    metrics: Metrics,
    direct: AiohttpTransport,
    public: AiohttpTransport,
    suspects: Suspects,
    converter: ImageConverter,
) -> tuple[Upstreams, TaskTracker]:
    """`direct` connects to configured addresses, `public` to public ones only."""
    requests = config.settings.requests
    connect_s = requests.connect_timeout_s
    limits = CallLimits(
        connect_s, requests.call_timeout_s, requests.call_timeout_per_image_s, requests.max_response_bytes
    )
    download_limits = DownloadLimits(connect_s, requests.download_timeout_s, requests.max_download_bytes)
    downloader = ImageDownloader(public, direct, download_limits, USER_AGENT, converter)

    def endpoints() -> Mapping[str, UpstreamEndpoint]:
        return upstreams.supply.endpoints

    tasks = TaskTracker(
        direct,
        *(scheduling.tasks, scheduling.scheduler, admission.settle_late),
        *(lambda upstream, key: scheduling.members.known(upstream).get(key), endpoints),
        _max_bytes=requests.max_response_bytes,
        _user_agent=USER_AGENT,
        _clock=time.time,
        _monotonic=time.monotonic,
        _fetcher=downloader,
    )
    client = UpstreamClient(
        *(direct, scheduling.scheduler, limits, metrics, USER_AGENT, time.monotonic),
        *(scheduling.releases.journal, suspects.note, time.time, tasks),
    )
    reserve_s = min(requests.call_timeout_s, requests.deadline_s / 2)
    policy = JobPolicy(requests.deadline_s, reserve_s, requests.max_attempts)
    upstreams = Upstreams(
        *(scheduling.scheduler, client, downloader, metrics, config.upstreams, policy, time.time, time.monotonic)
    )
    return upstreams, tasks


def build_attributor(settings: Settings, authenticator: Authenticator) -> Attributor:
    terms, ignores_unknown = settings.attribution, settings.images.unknown_parameters == "ignore"
    return Attributor(frozenset(terms.keys), terms.headers, ignores_unknown, terms.plain_user, authenticator.keyed_hash)
