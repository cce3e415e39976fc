"""`/admin/v1/tenants/{name}/members`: who has access to a tenant in the console, for administrators and for its leads.

Members are sessions, invitations, and keys of role `lead`, which sign leads in. Keys are created and revoked as keys.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.console import PersonName
from gateway.api.admin.schemas import Schema, read_document
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.public_url import base_url
from gateway.domain.audit import Actor, AuditEvent
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import ConsoleRole
from gateway.domain.tenants import LEAD, ApiKey
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.sessions import Link, LinkStore, OpenSession, SessionStore

_INVITATIONS_MAX: Final = 20
"""Limit on the unused invitations of a tenant, so that no lead uses up those of all tenants."""
_TENANT_ROLES: Final = (ConsoleRole.LEAD, ConsoleRole.MEMBER)


class _NewMember(Schema):
    name: PersonName
    role: Literal["lead", "member"]


@dataclass(frozen=True, slots=True, repr=False)
class MemberSection:
    """Routes of a tenant's members."""

    links: LinkStore
    sessions: SessionStore
    keys: ApiKeyStore
    limits: BodyLimits
    audit: Callable[[AuditEvent], Awaitable[object]]
    """Writes an entry of the tenant's audit log."""
    console_url: str
    """As configured; empty for that of the request."""
    console_port: int
    """0 if the console is on the gateway's own port."""

    def handlers(self) -> Handlers:
        return {
            "/tenants/{name}/members": {"GET": self.list_members, "POST": self.invite},
            "/tenants/{name}/members/{id}": {"DELETE": self.end},
        }

    async def list_members(self, request: Request, _: Actor) -> Response:
        """Returns sessions by last use, then invitations, the newest first, then keys."""
        tenant = request.path_params["name"]
        keys = await self.keys.list_keys(tenant)
        sessions, links = await self._sessions(tenant, keys), await self._links(tenant)
        newest = sorted(links.items(), key=lambda item: (-item[1].created_at, item[0]))
        rows = [*map(_show_session, sessions), *(_show_link(*item) for item in newest)]
        return json_response({"data": rows + [_show_key(key) for key in keys if key.role == LEAD]})

    async def invite(self, request: Request, actor: Actor, roles: Iterable[ConsoleRole] = _TENANT_ROLES) -> Response:
        """Creates a link for one of `roles`. Raises: GatewayError NOT_PERMITTED, CONFLICT, NOT_FOUND."""
        tenant, new = request.path_params["name"], await read_document(request, self.limits, _NewMember)
        role = ConsoleRole(new.role)
        if role not in roles:
            raise GatewayError(ErrorCode.NOT_PERMITTED, "Only an administrator invites leads.", param="role")
        await self.keys.list_keys(tenant)  # raises for an unknown tenant
        if len(await self._links(tenant)) >= _INVITATIONS_MAX:
            text = f"The tenant has {_INVITATIONS_MAX} unused invitations. Delete one first."
            raise GatewayError(ErrorCode.CONFLICT, text)
        token, link_id, link = await self.links.create(new.name, role, tenant, actor)
        row = _show_link(link_id, link)
        await self.audit(AuditEvent(actor, "member.invite", tenant, after=_described(row)))
        return json_response(row | {"url": f"{self._console(request)}/link#{token}"}, 201)

    async def end(self, request: Request, actor: Actor) -> Response:
        """Ends a session, or deletes an invitation. Raises: GatewayError NOT_FOUND."""
        tenant, member_id = request.path_params["name"], request.path_params["id"]
        keys = await self.keys.list_keys(tenant)
        if member_id in await self._links(tenant):
            row = _show_link(member_id, await self.links.revoke(member_id, actor))
        elif member_id in {session.id for session in await self._sessions(tenant, keys)}:
            row = _show_session(await self.sessions.end(member_id, actor))
        else:
            text = f"The tenant has no session or invitation '{member_id[:64]}'. A key is revoked as a key."
            raise GatewayError(ErrorCode.NOT_FOUND, text)
        await self.audit(AuditEvent(actor, "member.end", tenant, before=_described(row)))
        return json_response(row)

    async def _sessions(self, tenant: str, keys: Iterable[ApiKey]) -> list[OpenSession]:
        """Returns the sessions of a tenant; those of a key end with it."""
        valid = {key.id for key in keys}
        found = [one for one in await self.sessions.list_open() if one.grant.tenant == tenant]
        return [one for one in found if one.grant.method != "tenant_key" or one.grant.credential in valid]

    async def _links(self, tenant: str) -> dict[str, Link]:
        return {link_id: link for link_id, link in (await self.links.list_open()).items() if link.tenant == tenant}

    def _console(self, request: Request) -> str:
        """Returns the console's address, which may be on another port than the request's."""
        base = self.console_url.rstrip("/").removesuffix("/console") or base_url(request)
        if self.console_port and not self.console_url and not request.url.path.startswith(("/console/", "/admin/")):
            base = re.sub(r":[0-9]+\Z", "", base) + f":{self.console_port}"
        return f"{base}/console"


def _show_session(session: OpenSession) -> dict[str, object]:
    grant = session.grant
    return _row(
        *(session.id, "session", grant.label, grant.subject, grant.role.value, grant.method, None),
        *(session.created_at, session.seen_at, session.expires_at),
    )


def _show_link(link_id: str, link: Link) -> dict[str, object]:
    return _row(
        *(link_id, "invitation", link.name, None, link.role.value, "link", link.created_by),
        *(link.created_at, None, link.expires_at),
    )


def _show_key(key: ApiKey) -> dict[str, object]:
    return _row(
        *(key.id, "key", key.label or key.id, f"key:{key.id}", LEAD, "tenant_key", None),
        *(key.created_at, key.last_used_at, key.expires_at),
    )


_COLUMNS: Final = (
    *("id", "kind", "name", "subject", "role", "method", "created_by"),
    *("created_at", "seen_at", "expires_at"),
)


def _row(*values: object) -> dict[str, object]:
    return dict(zip(_COLUMNS, values, strict=True))


def _described(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in ("id", "kind", "name", "role")}
