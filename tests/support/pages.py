"""A provider's page that key checks ask."""

import asyncio
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.accounts import Secret, UpstreamKey
from gateway.generation import Endpoint
from gateway.generation.key_checks import Pages
from gateway.generation.transport import AiohttpTransport
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy


def serving_page(answer: object, status: int = 200, delay_s: float = 0.0) -> tuple[Starlette, list[str]]:
    """A host with a quota page, and the keys that have asked for it."""
    seen: list[str] = []

    async def page(request: Request) -> Response:
        seen.append(request.headers["authorization"].removeprefix("Bearer "))
        await asyncio.sleep(delay_s)
        return Response(json.dumps(answer), status)

    return Starlette(routes=[Route("/v1/token_plan/remains", page)]), seen


def upstream_key(name: str, account: str = "main", secret: str = "") -> UpstreamKey:
    return UpstreamKey("sim", account, name, Secret(secret or name, f"fp-{name}"))


def asking(transport: AiohttpTransport, url: str, dialect: str = "minimax") -> Pages:
    endpoint = Endpoint("sim", PROVIDERS[dialect], url, LinkPolicy(()))
    return Pages(transport, lambda: {"sim": endpoint}, "tests")
