"""A provider's endpoint for key checks."""

import asyncio
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.accounts import ProviderKey, Secret
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy


def serving_page(answer: object, status: int = 200, delay_s: float = 0.0) -> tuple[Starlette, list[str]]:
    """Returns a host with the same answer on both free pages, and the keys that called it."""
    seen: list[str] = []

    async def page(request: Request) -> Response:
        seen.append(request.headers["authorization"].removeprefix("Bearer "))
        await asyncio.sleep(delay_s)
        return Response(json.dumps(answer), status)

    return Starlette(routes=[Route(path, page) for path in ("/v1/token_plan/remains", "/v1/models")]), seen


def upstream_key(name: str, account: str = "main", secret: str = "") -> ProviderKey:
    return ProviderKey("sim", account, name, Secret(secret or name, f"fp-{name}"))


def asking(transport: AiohttpTransport, url: str, provider: str = "minimax") -> KeyChecker:
    endpoint = UpstreamEndpoint("sim", PROVIDERS[provider], url, LinkPolicy(()))
    return KeyChecker(transport, lambda: {"sim": endpoint}, "tests")
