"""Liveness, readiness and metrics endpoints."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.bodies import json_response
from gateway.api.dedicated_ports import DedicatedPort, port_of
from gateway.api.openapi import DOCUMENT
from gateway.api.readiness import Readiness
from gateway.api.request_context import context_of
from gateway.api.scrape import Exposition, Scrape
from gateway.domain.errors import ErrorCode, GatewayError


class HealthRoutes:
    """Routes for operators, without authentication."""

    def __init__(self, readiness: Readiness, scrape: Scrape, own_ports: Sequence[DedicatedPort]) -> None:
        self._readiness = readiness
        self._scrape = scrape
        self._own_ports = {port.number for port in own_ports}
        self._document = DOCUMENT.read_bytes()

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - signature of a route
        """Liveness probe. Never calls Redis."""
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Readiness probe. The reasons name upstreams and errors, so only operators' ports show them."""
        reasons = await self._readiness.reasons()
        if not reasons:
            return json_response({"status": "ok"})
        details = {"reasons": reasons} if port_of(request.scope) in self._own_ports else {}
        return json_response({"status": "unavailable", **details}, 503)

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics of all workers, as Prometheus text or OpenMetrics.

        Raises: GatewayError CLIENT_DISCONNECTED when the client disconnects, so that aborted scrapes do not accumulate.
        """
        exposition = Exposition.accepted(request.headers.get("accept", ""))
        rendering = asyncio.create_task(self._scrape.render(exposition))
        disconnected = asyncio.ensure_future(context_of(request).disconnected.wait())
        try:
            await asyncio.wait((rendering, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not rendering.done():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            return Response(rendering.result(), headers={"content-type": exposition.value})
        finally:
            rendering.cancel()
            disconnected.cancel()

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._document, media_type="application/json")
