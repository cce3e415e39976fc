"""The admin API: JSON; disabled unless an admin key is configured.

Each section maps paths below `/admin/v1` and methods to handlers. `AdminApi` authenticates every request, by
an admin key or a session of the console, before it reaches a handler.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Protocol
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.schemas import QueryFields
from gateway.api.auth_throttle import FailedAuthThrottle, network_of, secret_of
from gateway.api.authentication import Buckets, read_authorization
from gateway.api.bodies import context_of
from gateway.domain.accounts import Secret
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import PERMISSIONS, ConsoleRole, admin_permission
from gateway.redis import translate_change_errors
from gateway.tenants.names import TenantNames

PREFIX: Final = "/admin/v1"
_WITH_QUERY: Final = re.compile(rf"{PREFIX}/(audit|usage.*|refusals|tenants|keys|tenants/[^/]+/batches)")
"""These routes read their query themselves; the others have none."""
Handler = Callable[[Request, Actor], Awaitable[Response]]
Handlers = Mapping[str, Mapping[str, Handler]]
"""By path below `/admin/v1` and by method."""
FindPerson = Callable[[Request, str], Awaitable[Actor | None]]
HELD: Final = "permissions"
"""The key of the request's state with the permissions of the person whose session it is."""


class AdminSection(Protocol):
    """Handlers of routes that belong together."""

    def handlers(self) -> Handlers: ...


class Role(Enum):
    """Permission of an admin key."""

    ADMIN = "admin"
    READ = "read"
    """Read-only."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """A named admin key. The audit records the name."""

    name: str
    secret: Secret
    role: Role = Role.ADMIN


@dataclass(frozen=True, slots=True, repr=False)
class AdminAuthenticator:
    """Authenticates admin keys. Without any key the API is disabled."""

    keys: Sequence[AdminKey]

    def check(self, authorization: str, permission: str) -> str:
        """Returns the name of the key that was sent. A read-only one has the permissions of a viewer.

        Raises: GatewayError ADMIN_API_DISABLED, ADMIN_UNAUTHORIZED, ADMIN_READ_ONLY.
        """
        if not self.keys:
            raise GatewayError(ErrorCode.ADMIN_API_DISABLED)
        key = find_admin_key(self.keys, secret_of(authorization))
        if key is None:
            raise GatewayError(
                ErrorCode.ADMIN_UNAUTHORIZED, "A valid admin key is required: 'Authorization: Bearer ADMIN_KEY'."
            )
        if key.role is Role.READ and permission not in PERMISSIONS[ConsoleRole.VIEWER]:
            problem = f"Admin key '{key.name}' is read-only."
            raise GatewayError(ErrorCode.ADMIN_READ_ONLY, f"{problem} This needs '{permission}'.")
        return key.name


def find_admin_key(keys: Sequence[AdminKey], secret: str) -> AdminKey | None:
    """Returns the key with this secret. Compares against every key to keep the timing constant."""
    sent = secret.encode()
    matching = [key for key in keys if hmac.compare_digest(sent, key.secret.plaintext.encode())]
    return matching[0] if matching else None


def may(request: Request, permission: str) -> bool:
    """Returns whether the caller of the admin API has a further permission, to read more."""
    held = request.scope["state"].get(HELD)
    return held is None or permission in held


@dataclass(frozen=True, slots=True, repr=False)
class AdminApi:
    """All admin routes, with authentication and rate limits."""

    access: AdminAuthenticator
    throttle: FailedAuthThrottle
    buckets: Buckets
    """Requests of each admin key at each address; a limit of 0 is none."""
    names: TenantNames
    find_person: FindPerson | None = None
    """Returns who is signed in to the console and may do what needs a permission; None without a session."""

    def routes(self, handlers: Handlers) -> list[Route]:
        routes = []
        for path, by_method in handlers.items():
            permissions = {method: admin_permission(path, method) for method in by_method}
            serve = partial(self._serve, by_method, permissions)
            routes.append(Route(PREFIX + path, serve, methods=list(by_method)))
        return routes

    async def _serve(
        self, handlers: Mapping[str, Handler], permissions: Mapping[str, str], request: Request
    ) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        authorization, address = read_authorization(request.headers), request.client.host if request.client else ""
        person = (
            await self.find_person(request, permissions[method]) if self.find_person and not authorization else None
        )
        role = person.role if person else None
        if person:
            name = person.name
        else:
            check = partial(self.access.check, authorization, permissions[method])
            name = self.throttle.check_first(address, secret_of(authorization), check)
        context, bucket = context_of(request), f"{name} {network_of(address)}"
        context.admin = name
        if wait_s := self.buckets.blocked_s(bucket):
            raise GatewayError(
                ErrorCode.REQUESTS_THROTTLED,
                f"Too many requests of '{name}' from this address: limit {self.buckets.per_second} per "
                "second. The request was not executed. Please try again in 1 s.",
                retry_after_s=wait_s,
            )
        if self.buckets.per_second:
            self.buckets.take(bucket)
        if not _WITH_QUERY.fullmatch(request.url.path):
            QueryFields(request).reject_unknown()
        with translate_change_errors() if method != "GET" else nullcontext():
            await self._resolve(request)
            return await handlers[method](request, Actor(name, context.id, role))

    async def _resolve(self, request: Request) -> None:
        """Replaces the tenant's name in path and query by its ID: no handler meets a name that was changed.

        Raises: GatewayError NOT_FOUND for a former name, REDIS_UNAVAILABLE.
        """
        if name := request.path_params.get("name"):
            request.path_params["name"] = await self.names.resolve(name)
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        names = [value for name, value in query if name == "tenant"]
        if len(names) == 1 and names[0]:
            found = ("tenant", await self.names.resolve(names[0]))
            fields = [found if field[0] == "tenant" else field for field in query]
            request.scope["query_string"] = urlencode(fields).encode()
