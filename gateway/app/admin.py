"""Builds the admin API: its stores, its sections and their routes."""

import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from starlette.routing import Route

from gateway.api.admin import AdminApi, AdminAuthenticator, AdminSection
from gateway.api.admin.audit import AuditSection
from gateway.api.admin.batches import BatchSection
from gateway.api.admin.credits import CreditSection
from gateway.api.admin.exports import ExportDisk, ExportSection
from gateway.api.admin.keys import KeySection
from gateway.api.admin.models import ModelSection
from gateway.api.admin.purge import PurgeSection
from gateway.api.admin.records import RecordsSection
from gateway.api.admin.refusals import RefusalSection
from gateway.api.admin.tenant_list import TenantLister
from gateway.api.admin.tenants import TenantSection
from gateway.api.admin.usage import UsageSection
from gateway.api.admin.webhooks import WebhookSection
from gateway.api.attribution import ANY_KEY
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.authentication import Buckets
from gateway.api.bodies import BodyLimits
from gateway.api.console.identity_provider import Fetch
from gateway.app.console import ConsoleParts, build_console
from gateway.app.events import EventParts
from gateway.app.storage import build_quota
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.jobs.batches import BatchLimits, BatchStore
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.metering.closing import MonthCloser
from gateway.metering.credits import Credits
from gateway.metering.exports import Exports
from gateway.metering.ledger import Ledger
from gateway.metering.purge import LOCK_S, TenantPurger
from gateway.metering.record_search import RecordSearch
from gateway.metering.refusals import RefusalList
from gateway.metering.verification import LedgerVerifier
from gateway.redis import Client, LeaderLock
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Authenticator
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames
from gateway.tenants.provisioning import TenantProvisioner
from gateway.tenants.store import TenantStore
from gateway.tenants.tenant_search import TenantSearch
from gateway.tenants.transactions import TenantTransactions

_DAY_S: Final = 86_400


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
    refusals: RefusalSection
    console: ConsoleParts | None


class _Stores:
    """What several sections share."""

    def __init__(self, config: Config, redis: Client, admission: Admission, events: EventParts) -> None:
        settings, clock = config.settings, time.time
        self.audit_keep_s = settings.audit.retention_days * _DAY_S
        self.authenticator = Authenticator(
            redis,
            pepper=config.pepper,
            clock=clock,
            monotonic=time.monotonic,
            on_break=admission.mark_data_suspect,
        )
        forget = self.authenticator.forget
        self.transactions = TenantTransactions(redis, forget, self.audit_keep_s, events.outbox.notify)
        self.tenants, self.ledger = TenantStore(redis, self.transactions), Ledger(redis)
        self.names, self.audit = TenantNames(redis), Audit(redis)
        kept_s = 3600.0 * settings.replays.key_retention_hours
        self.verifier = LedgerVerifier(self.ledger, settings.ledger.retention_days, clock, kept_s, config.calendar)
        self.keys = ApiKeyStore(redis, self.authenticator, self.transactions, clock, settings.api_keys.max_per_tenant)
        self.key_list = KeyList(redis, self.names, clock)
        purge_lock = LeaderLock(redis, "purge_leader", uuid.uuid4().hex, LOCK_S)
        self.purger = TenantPurger(redis, self.transactions, purge_lock, events.purge)


