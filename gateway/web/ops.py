"""Alive, able to serve, and measured."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import Response

from gateway.domain.faults import GatewayError, State
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.stores.pool import KeyPool
from gateway.stores.pool.status import KeyStatus, PoolStatus
from gateway.web.bodies import json_response
from gateway.web.openapi import DOCUMENT


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What can be asked about Redis."""

    ping: Callable[[], Awaitable[None]]
    """Raises: GatewayError."""
    problems: Callable[[], Sequence[str]]
    """Why the one that answers must not be used."""
    is_given_up: Callable[[], bool]
    """Calls fail at once: it did not answer lately."""


class Ops:
    """Routes for operators; none of them needs a key."""

    def __init__(self, metrics: Metrics, pool: KeyPool, redis: RedisHealth) -> None:
        self._metrics = metrics
        self._pool = pool
        self._redis = redis

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - a route takes its request
        """Alive: never touches Redis."""
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        """Able to serve, and why not."""
        try:
            await self._redis.ping()
            reasons = list(self._redis.problems())
        except GatewayError:
            reasons = ["redis does not answer"]
        if reasons:
            return json_response({"status": "unavailable", "reasons": reasons}, 503)
        return json_response({"status": "ok"})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """Prometheus; the states of keys are read from Redis now, so that every process tells the same."""
        try:
            statuses = await self._pool.look()
        except GatewayError:
            self._metrics.redis_up.set(0)
        else:
            self._metrics.redis_up.set(1)
            self._tell(statuses)
        self._metrics.redis_breaker_open.set(self._redis.is_given_up())
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(DOCUMENT.read_bytes(), media_type="application/json")

    def _tell(self, statuses: Sequence[PoolStatus]) -> None:
        """A key that is gone has no state, and one in an account that rests has the account's."""
        self._metrics.key_state.clear()
        for status in statuses:
            self._metrics.pool_capacity.labels(status.upstream).set(status.free)
            self._metrics.queue_depth.labels(status.upstream).set(status.waiting)
            for account in status.accounts:
                for key in account.keys:
                    ruling = next(
                        (one.state for one in (status, account, key) if one.state is not State.READY), State.READY
                    )
                    for state in State:
                        self._gauge(key, state).set(state is ruling)

    def _gauge(self, key: KeyStatus, state: State) -> Gauge:
        return self._metrics.key_state.labels(key.upstream, key.account, key.name, state.value)
