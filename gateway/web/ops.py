"""Alive, able to serve, and measured."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.domain.faults import GatewayError
from gateway.metrics import CONTENT_TYPE, Metrics, Truth, families
from gateway.metrics.pulse import Pulse
from gateway.stores.pool import KeyPool
from gateway.web.bodies import json_response
from gateway.web.openapi import DOCUMENT
from gateway.web.readiness import Readiness
from gateway.web.truths import pool_truths


class Ops:
    """Routes for operators; none of them needs a key."""

    def __init__(self, metrics: Metrics, pulse: Pulse, pool: KeyPool, readiness: Readiness, version: str) -> None:
        self._metrics = metrics
        self._pulse = pulse
        self._pool = pool
        self._readiness = readiness
        self._version = version

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - a route takes its request
        """Alive: never touches Redis."""
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        """Able to serve, and why not."""
        if reasons := await self._readiness.reasons():
            return json_response({"status": "unavailable", "reasons": reasons}, 503)
        return json_response({"status": "ok"})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """Prometheus: what all processes counted, and how the pool stands in Redis now."""
        truths = [Truth(families.INFO, (self._version,), 1)]
        try:
            truths += pool_truths(await self._pool.look())
        except GatewayError:
            truths.append(Truth(families.REDIS_UP, (), 0))
        else:
            truths.append(Truth(families.REDIS_UP, (), 1))
        self._pulse.look()
        return Response(self._metrics.render(truths), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(DOCUMENT.read_bytes(), media_type="application/json")
