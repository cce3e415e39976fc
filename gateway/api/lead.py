"""`/v1/tenant`: what a key of role `lead` does for its tenant.

It manages the tenant's own keys within the tenant's limits, reads its usage and audit log, and chooses its alerts. It
makes no images, so that no program that makes them can create keys. Only an administrator creates or changes leads; a
lead may rotate and revoke its own key. Every change is audited under `key:ID`.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.audit import AuditSection
from gateway.api.admin.keys import KeySection
from gateway.api.admin.members import MemberSection
from gateway.api.admin.records import RecordsSection
from gateway.api.admin.refusals import RefusalSection
from gateway.api.admin.schemas import AboutChange, AlertsChange, QueryFields, Schema, read_document
from gateway.api.admin.usage import ReportBounds, UsageSection
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import json_response
from gateway.api.middleware import AsgiEndpoint
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor, describe_tenant
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import ConsoleRole
from gateway.domain.tenants import LEAD, LIMIT_NAMES, QUOTA_NAMES, ApiKey, Principal, Tenant
from gateway.redis import translate_change_errors
from gateway.tenants.store import TenantStore

PREFIX: Final = "/v1/tenant"
_WITH_QUERY: Final = re.compile(r"/(usage|audit|refusals|requests(/[^/]+)?)")
_GROUPS: Final = frozenset({"day", "month", "model", "key", "batch", "tag", "user"})
"""What its reports may be grouped by: nothing that names an upstream."""
_DAYS_MAX: Final = 366
_ENTRIES_MAX: Final = 100_000
"""Limit on a tenant's audit log, beyond which its leads change nothing: about 100 MB in Redis."""
_ONLY_ADMINISTRATORS: Final = "Only an administrator creates or changes keys of role 'lead'."
Handler = Callable[[Request, Principal, Actor], Awaitable[Response]]


class _OwnChange(Schema):
    alerts: AlertsChange | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True, repr=False)
