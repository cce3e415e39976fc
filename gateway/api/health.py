"""Alive, able to serve, and measured."""

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
    """Routes for operators; none of them needs a key."""

    def __init__(self, readiness: Readiness, scrape: Scrape, own_ports: Sequence[DedicatedPort]) -> None:
        self._readiness = readiness
        self._scrape = scrape
        self._own_ports = {one.number for one in own_ports}
        self._document = DOCUMENT.read_bytes()

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - a route takes its request
        """Alive: never touches Redis."""
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Able to serve. The reasons, which name upstreams and errors, only on the ports of operators."""
        reasons = await self._readiness.reasons()
        if not reasons:
            return json_response({"status": "ok"})
        told = {"reasons": reasons} if port_of(request.scope) in self._own_ports else {}
        return json_response({"status": "unavailable", **told}, 503)

    async def metrics(self, request: Request) -> Response:
        """Metrics of all workers, as text for Prometheus or as OpenMetrics.

        Raises: GatewayError CLIENT_DISCONNECTED as soon as the client disconnects: aborted scrapes do not add up.
        """
        exposition = Exposition.accepted(request.headers.get("accept", ""))
        page = asyncio.create_task(self._scrape.render(exposition))
        left = asyncio.ensure_future(context_of(request).disconnected.wait())
        try:
            await asyncio.wait((page, left), return_when=asyncio.FIRST_COMPLETED)
            if not page.done():
                raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)
            return Response(page.result(), headers={"content-type": exposition.value})
        finally:
            page.cancel()
            left.cancel()

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._document, media_type="application/json")
