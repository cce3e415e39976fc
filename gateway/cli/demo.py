"""`imagegate demo`: Redis, the gateway and the simulator on this machine."""

import asyncio
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import msgspec

from gateway.app import create_app
from gateway.config import Settings, from_document
from gateway.config.resolve import resolve
from gateway.observability.logging import LogFormat, configure_logging
from gateway.redis.child_process import end_with_parent
from gateway.redis.embedded import EmbeddedRedis
from gateway.server import StartError
from gateway.server.config import gateway_config, server_config
from gateway.server.embedded import data_directory, running
from gateway.server.shutdown import Server, add_signal_handlers
from gateway.server.sockets import bind, listen, own_ports, url_of
from gateway.testing.simulator import create_simulator

_TENANT: Final = "demo"
_KEY_LIFE_S: Final = 30 * 86_400
"""The demo revokes its key when it stops; if it is killed, the key expires."""
_SIMULATOR_LATENCY_S: Final = 0.3
_SIMULATOR_RPM: Final = 600
_SIMULATOR_LIMITS: Final = {
    "requests_per_minute": _SIMULATOR_RPM,
    "images_per_minute": 9 * _SIMULATOR_RPM,
    "max_concurrency": 100,
}
_REDIS_TIMEOUT_MS: Final = 2000
"""Seconds. A machine that runs everything itself may be busy."""
_DRAIN_S: Final = 5.0
"""Seconds, for the simulator's images. Paid images of a real provider get the configured time."""
_ALIASES: Final = (
    "dall-e-2",
    "dall-e-3",
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
)
_PROVIDERS: Final = (
    ("AI302_API_KEY", "302ai", "https://api.302.ai", "minimaxi-image-01"),
    ("MINIMAX_API_KEY", "minimax", "https://api.minimax.io", "image-01"),
)


@dataclass(frozen=True, slots=True)
class DemoInfo:
    """Addresses and keys of the demo, as `--json` prints them."""

    base_url: str
    api_key: str
    admin_url: str
    admin_key: str
    simulator_url: str | None
    redis_url: str


def run_demo(host: str, port: int, simulator_port: int, *, prints_json: bool, exits_with_parent: bool) -> None:
    """Runs everything until a signal stops it. Raises: EmbeddedError, SettingsError, StartError."""
    if exits_with_parent and not end_with_parent(signal.SIGTERM, os.getppid()):
        raise StartError("the parent process has ended")
    log_format: LogFormat = "json" if prints_json else "console"
    configure_logging(log_format, "warning")  # its own admin calls are noise
    listener = bind(host, port, 'as in: make run ARGS="--port 8090"' if exits_with_parent else "")
    uses_simulator = not any(os.environ.get(variable) for variable, *_ in _PROVIDERS)
    simulator_listener = bind("127.0.0.1", simulator_port) if uses_simulator else None
    directory = data_directory() / "demo"
    embedded = EmbeddedRedis(directory)
    with running(embedded):
        asyncio.run(_run(host, listener, simulator_listener, embedded, directory / "journal", log_format))


async def _run(
    host: str,
    listener: socket.socket,
    simulator_listener: socket.socket | None,
    embedded: EmbeddedRedis,
    journal: Path,
    log_format: LogFormat,
) -> None:
    admin_key = secrets.token_urlsafe(24)
    simulator_url = f"http://127.0.0.1:{simulator_listener.getsockname()[1]}" if simulator_listener else None
    environ = {**os.environ, "IMAGEGATE_ADMIN_KEY": admin_key, "IMAGEGATE_SIMULATOR_KEY": "demo-1"}
    document = _document(embedded.url, simulator_url, environ) | {"requests": {"journal_dir": str(journal)}}
    settings, own_listeners = _with_own_ports(from_document(document, environ, "demo"))
    app = create_app(resolve(settings, environ))
    options = gateway_config(app, settings)
    options.shutdown_delay_s = 0
    if simulator_url:
        options.shutdown_timeout_s = _DRAIN_S
    programs = [(Server(options), [listener, *own_listeners])]
    if simulator_listener:
        simulator = create_simulator(latency_s=_SIMULATOR_LATENCY_S, requests_per_minute=_SIMULATOR_RPM)
        programs.append((Server(server_config(simulator, _DRAIN_S)), [simulator_listener]))
    stopped = asyncio.Event()
    _stop_on_signals([server for server, _ in programs], stopped)
    url = url_of(host, listener.getsockname()[1])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.serve(bound)) for server, bound in programs]
        show = partial(_show, log_format, settings, stopped)
        admin_url = url_of(settings.admin.host, settings.admin.port) if settings.admin.port else url
        partly = DemoInfo(f"{url}/v1", "", admin_url, admin_key, simulator_url, embedded.url)
        problem = await _use(partly, show)
        for (server, _), task in zip(programs, tasks, strict=True):  # the gateway stops before its upstream
            server.should_exit = True
            await task
    if problem:
        raise StartError(problem)


def _stop_on_signals(servers: list[Server], stopped: asyncio.Event) -> None:
    """Sets the event at SIGINT and SIGTERM; a second signal hurries the servers."""

    def stop() -> None:
        if stopped.is_set():
            for server in servers:
                server.force()
        stopped.set()

    add_signal_handlers({signal.SIGINT: stop, signal.SIGTERM: stop})


