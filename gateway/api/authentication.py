"""Authenticates the requests of tenants: throttles wrong keys, finds the principal, and counts refused requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request

from gateway.api.auth_throttle import FailedAuthThrottle, address_of
from gateway.api.rejected_requests import RejectionLimits
from gateway.api.request_context import context_of
from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal
from gateway.metering.admission import Admission
from gateway.metering.transfers import Transfer, Transfers
from gateway.tenants.authentication import Authenticator

_TOO_MANY: Final = 429


class TenantAuthenticator:
    """Authenticates requests, and limits the cost of refused ones."""

    def __init__(
        self,
        drain: ShutdownState,
        authenticator: Authenticator,
        throttle: FailedAuthThrottle,
        limits: RejectionLimits,
        admission: Admission,
        transfers: Transfers,
    ) -> None:
        self._drain = drain
        self._authenticator = authenticator
        self._throttle = throttle
        self._admission = admission
        self._transfers = transfers
        self._limits = limits
        self.count_refusal = limits.count

    async def begin(self, request: Request) -> Principal:
        """Authenticates a request for images. Raises: GatewayError SHUTTING_DOWN, and those of `authenticate`."""
        self._drain.refuse()
        return await self.authenticate(request)

    async def authenticate(self, request: Request) -> Principal:
        """Raises: GatewayError INVALID_API_KEY, AUTHENTICATION_THROTTLED, REQUESTS_THROTTLED, REDIS_UNAVAILABLE."""
        authorization = request.headers.get("authorization", "")
        check = partial(self._authenticator.identify, authorization)
        caller = await self._throttle.check_tenant(address_of(request), authorization, check)
        context = context_of(request)
        context.tenant, context.key_id = caller.tenant.name, caller.key.id
        context.memory.tenant = context.tenant
        context.transfer = Transfer(self._transfers, caller)
        await self._limits.check(caller)
        return caller

    @asynccontextmanager
    async def counting_refusals(self, request: Request, caller: Principal) -> AsyncIterator[None]:
        """Counts a request that fails before its admission. Raises: GatewayError RATE_LIMITED."""
        try:
            yield
        except (GatewayError, ClientDisconnect):
            self.count_refusal(caller)
            await self.load_rates(request, caller, is_refused=True)
            raise

    async def load_rates(self, request: Request, caller: Principal, *, is_refused: bool = False) -> None:
        """Loads the status of the rate limits for the response headers. Raises: GatewayError RATE_LIMITED."""
        if not caller.has_rates:
            return
        try:
            context_of(request).rates = await self._admission.peek_rates(caller, is_refused=is_refused)
        except GatewayError as error:
            if error.row.status == _TOO_MANY:
                raise  # other errors only omit the headers
