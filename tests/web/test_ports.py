"""Routes with a port of their own; flow/test_metrics.py has the whole program with one."""

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from gateway.web.ports import OwnPort

pytestmark = pytest.mark.anyio

HOME, OWN = ("127.0.0.1", 8080), ("127.0.0.1", 9464)


async def is_there(path: str, server: tuple[str, int] | None, port: int | None = 9464) -> bool:
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pass

    guarded = OwnPort(app, port, lambda path: path == "/metrics", frozenset({"/healthz"}))
    try:
        await guarded({"type": "http", "path": path, "server": server}, receive, send)
    except HTTPException:
        assert not reached
    return bool(reached)


@pytest.mark.parametrize(
    ("path", "at_home", "there"), [("/metrics", False, True), ("/healthz", True, True), ("/v1/models", True, False)]
)
async def test_what_has_a_port_of_its_own_is_nowhere_else_and_nothing_else_is_there(
    path: str, at_home: bool, there: bool
) -> None:
    assert (at_home, there) == (await is_there(path, HOME), await is_there(path, OWN))


async def test_without_a_port_of_their_own_routes_are_everywhere() -> None:
    assert [True] * 2 == [await is_there(path, HOME, port=None) for path in ("/metrics", "/v1/models")]


async def test_a_unix_socket_has_no_port() -> None:
    assert [False, True] == [await is_there(path, None) for path in ("/metrics", "/v1/models")]
