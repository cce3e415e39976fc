"""The baseline for large bodies: forwards raw bytes both ways without buffering."""

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.baseline import serve
from bench.proxy import State, one_client
from bench.upstream import PATH

_ASKED = ("authorization", "content-type", "content-length")
_ANSWERED = ("content-type", "content-length")


def create_relay_bytes(upstream: str) -> Starlette:
    async def relay(request: Request[State]) -> Response:
        client = request.state["client"]
        kept = {name: request.headers[name] for name in _ASKED}
        call = client.build_request("POST", upstream + PATH, content=request.stream(), headers=kept)
        answer = await client.send(call, stream=True)
        headers = {name: answer.headers[name] for name in _ANSWERED}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, headers, None, BackgroundTask(answer.aclose))

    return Starlette(routes=[Route(PATH, relay, methods=["POST"])], lifespan=one_client)


if __name__ == "__main__":
    serve(create_relay_bytes)
