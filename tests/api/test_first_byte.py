"""What waits for the first byte of a result: on the real middleware, with every message that it sends in order."""

import time

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.api.middleware import RequestContextMiddleware
from gateway.api.request_log import Telemetry
from gateway.api.shutdown import ShutdownState
from gateway.generation.memory_budget import ByteBudget
from gateway.observability.metrics import Metrics

pytestmark = pytest.mark.anyio

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_it_is_called_once_when_the_first_byte_of_the_result_has_been_sent() -> None:
    happened: list[object] = []

    async def answer(scope: Scope, _: Receive, send: Send) -> None:
        await send(START)
        await send(body(b" "))  # a keep-alive, before the result
        scope["state"]["context"].on_first_byte = lambda: happened.append("called")
        await send(body(b"{"))
        await send(body(b"}", more=False))

    async def send(message: Message) -> None:
        happened.append(message.get("body"))

    async def receive() -> Message:
        return {"type": "http.request"}

    telemetry = Telemetry(lambda: "req_1", lambda: "", lambda: "")
    app = RequestContextMiddleware(answer, Metrics(), time.monotonic, telemetry, ShutdownState(), ByteBudget(1000))
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await app(scope, receive, send)
    assert [None, b" ", b"{", "called", b"}"] == happened
