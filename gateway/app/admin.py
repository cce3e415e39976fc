"""Builds authentication, the admin API and the provisioning of `[[tenants]]`."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from gateway.api.admin import AdminApi, AdminRouter
from gateway.api.admin.audit import AuditSection
from gateway.api.admin.auth import AdminAuthenticator
from gateway.api.admin.keys import KeySection
from gateway.api.admin.tenants import TenantSection
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.bodies import BodyLimits
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.metering.admission import Admission
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
    """Authentication, the admin API and the provisioner of `[[tenants]]`."""

    authenticator: Authenticator
    throttle: FailedAuthThrottle
    api: AdminApi
    provisioner: TenantProvisioner

    @property
    def background_tasks(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        return self.authenticator.listen, self.provisioner.run


def build_admin(
    config: Config,
    redis: Client,
    admission: Admission,
    upstreams: Callable[[], Collection[str]],
    catalog: Catalog,
    more: Iterable[AdminRouter] = (),
    clock: Callable[[], float] = time.time,
) -> AdminParts:
    """`upstreams` returns their names; `more` are further sections of the admin API."""
    settings = config.settings
    authenticator = Authenticator(
        redis, pepper=config.pepper, clock=clock, monotonic=time.monotonic, on_break=admission.mark_data_suspect
    )
    transactions = TenantTransactions(redis, authenticator.forget, settings.audit.retention_days * _DAY_S)
    tenants = TenantStore(redis, transactions)
    keys = ApiKeyStore(redis, authenticator, transactions, clock)
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    sections: tuple[AdminRouter, ...] = (
        TenantSection(tenants, admission, catalog, limits, clock),
        KeySection(keys, limits, clock),
        AuditSection(Audit(redis), tenants, upstreams),
        *more,
    )
    throttle = FailedAuthThrottle(settings.server.auth_failures_per_minute, time.monotonic)
    admin_authenticator = AdminAuthenticator(config.admin_keys)
    api = AdminApi(admin_authenticator, throttle, sections, settings.admin.requests_per_second, time.monotonic)
    provisioner = TenantProvisioner(redis, authenticator, transactions, keys, clock, config.tenants)
    return AdminParts(authenticator, throttle, api, provisioner)