def _with_own_ports(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """Binds the ports of the admin API and the metrics. A port in use is replaced by a free one."""
    listeners, changes = [], {}
    for name, table in own_ports(settings).items():
        try:
            listeners.append(listen(table.host, table.port))
        except (OSError, OverflowError):
            listeners.append(bind(table.host, 0, option=f"`host` in [{name}]"))
        changes[name] = msgspec.structs.replace(table, port=listeners[-1].getsockname()[1])
    return msgspec.structs.replace(settings, **changes), listeners


async def _use(ready: DemoInfo, show: Callable[[DemoInfo], Awaitable[None]]) -> str:
    """Creates a key, shows its use until the demo stops, and revokes it. Returns: an error, or an empty string."""
    async with _admin_client(ready.admin_url, ready.admin_key) as admin:
        try:
            api_key, key_id = await _create_key(admin)
        except (httpx.HTTPError, _DemoError) as error:
            return f"cannot create the demo's key ({error})"
        await show(replace(ready, api_key=api_key))
        with suppress(httpx.HTTPError):  # the key expires
            await admin.delete(f"/keys/{key_id}")
    return ""


async def _show(log_format: LogFormat, settings: Settings, stopped: asyncio.Event, ready: DemoInfo) -> None:
    """Prints the addresses and keys, and logs requests until the demo stops."""
    print(json.dumps(asdict(ready)) if log_format == "json" else _render_instructions(ready, settings), flush=True)
    configure_logging(log_format, "info")
    await stopped.wait()
    configure_logging(log_format, "warning")


def _document(redis_url: str, simulator_url: str | None, environ: Mapping[str, str]) -> dict[str, object]:
    """Builds the configuration: the providers whose keys are in the environment, else the simulator."""
    providers = [
        (url, provider, variable, model) for variable, provider, url, model in _PROVIDERS if environ.get(variable)
    ]
    if simulator_url:
        providers = [(simulator_url, "minimax", "IMAGEGATE_SIMULATOR_KEY", "image-01")]
    upstreams = [
        {
            "name": provider if not simulator_url else "simulator",
            "provider": provider,
            "base_url": url,
            "accounts": [
                {"name": "demo", "keys": [{"name": "demo-1", "secret": {"env": variable}}]}
                | (_SIMULATOR_LIMITS if simulator_url else {})
            ],
        }
        | ({"result_hosts": [simulator_url]} if simulator_url else {})
        for url, provider, variable, _ in providers
    ]
    targets = [
        {"upstream": upstream["name"], "model": model}
        for upstream, (_, _, _, model) in zip(upstreams, providers, strict=True)
    ]
    return {
        "redis": {"url": redis_url, "timeout_ms": _REDIS_TIMEOUT_MS},
        "admin": {"key": {"env": "IMAGEGATE_ADMIN_KEY"}},
        "upstreams": upstreams,
        "models": [{"id": "image-01", "aliases": list(_ALIASES), "price_per_image_usd": "0.0035", "targets": targets}],
    }


class _DemoError(Exception):
    """The demo's set-up failed."""


def _admin_client(url: str, admin_key: str) -> httpx.AsyncClient:
    """Ignores proxies of the environment: this process itself responds."""
    headers = {"authorization": f"Bearer {admin_key}"}
    return httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, trust_env=False)


async def _create_key(admin: httpx.AsyncClient) -> tuple[str, str]:
    """Returns: an API key of the demo's tenant, and its ID."""
    for _ in range(500):
        try:
            await admin.get("/tenants")
            break
        except httpx.ConnectError:
            await asyncio.sleep(0.01)
    await admin.post("/tenants", json={"name": _TENANT})
    await admin.patch(f"/tenants/{_TENANT}", json={"disabled": False, "models": None})
    body = {"label": "demo", "expires_at": int(time.time()) + _KEY_LIFE_S}
    response = await admin.post(f"/tenants/{_TENANT}/keys", json=body)
    if response.status_code != 201:
        raise _DemoError(response.text)
    made = response.json()
    return made["key"], made["id"]


def _render_instructions(ready: DemoInfo, settings: Settings) -> str:
    metrics = url_of(settings.metrics.host, settings.metrics.port) if settings.metrics.port else ready.admin_url
    upstreams = "\n              ".join(f"{upstream.name}, {upstream.base_url}" for upstream in settings.upstreams)
    cost = (
        "Its images are drawn locally and cost nothing."
        if ready.simulator_url
        else "Every image is billed to your key."
    )
    return f"""
imagegate is ready.

  base URL    {ready.base_url}
  tenant key  {ready.api_key}
  admin URL   {ready.admin_url}
  admin key   {ready.admin_key}
  metrics     {metrics}/metrics
  upstream    {upstreams}

{cost}
Both keys are valid until the demo stops.

Try it in another terminal. The response contains the image's URL:

curl {ready.base_url}/images/generations \\
  -H "Authorization: Bearer {ready.api_key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"prompt": "a lighthouse at dawn", "response_format": "url"}}'

or from Python (pip install openai):

from base64 import b64decode
from pathlib import Path
from openai import OpenAI
client = OpenAI(
    base_url="{ready.base_url}",
    api_key="{ready.api_key}",
)
result = client.images.generate(model="image-01", prompt="a lighthouse at dawn")
Path("lighthouse.jpg").write_bytes(b64decode(result.data[0].b64_json))

Ctrl-C stops everything.
"""
