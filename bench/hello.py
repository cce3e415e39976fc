"""The lowest baseline: Starlette with a constant response."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.baseline import serve
from bench.upstream import PATH


async def hello(_: Request) -> Response:
    return Response(b'{"hello": "world"}', media_type="application/json")


def create_hello(_: str) -> Starlette:
    return Starlette(routes=[Route(PATH, hello, methods=["POST"])])


if __name__ == "__main__":
    serve(create_hello)
