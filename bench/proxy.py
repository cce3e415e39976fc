"""A minimal proxy: Starlette and a default `httpx.AsyncClient`, body in, body out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.baseline import serve
from bench.upstream import PATH


class State(TypedDict):
    """State of the running program."""

    client: httpx.AsyncClient


def create_relay(upstream: str) -> Starlette:
    async def relay(request: Request[State]) -> Response:
        kept = {name: request.headers[name] for name in ("authorization", "content-type")}
        answer = await request.state["client"].post(upstream + PATH, content=await request.body(), headers=kept)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    return Starlette(routes=[Route(PATH, relay, methods=["POST"])], lifespan=one_client)


@asynccontextmanager
async def one_client(_: Starlette) -> AsyncIterator[State]:
    async with httpx.AsyncClient() as client:
        yield {"client": client}


if __name__ == "__main__":
    serve(create_relay)