class LeadRoutes:
    """Request handlers."""

    authenticator: TenantAuthenticator
    tenants: TenantStore
    keys: KeySection
    usage: UsageSection
    audit: AuditSection
    records: RecordsSection
    refusals: RefusalSection
    webhook_hosts: frozenset[str]
    members: MemberSection | None = None
    """None if the console is switched off."""
    prefix: str = PREFIX

    def routes(self) -> list[Route]:
        handlers: Mapping[str, Mapping[str, Handler]] = {
            "": {"GET": self.get, "PATCH": self.change},
            "/keys": {"GET": self.list_keys, "POST": self.create_key},
            "/keys/{id}": {"GET": self.get_key, "PATCH": self.change_key, "DELETE": self.revoke_key},
            "/keys/{id}/rotate": {"POST": self.rotate_key},
            "/usage": {"GET": self.report},
            "/audit": {"GET": self.list_audit},
            "/refusals": {"GET": self.list_refusals},
            "/requests": {"GET": self.list_requests},
            "/requests/{id}": {"GET": self.list_requests},
        }
        if self.members:
            handlers = {
                **handlers,
                "/members": {"GET": self.list_members, "POST": self.invite},
                "/members/{id}": {"DELETE": self.end_member},
            }
        return [
            Route(self.prefix + path, AsgiEndpoint(partial(self._serve, by_method)), methods=list(by_method))
            for path, by_method in handlers.items()
        ]

    async def get(self, _: Request, lead: Principal, __: Actor) -> Response:
        return json_response(describe_tenant(await self.tenants.get(lead.tenant.name)))

    async def change(self, request: Request, lead: Principal, actor: Actor) -> Response:
        change = await read_document(request, self.keys.limits, _OwnChange)

        def changed(tenant: Tenant) -> Tenant:
            after = AboutChange(alerts=change.alerts).applied(tenant)
            for address in after.alert_to:
                if address not in tenant.alert_to and not self._may_alert(tenant, address):
                    hosts = ", ".join(sorted(self.webhook_hosts)) or "none is configured"
                    text = (
                        f"expected 'mailto:' and the tenant's contact, or an https URL of a permitted host ({hosts})."
                    )
                    raise refused_value("alerts.to", text)
            return after

        return json_response(describe_tenant(await self.tenants.update(lead.tenant.name, changed, actor)))

    async def list_keys(self, request: Request, lead: Principal, actor: Actor) -> Response:
        request.path_params["name"] = lead.tenant.name
        return await self.keys.list_keys(request, actor)

    async def create_key(self, request: Request, lead: Principal, actor: Actor) -> Response:
        request.path_params["name"] = lead.tenant.name
        return await self.keys.create(request, actor, partial(_check, lead.tenant))

    async def get_key(self, request: Request, lead: Principal, actor: Actor) -> Response:
        await self._find(request, lead)
        return await self.keys.get(request, actor)

    async def change_key(self, request: Request, lead: Principal, actor: Actor) -> Response:
        await self._find(request, lead)
        return await self.keys.change(request, actor, partial(_check, lead.tenant))

    async def rotate_key(self, request: Request, lead: Principal, actor: Actor) -> Response:
        _check_own(lead, await self._find(request, lead))
        return await self.keys.rotate(request, actor)

    async def revoke_key(self, request: Request, lead: Principal, actor: Actor) -> Response:
        _check_own(lead, await self._find(request, lead))
        return await self.keys.revoke(request, actor)

    async def list_members(self, request: Request, lead: Principal, actor: Actor) -> Response:
        return await self._members_of(request, lead).list_members(request, actor)

    async def invite(self, request: Request, lead: Principal, actor: Actor) -> Response:
        """Only an administrator invites leads, as only an administrator creates their keys."""
        return await self._members_of(request, lead).invite(request, actor, (ConsoleRole.MEMBER,))

    async def end_member(self, request: Request, lead: Principal, actor: Actor) -> Response:
        return await self._members_of(request, lead).end(request, actor)

    async def report(self, request: Request, lead: Principal, _: Actor) -> Response:
        with self.authenticator.reporting(lead) as count:
            response, sums = await self.usage.report_of(request, ReportBounds(lead.tenant.name, _GROUPS, _DAYS_MAX))
            count(sums)
        return response

    async def list_audit(self, request: Request, lead: Principal, _: Actor) -> Response:
        return await self.audit.page(QueryFields(request), {lead.tenant.name})

    async def list_refusals(self, request: Request, lead: Principal, _: Actor) -> Response:
        return await self.refusals.page(QueryFields(request), lead.tenant.name, is_own=True)

    async def list_requests(self, request: Request, lead: Principal, _: Actor) -> Response:
        with self.authenticator.reporting(lead) as count:
            response, records = await self.records.page_of(request, lead.tenant.name)
            count(records)
        return response

    async def _serve(self, handlers: Mapping[str, Handler], request: Request) -> Response:
        lead = await self.authenticator.authenticate_lead(request)
        method = "GET" if request.method == "HEAD" else request.method
        with (
            self.authenticator.counting_refusals(lead),
            translate_change_errors() if method != "GET" else nullcontext(),
        ):
            if not _WITH_QUERY.fullmatch(request.url.path.removeprefix(self.prefix)):
                QueryFields(request).reject_unknown()
            if method != "GET" and await self.audit.audit.length(lead.tenant.name) >= _ENTRIES_MAX:
                text = (
                    f"The audit log has {_ENTRIES_MAX} entries, the limit for changes by leads. Ask an administrator."
                )
                raise GatewayError(ErrorCode.NOT_PERMITTED, text)
            return await handlers[method](request, lead, self.authenticator.actor(request, lead))

    def _members_of(self, request: Request, lead: Principal) -> MemberSection:
        assert self.members  # else it has no routes
        request.path_params["name"] = lead.tenant.name
        return self.members

    async def _find(self, request: Request, lead: Principal) -> ApiKey:
        """Returns a key of the lead's tenant. Raises: GatewayError NOT_FOUND, also for a key of another tenant."""
        key_id = request.path_params["id"]
        key = await self.keys.keys.get(key_id)
        if key.tenant != lead.tenant.name:
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no key '{key_id[:64]}'.")
        return key

    def _may_alert(self, tenant: Tenant, address: str) -> bool:
        if address.startswith("mailto:"):
            return bool(tenant.contact) and address == f"mailto:{tenant.contact}"
        try:
            url = urlsplit(address)
        except ValueError:
            return False
        return url.scheme == "https" and "@" not in url.netloc and url.hostname in self.webhook_hosts


def _check(tenant: Tenant, before: ApiKey | None, after: ApiKey) -> None:
    """Raises: GatewayError NOT_PERMITTED for a lead, INVALID_VALUE for a new limit above the tenant's."""
    if after.role or (before and before.role):
        raise GatewayError(ErrorCode.NOT_PERMITTED, _ONLY_ADMINISTRATORS, param="role")
    for part, names in (("limits", LIMIT_NAMES), ("quotas", QUOTA_NAMES)):
        for name in names:
            highest, value = getattr(getattr(tenant, part), name), getattr(getattr(after, part), name)
            is_kept = before and value == getattr(getattr(before, part), name)
            if None not in {highest, value} and value > highest and not is_kept:
                shown = f"{part}.{name.replace('usd_micros', 'usd')}"
                raise refused_value(shown, "it is above the tenant's own.")


def _check_own(lead: Principal, key: ApiKey) -> None:
    """Raises: GatewayError NOT_PERMITTED for the key of another lead."""
    if key.role == LEAD and key.id != lead.key.id:
        raise GatewayError(ErrorCode.NOT_PERMITTED, f"{_ONLY_ADMINISTRATORS} You may rotate and revoke your own.")
