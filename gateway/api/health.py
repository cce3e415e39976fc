"""Liveness, readiness and metrics endpoints, and the API's description."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.bodies import context_of, json_response
from gateway.api.middleware import DedicatedPort
from gateway.api.scrape import OPENMETRICS, TEXT, Scrape
from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.scheduler import Scheduler
from gateway.scheduler.status import AccountStatus, Health, PoolStatus

DOCUMENT: Final = files(__package__) / "openapi.json"
_CACHE_S: Final = 1.0
"""Lifetime of a cached result: reading the pool costs more with each account."""
_BUSY: Final = frozenset(error_code.value for error_code in ErrorCode if ERROR_SPECS[error_code].status == 429)


@dataclass(slots=True, eq=False, repr=False)
class HealthRoutes:
    """Routes for operators, without authentication.

    A process is ready if it accepts requests, has reached Redis since its start, and may use it. An outage of what all
    processes share, Redis and the pool, takes none out of rotation: clients then get the gateway's own errors.
    """

    scrape: Scrape
    own_ports: Sequence[DedicatedPort]
    drain: ShutdownState
    pool: Scheduler
    write_refusal: Callable[[], Awaitable[str]]
    """Returns why Redis refuses writes, or empty. Raises: GatewayError if it does not respond."""
    redis_problems: Callable[[], Sequence[str]]
    """Returns why a Redis that responds must not be used."""
    monotonic: Callable[[], float]
    _document: bytes = field(default_factory=DOCUMENT.read_bytes)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _last: list[str] | None = None
    _until_s: float = 0.0
    _has_reached_redis: bool = False

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - signature of a route
        """Liveness probe. Never calls Redis."""
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Readiness probe. The reasons name upstreams and errors, so only operators' ports show them."""
        reasons = await self._reasons()
        is_ready = self._has_reached_redis and not self.drain.is_on and not self.redis_problems()
        _, port = request.scope.get("server") or ("", None)
        is_own = any(port == own.number for own in self.own_ports)
        details = {"reasons": reasons} if is_own and reasons else {}
        status = "unavailable" if not is_ready else "degraded" if details else "ok"
        return json_response({"status": status, **details}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics of all workers, as Prometheus text or OpenMetrics.

        Raises: GatewayError CLIENT_DISCONNECTED when the client disconnects, so that aborted scrapes do not accumulate.
        """
        accept = request.headers.get("accept", "")
        content_type = OPENMETRICS if "application/openmetrics-text" in accept else TEXT  # as prometheus_client chooses
        rendering = asyncio.create_task(self.scrape.render(content_type))
        disconnected = asyncio.ensure_future(context_of(request).disconnected.wait())
        try:
            await asyncio.wait((rendering, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not rendering.done():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            return Response(rendering.result(), headers={"content-type": content_type})
        finally:
            rendering.cancel()
            disconnected.cancel()

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._document, media_type="application/json")

    async def _reasons(self) -> list[str]:
        """Returns why requests fail. A probe during another one's check gets the previous result.

        Redis: at most once a second, one round trip, and one per upstream; none while draining.
        """
        if self.drain.is_on:
            return ["draining: the process is shutting down"]
        if self._last is not None and (self._lock.locked() or self.monotonic() < self._until_s):
            return self._last
        async with self._lock:
            if self._last is None or self.monotonic() >= self._until_s:
                self._last = await self._check()
                self._until_s = self.monotonic() + _CACHE_S
            return self._last

    async def _check(self) -> list[str]:
        try:
            if problem := await self.write_refusal():
                return [problem]
            self._has_reached_redis = True
            pool = [] if await self.pool.has_capacity() else unavailable_reasons(await self.pool.snapshot())
            return [*self.redis_problems(), *pool]
        except GatewayError:  # also while the circuit breaker is open after refused writes
            return list(self.redis_problems()) or ["redis does not respond"]


def unavailable_reasons(pools: Iterable[PoolStatus]) -> list[str]:
    """Returns one reason per upstream; empty if one of them can serve any model."""
    reasons = []
    for pool in pools:
        if not _is_usable(pool):
            reasons.append(f"upstream '{pool.upstream}': circuit breaker open ({pool.error_code})")
        elif any(_can_serve(account) for account in pool.accounts):
            return []
        else:
            parts = [part for account in pool.accounts for part in (account, *account.keys) if not _is_usable(part)]
            errors = sorted({part.error_code or part.state.value for part in parts})
            reason = f": {', '.join(errors)}" if errors else ""
            reasons.append(f"upstream '{pool.upstream}': no usable account{reason}")
    return reasons or ["no upstream is configured"]


def _can_serve(account: AccountStatus) -> bool:
    return _is_usable(account) and any(_is_usable(key) or key.model is not None for key in account.keys)


def _is_usable(health: Health) -> bool:
    """Includes half-open ones, those on cooldown after a rate limit, and those that other tenants' requests may try."""
    if health.others_may_try:
        return True
    return health.state in {KeyState.READY, KeyState.HALF_OPEN} or (
        health.state is KeyState.COOLING and health.error_code in _BUSY
    )
