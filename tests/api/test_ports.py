"""Routes with a port of their own, and the hosts it answers to; flow/test_ports.py has the whole program."""

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from gateway.api.middleware import METRICS, DedicatedPort, DedicatedPortMiddleware
from gateway.domain.errors import ErrorCode, GatewayError

pytestmark = pytest.mark.anyio

HOME, OWN = ("127.0.0.1", 8080), ("127.0.0.1", 9464)
OUTSIDE = ("10.1.2.3", 9464)


async def is_there(path: str, server: tuple[str, int] | None, number: int = 9464, host: str = "localhost") -> bool:
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pass

    own = [DedicatedPort(number, (METRICS,), frozenset({"127.0.0.1", "prom.example"}))] if number else []
    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "server": server,
        "headers": [(b"host", host.encode())],
    }
    try:
        await DedicatedPortMiddleware(app, own)(scope, receive, send)
    except HTTPException:
        assert not reached
    except GatewayError as error:
        assert error.error_code is ErrorCode.HOST_NOT_ALLOWED  # noqa: PT017 - it is raised in one of two cases
        assert not reached
    return bool(reached)


@pytest.mark.parametrize(
    ("path", "at_home", "there"),
    [
        ("/metrics", False, True),
        ("/healthz", True, True),
        ("/readyz", True, True),
        ("/v1/models", True, False),
        ("/openapi.json", True, False),
    ],
)
async def test_what_has_a_port_of_its_own_is_nowhere_else_and_nothing_else_is_there(
    path: str, at_home: bool, there: bool
) -> None:
    assert (at_home, there) == (await is_there(path, HOME), await is_there(path, OWN))


async def test_without_a_port_of_their_own_routes_are_everywhere() -> None:
    assert [True] * 2 == [await is_there(path, HOME, number=0) for path in ("/metrics", "/v1/models")]


async def test_a_unix_socket_has_no_port() -> None:
    assert [False, True] == [await is_there(path, None) for path in ("/metrics", "/v1/models")]


NAMES = ("localhost", "LOCALHOST:9464", "127.0.0.1:9464", "[::1]:9464", "prom.example:9464", "Prom.Example")


@pytest.mark.parametrize("host", NAMES)
async def test_a_port_of_operators_answers_to_itself_and_to_configured_names(host: str) -> None:
    assert await is_there("/metrics", OWN, host=host)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["rebind.evil.example", "127.0.0.1.evil.example:9464", "10.1.2.3", "[::2]", "[", ""])
async def test_on_loopback_it_answers_to_no_other_host(path: str, host: str) -> None:
    """DNS rebinding: a page's name that resolves to 127.0.0.1."""
    assert not await is_there(path, OWN, host=host)


async def test_beyond_loopback_it_answers_to_addresses_and_to_no_other_name() -> None:
    """Prometheus scrapes pods by their addresses, and port forwarding keeps the host."""
    assert [True, True, False] == [
        await is_there("/metrics", OUTSIDE, host=host) for host in ("10.1.2.3:9464", "localhost:9464", "evil.example")
    ]


async def test_the_gateway_s_own_port_answers_to_every_host() -> None:
    assert await is_there("/v1/models", HOME, host="images.example")
