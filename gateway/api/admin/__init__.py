"""The admin API: JSON; disabled unless an admin key is configured.

Each router maps paths below `/admin/v1` and methods to handlers. `AdminApi` authenticates every request before it
reaches a router.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.auth import AdminAuthenticator
from gateway.api.auth_throttle import FailedAuthThrottle, address_of, network_of
from gateway.api.rejected_requests import Buckets
from gateway.api.request_context import context_of
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import translate_change_errors

PREFIX: Final = "/admin/v1"
Handler = Callable[[Request, Actor], Awaitable[Response]]


class AdminRouter(Protocol):
    """A group of admin routes."""

    def handlers(self) -> Mapping[str, Mapping[str, Handler]]:
        """Returns the handlers by path below `/admin/v1` and by method."""


class AdminApi:
    """All admin routes, with authentication and rate limits."""

    def __init__(
        self,
        access: AdminAuthenticator,
        guesses: FailedAuthThrottle,
        sections: Iterable[AdminRouter],
        requests_per_second: int,
        monotonic: Callable[[], float],
    ) -> None:
        """`requests_per_second` limits each admin key at each address; 0 disables the limit."""
        self._access = access
        self._guesses = guesses
        self._sections = tuple(sections)
        self._requests_per_second = requests_per_second
        self._buckets = Buckets(requests_per_second, monotonic)

    def routes(self) -> list[Route]:
        return [
            self._route(path, handlers) for section in self._sections for path, handlers in section.handlers().items()
        ]

    def _route(self, path: str, handlers: Mapping[str, Handler]) -> Route:
        async def guarded(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            authorization = request.headers.get("authorization", "")

            check = partial(self._access.check, authorization, method)
            name = self._guesses.check_admin(address_of(request), authorization, check)
            context = context_of(request)
            context.admin = name
            self._throttle(name, network_of(address_of(request)))
            with translate_change_errors() if method != "GET" else nullcontext():
                return await handlers[method](request, Actor(name, context.id))

        return Route(PREFIX + path, guarded, methods=list(handlers))

    def _throttle(self, name: str, network: str) -> None:
        """Raises: GatewayError REQUESTS_THROTTLED."""
        allowed, bucket = self._requests_per_second, f"{name} {network}"
        if wait_s := self._buckets.blocked_s(bucket):
            raise GatewayError(
                ErrorCode.REQUESTS_THROTTLED,
                f"Too many requests with admin key '{name}' from this address: limit {allowed} per second. "
                "The request was not executed. Please try again in 1 s.",
                retry_after_s=wait_s,
            )
        if allowed:
            self._buckets.take(bucket)
