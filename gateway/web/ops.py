"""Alive, able to serve, and measured."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.metrics import CONTENT_TYPE
from gateway.web.bodies import json_response
from gateway.web.openapi import DOCUMENT
from gateway.web.ports import OwnPort, port_of
from gateway.web.readiness import Readiness
from gateway.web.scrape import Scrape


class Ops:
    """Routes for operators; none of them needs a key."""

    def __init__(self, readiness: Readiness, scrape: Scrape, own_ports: Sequence[OwnPort]) -> None:
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

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """Prometheus: what all processes counted, and the pool as Redis has it now."""
        return Response(await self._scrape.page(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._document, media_type="application/json")
