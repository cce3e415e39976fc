"""Builds authentication, the admin API and the provisioning of `[[tenants]]`."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.routing import Route

from gateway.api.admin import AdminApi, AdminAuthenticator
from gateway.api.admin.audit import AuditSection
from gateway.api.admin.pool import PoolSection
from gateway.api.admin.tenants import KeySection, TenantSection
from gateway.api.admin.usage import UsageSection
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.bodies import BodyLimits
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.metering.admission import Admission
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier
from gateway.redis import Client
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.audit import Audit
from gateway.tenants.authentication import Authenticator
from gateway.tenants.provisioning import TenantProvisioner
from gateway.tenants.store import TenantStore
from gateway.tenants.transactions import TenantTransactions

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class AdminParts:
    """Authentication, the routes of the admin API and the provisioner of `[[tenants]]`."""

    authenticator: Authenticator
    throttle: FailedAuthThrottle
    routes: list[Route]
    provisioner: TenantProvisioner


def build_admin(
    config: Config,
    redis: Client,
    admission: Admission,
    upstreams: Callable[[], Collection[str]],
    catalog: Catalog,
    limits: BodyLimits,
    pool: PoolSection,
) -> AdminParts:
    """`upstreams` returns the names of the configured upstreams."""
    settings, clock, monotonic = config.settings, time.time, time.monotonic
    authenticator = Authenticator(
        redis, pepper=config.pepper, clock=clock, monotonic=monotonic, on_break=admission.mark_data_suspect
    )
    transactions = TenantTransactions(redis, authenticator.forget, settings.audit.retention_days * _DAY_S)
    tenants, ledger = TenantStore(redis, transactions), Ledger(redis)
    keys = ApiKeyStore(redis, authenticator, transactions, clock)
    sections = (
        TenantSection(tenants, admission, catalog, limits, clock),
        KeySection(keys, limits, clock),
        AuditSection(Audit(redis), tenants, upstreams),
        UsageSection(ledger, LedgerVerifier(ledger, settings.ledger.retention_days, clock), clock),
        pool,
    )
    throttle = FailedAuthThrottle(settings.server.auth_failures_per_minute, monotonic)
    api = AdminApi(AdminAuthenticator(config.admin_keys), throttle, settings.admin.requests_per_second, monotonic)
    provisioner = TenantProvisioner(redis, authenticator, transactions, keys, clock, config.tenants)
    routes = [route for section in sections for route in api.routes(section.handlers())]
    return AdminParts(authenticator, throttle, routes, provisioner)
