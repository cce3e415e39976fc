"""The routes of images, of what tenants do by themselves, and of operators."""

from starlette.routing import Route

from gateway.api import middleware, minimax, stored_files
from gateway.api.authentication import TenantAuthenticator
from gateway.api.errors import NOT_OFFERED, refuse_operation
from gateway.api.health import HealthRoutes
from gateway.api.images import ImageRoutes
from gateway.api.lead import LeadRoutes
from gateway.api.own_usage import OwnUsageRoutes
from gateway.api.stored_files import StoredFileRoutes
from gateway.app.admin import AdminParts
from gateway.scheduler import Scheduler


def image_routes(images: ImageRoutes, links: StoredFileRoutes) -> list[Route]:
    return [
        Route("/v1/images/generations", middleware.AsgiEndpoint(images.generate), methods=["POST"]),
        Route("/v1/images/edits", middleware.AsgiEndpoint(images.edit), methods=["POST"]),
        *(Route(path, middleware.AsgiEndpoint(refuse_operation), methods=["POST"]) for path in NOT_OFFERED),
        *(
            Route(path, middleware.AsgiEndpoint(images.generate_native), methods=["POST"])
            for path in sorted(minimax.PATHS)
        ),
        Route("/v1/models", images.list_models),
        Route("/v1/models/{name:path}", images.get_model),
        Route(stored_files.PATH, middleware.AsgiEndpoint(links.get), methods=["GET"]),
    ]


def self_service_routes(
    admin: AdminParts, authenticator: TenantAuthenticator, webhook_hosts: frozenset[str]
) -> list[Route]:
    lead = lead_routes(admin, authenticator, webhook_hosts)
    return [*OwnUsageRoutes(authenticator, admin.usage).routes(), *lead.routes()]


def lead_routes(admin: AdminParts, authenticator: TenantAuthenticator, webhook_hosts: frozenset[str]) -> LeadRoutes:
    sections = (admin.tenants, admin.keys, admin.usage, admin.audit, admin.records, admin.refusals)
    return LeadRoutes(authenticator, *sections, webhook_hosts, admin.console.members if admin.console else None)


def console_routes(
    admin: AdminParts, images: ImageRoutes, webhook_hosts: frozenset[str], scheduler: Scheduler
) -> list[Route]:
    """Returns the console's own routes; none if it is switched off."""
    if admin.console is None:
        return []
    lead = lead_routes(admin, images.authenticator, webhook_hosts)
    return admin.console.routes(images.authenticator, admin.throttle, lead, admin.usage, images, scheduler.place)


def operators_routes(ops: HealthRoutes) -> list[Route]:
    return [
        Route(middleware.HEALTHZ, ops.healthz),
        Route(middleware.READYZ, ops.readyz),
        Route(middleware.METRICS, ops.metrics),
        Route(middleware.OPENAPI, ops.openapi),
    ]
