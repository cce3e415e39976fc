"""`/admin/v1/console`: one-time links that sign people in, and the sessions of the console."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import Name, Schema, read_document
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.public_url import base_url
from gateway.api.refusals import missing, refused_value
from gateway.domain.audit import Actor
from gateway.domain.roles import ConsoleRole
from gateway.tenants.names import TenantNames
from gateway.tenants.sessions import Link, LinkStore, OpenSession, SessionStore, describe_link
from gateway.tenants.store import TenantStore

PersonName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class _NewInvitation(Schema):
    name: PersonName
    role: ConsoleRole
    tenant: Name | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ConsoleSection:
    """Invitations and sessions."""

    links: LinkStore
    sessions: SessionStore
    tenants: TenantStore
    names: TenantNames
    limits: BodyLimits

    def handlers(self) -> Handlers:
        return {
            "/console/invitations": {"GET": self.list_invitations, "POST": self.invite},
            "/console/invitations/{id}": {"DELETE": self.revoke},
            "/console/sessions": {"GET": self.list_sessions},
            "/console/sessions/{id}": {"DELETE": self.end},
        }

    async def invite(self, request: Request, actor: Actor) -> Response:
        """Creates a link. Its token is in the fragment, which browsers send to no server and no log has."""
        new = await read_document(request, self.limits, _NewInvitation)
        tenant = ""
        if new.role.has_tenant:
            if new.tenant is None:
                raise missing("tenant")
            tenant = (await self.tenants.get(await self.names.resolve(new.tenant))).name
        elif new.tenant is not None:
            raise refused_value("tenant", f"the role '{new.role.value}' belongs to no tenant; leave it out.")
        token, link_id, link = await self.links.create(new.name, new.role, tenant, actor)
        url = f"{base_url(request)}/console/link#{token}"
        return json_response(await self._show_link(link_id, link) | {"url": url}, 201)

    async def list_invitations(self, _: Request, __: Actor) -> Response:
        links = await self.links.list_open()
        newest = sorted(links.items(), key=lambda item: (-item[1].created_at, item[0]))
        return json_response({"data": [await self._show_link(*item) for item in newest]})

    async def revoke(self, request: Request, actor: Actor) -> Response:
        link_id = request.path_params["id"]
        return json_response(await self._show_link(link_id, await self.links.revoke(link_id, actor)))

    async def list_sessions(self, _: Request, __: Actor) -> Response:
        sessions = await self.sessions.list_open()
        return json_response({"data": await self.names.show([_show_session(session) for session in sessions])})

    async def end(self, request: Request, actor: Actor) -> Response:
        session = await self.sessions.end(request.path_params["id"], actor)
        [shown] = await self.names.show([_show_session(session)])
        return json_response(shown)

    async def _show_link(self, link_id: str, link: Link) -> dict[str, object]:
        [shown] = await self.names.show([{"id": link_id} | describe_link(link)])
        return shown


def _show_session(session: OpenSession) -> dict[str, object]:
    grant = session.grant
    return {
        "id": session.id,
        "subject": grant.subject,
        "label": grant.label,
        "role": grant.role.value,
        "tenant": grant.tenant or None,
        "method": grant.method,
        "created_at": session.created_at,
        "seen_at": session.seen_at,
        "expires_at": session.expires_at,
    }