def build_admin(
    config: Config,
    redis: Client,
    admission: Admission,
    upstreams: Callable[[], Collection[str]],
    catalog: Catalog,
    limits: BodyLimits,
    others: Sequence[AdminSection],
    erase: Callable[[str], Awaitable[None]] | None,
    events: EventParts,
    fetch: Fetch,
) -> AdminParts:
    """Builds the sections of tenants and their usage, beside `others`.

    `upstreams` returns the names of the configured upstreams; `erase` deletes what a tenant has stored; `fetch` asks
    the identity provider.
    """
    settings, clock, stores = config.settings, time.time, _Stores(config, redis, admission, events)
    tenants, names, keys, transactions = stores.tenants, stores.names, stores.keys, stores.transactions
    key_section = KeySection(keys, limits, clock, names, stores.key_list, stores.audit, tenants)
    audit = AuditSection(stores.audit, tenants, upstreams, names)
    usage = _usage_section(config, stores)
    records = RecordsSection(usage, RecordSearch(redis, stores.ledger))
    refusals = RefusalSection(RefusalList(redis, clock), tenants, names)
    sections: tuple[AdminSection, ...] = (
        *(key_section, audit, usage, records, refusals),
        *_tenant_sections(config, redis, stores, admission, catalog, limits, erase),
        *_usage_sections(config, redis, stores, usage, limits),
        *(ModelSection(catalog, clock), *others, *_event_sections(config, stores, events, limits, erase)),
    )
    console = build_console(config, redis, stores.authenticator, transactions, tenants, keys, names, limits, fetch)
    throttle = FailedAuthThrottle(settings.server.auth_failures_per_minute, time.monotonic)
    buckets = Buckets(settings.admin.requests_per_second, time.monotonic)
    api = AdminApi(AdminAuthenticator(config.admin_keys), throttle, buckets, names)
    if console:
        api = replace(api, find_person=console.access.authorize_admin)
        sections += (console.section, console.members)
    provisioner = TenantProvisioner(redis, stores.authenticator, transactions, keys, clock, config.tenants)
    routes = [route for section in sections for route in api.routes(section.handlers())]
    tasks = (stores.authenticator.listen, provisioner.run, stores.purger.run)
    return AdminParts(
        *(stores.authenticator, throttle, routes, provisioner, tasks, tenants),
        *(key_section, audit, usage, records, refusals, console),
    )


def _usage_section(config: Config, stores: _Stores) -> UsageSection:
    tag_keys = tuple(key for key in config.settings.attribution.keys if key != ANY_KEY)
    return UsageSection(
        *(stores.ledger, stores.verifier, time.time, stores.names, stores.key_list, config.calendar, tag_keys)
    )


def _tenant_sections(
    config: Config,
    redis: Client,
    stores: _Stores,
    admission: Admission,
    catalog: Catalog,
    limits: BodyLimits,
    erase: Callable[[str], Awaitable[None]] | None,
) -> tuple[AdminSection, ...]:
    lister = TenantLister(stores.tenants, TenantSearch(redis), admission.usage)
    batches = BatchStore(redis, BatchLimits(config.settings.batches.max_open))
    return (
        TenantSection(
            *(stores.tenants, admission, catalog, limits, time.time, erase, build_quota(config, redis), lister)
        ),
        CreditSection(Credits(redis, stores.audit_keep_s, config.calendar), limits, stores.names),
        BatchSection(batches, partial(stores.transactions.make, edits=())),
    )


def _usage_sections(
    config: Config, redis: Client, stores: _Stores, usage: UsageSection, limits: BodyLimits
) -> tuple[AdminSection, ...]:
    settings = config.settings
    exports = Exports(stores.ledger, settings.ledger.billing_account, config.calendar, stores.names)
    closer = MonthCloser(redis, exports, stores.verifier, stores.transactions, time.time)
    return (ExportSection(usage, exports, closer, limits, ExportDisk(settings.server.max_spooled_bytes)),)


def _event_sections(
    config: Config,
    stores: _Stores,
    events: EventParts,
    limits: BodyLimits,
    erase: Callable[[str], Awaitable[None]] | None,
) -> tuple[AdminSection, ...]:
    """Returns webhooks, and the purge, which deletes a tenant's."""
    return (
        PurgeSection(stores.purger, stores.tenants, events.endpoints, erase),
        WebhookSection(
            *(events.endpoints, events.deliveries, events.sender, stores.tenants, stores.names),
            *(config.alerts.rules, limits),
            has_mail=config.alerts.mail is not None,
        ),
    )
