"""Builds what runs on Redis and on the upstreams: metering, scheduler, tenants with the admin API, and calls."""

import hashlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from starlette.routing import Route

from gateway import __version__
from gateway.api.admin import AdminApi, AdminAuthenticator
from gateway.api.admin.audit import AuditSection
from gateway.api.admin.batches import BatchSection
from gateway.api.admin.credits import CreditSection
from gateway.api.admin.exports import ExportDisk, ExportSection
from gateway.api.admin.keys import KeySection
from gateway.api.admin.models import ModelSection
from gateway.api.admin.pool import PoolSection
from gateway.api.admin.purge import PurgeSection
from gateway.api.admin.records import RecordsSection
from gateway.api.admin.tenant_list import TenantLister
from gateway.api.admin.tenants import TenantSection
from gateway.api.admin.usage import UsageSection
from gateway.api.admin.webhooks import WebhookSection
from gateway.api.attribution import ANY_KEY, Attributor
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.authentication import Buckets
from gateway.api.bodies import BodyLimits
from gateway.app.console import ConsoleParts, build_console
from gateway.app.events import EventParts
from gateway.app.storage import build_quota
from gateway.config import Settings, SettingsError
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.generation.calls import CallLimits, UpstreamClient
from gateway.generation.conversion import ImageConverter
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.key_checks import KeyChecker, KeyHealthMonitor, Suspects
from gateway.generation.runner import JobPolicy, Upstreams
from gateway.generation.tasks import TaskTracker
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.jobs.batches import BatchLimits, BatchStore
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.metering.closing import MonthCloser
from gateway.metering.credits import Credits
from gateway.metering.exports import Exports
from gateway.metering.ledger import Ledger
from gateway.metering.notices import NOTICE_LEADER, ROUND_S, Notices
from gateway.metering.purge import LOCK_S, TenantPurger
from gateway.metering.record_search import RecordSearch
from gateway.metering.recovery import ExpiredReservationReaper
from gateway.metering.reservations import RepeatPolicy, ReservationConfig
from gateway.metering.transfers import Transfers
from gateway.metering.verification import LedgerVerifier
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
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Authenticator
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames
from gateway.tenants.provisioning import TenantProvisioner
from gateway.tenants.store import TenantStore
from gateway.tenants.tenant_search import TenantSearch
from gateway.tenants.transactions import TenantTransactions

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


@dataclass(frozen=True, slots=True)
class AdminParts:
    """Authentication, the routes of the admin API and the provisioner of `[[tenants]]`."""

    authenticator: Authenticator
    throttle: FailedAuthThrottle
    routes: list[Route]
    provisioner: TenantProvisioner
    background_tasks: tuple[AsyncCallback, ...]
    tenants: TenantStore
    keys: KeySection
    audit: AuditSection
    usage: UsageSection
    records: RecordsSection
    console: ConsoleParts | None


def build_admin(
    config: Config,
    redis: Client,
    admission: Admission,
    upstreams: Callable[[], Collection[str]],
    catalog: Catalog,
    limits: BodyLimits,
    pool: PoolSection,
    erase: Callable[[str], Awaitable[None]] | None,
    events: EventParts,
) -> AdminParts:
    """`upstreams` returns the names of the configured upstreams; `erase` deletes what a tenant has stored."""
    settings, clock, monotonic = config.settings, time.time, time.monotonic
    authenticator = Authenticator(
        redis, pepper=config.pepper, clock=clock, monotonic=monotonic, on_break=admission.mark_data_suspect
    )
    audit_keep_s = settings.audit.retention_days * _DAY_S
    transactions = TenantTransactions(redis, authenticator.forget, audit_keep_s, events.outbox.notify)
    tenants, ledger, names = TenantStore(redis, transactions), Ledger(redis), TenantNames(redis)
    key_retention_s = 3600.0 * settings.replays.key_retention_hours
    purge_lock = LeaderLock(redis, "purge_leader", uuid.uuid4().hex, LOCK_S)
    purger = TenantPurger(redis, transactions, purge_lock, events.purge)
    verifier = LedgerVerifier(ledger, settings.ledger.retention_days, clock, key_retention_s, config.calendar)
    keys = ApiKeyStore(redis, authenticator, transactions, clock, settings.api_keys.max_per_tenant)
    key_section = KeySection(keys, limits, clock, names, KeyList(redis, names, clock), Audit(redis), tenants)
    audit = AuditSection(Audit(redis), tenants, upstreams, names)
    tag_keys = tuple(key for key in settings.attribution.keys if key != ANY_KEY)
    usage = UsageSection(ledger, verifier, clock, names, config.calendar, tag_keys)
    records = RecordsSection(usage, RecordSearch(redis, ledger))
    lister = TenantLister(tenants, TenantSearch(redis), admission.usage)
    exports = Exports(ledger, settings.ledger.billing_account, config.calendar, names)
    sections = (
        TenantSection(tenants, admission, catalog, limits, clock, erase, build_quota(config, redis), lister),
        CreditSection(Credits(redis, audit_keep_s, config.calendar), limits, names),
        *(key_section, audit, usage, records, ModelSection(catalog, clock)),
        ExportSection(
            *(usage, exports, MonthCloser(redis, exports, verifier, transactions, clock), limits),
            ExportDisk(settings.server.max_spooled_bytes),
        ),
        BatchSection(BatchStore(redis, BatchLimits(settings.batches.max_open)), partial(transactions.make, edits=())),
        PurgeSection(purger, tenants, events.endpoints, erase),
        pool,
        WebhookSection(
            *(events.endpoints, events.deliveries, events.sender, tenants, names, config.alerts.rules, limits),
            has_mail=config.alerts.mail is not None,
        ),
    )
    console = build_console(config, redis, authenticator, transactions, tenants, keys, names, limits)
    throttle = FailedAuthThrottle(settings.server.auth_failures_per_minute, monotonic)
    buckets = Buckets(settings.admin.requests_per_second, monotonic)
    api = AdminApi(AdminAuthenticator(config.admin_keys), throttle, buckets, names)
    if console:
        api = replace(api, find_person=console.access.authorize_admin)
    provisioner = TenantProvisioner(redis, authenticator, transactions, keys, clock, config.tenants)
    routes = [route for section in sections for route in api.routes(section.handlers())]
    if console:
        routes += api.routes(console.section.handlers())
    tasks = (authenticator.listen, provisioner.run, purger.run)
    return AdminParts(
        authenticator, throttle, routes, provisioner, tasks, tenants, key_section, audit, usage, records, console
    )
