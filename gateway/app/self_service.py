"""Builds what tenants do by themselves: their usage, and what their leads manage."""

from starlette.routing import Route

from gateway.api.authentication import TenantAuthenticator
from gateway.api.lead import LeadRoutes
from gateway.api.own_usage import OwnUsageRoutes
from gateway.app.backends import AdminParts


def self_service_routes(
    admin: AdminParts, authenticator: TenantAuthenticator, webhook_hosts: frozenset[str]
) -> list[Route]:
    lead = LeadRoutes(authenticator, admin.tenants, admin.keys, admin.usage, admin.audit, webhook_hosts)
    return [*OwnUsageRoutes(authenticator, admin.usage).routes(), *lead.routes()]
