"""`imagegate demo`: Redis, the gateway and the simulator on this machine."""

import asyncio
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx
import msgspec

from gateway.app import create_app
from gateway.cli.demo_document import RPM, build_document, find_providers
from gateway.config import Settings, from_document
from gateway.config.resolve import resolve
from gateway.observability.logging import LogFormat, configure_logging
from gateway.redis.child_process import end_with_parent
from gateway.redis.embedded import EmbeddedRedis
from gateway.server import StartError
from gateway.server.config import gateway_config, server_config
from gateway.server.embedded import running
from gateway.server.shutdown import Server, add_signal_handlers
from gateway.server.sockets import bind, listen, own_ports, url_of
from gateway.testing.simulator import create_simulator

_TENANT: Final = "demo"
_KEY_LIFE_S: Final = 30 * 86_400
"""The demo revokes its key when it stops; if it is killed, the key expires."""
_SIMULATOR_LATENCY_S: Final = 0.3
_START_S: Final = 60.0
"""Limit on the start of the gateway, whose ports accept connections before."""
_DRAIN_S: Final = 5.0
"""Seconds, for the simulator's images. Paid images of a real provider get the configured time."""


def run_demo(
    host: str, port: int, simulator_port: int, keep: str | None, *, prints_json: bool, exits_with_parent: bool
) -> None:
    """Runs everything until a signal stops it, with the data of `keep`, or without data of a former run.

    Raises: EmbeddedError, SettingsError, StartError.
    """
    if exits_with_parent and not end_with_parent(signal.SIGTERM, os.getppid()):
        raise StartError("the parent process has ended")
    if keep == "":  # as a variable of the shell that is not set
        raise StartError("--keep: expected a directory, as in: --keep imagegate-data")
    log_format: LogFormat = "json" if prints_json else "console"
    configure_logging(log_format, "warning")  # its own admin calls are noise
    listener = bind(host, port, 'as in: make run ARGS="--port 8090"' if exits_with_parent else "")
    listener.listen()  # of two demos that start at once, the second fails here
    uses_simulator = not find_providers(os.environ)
    simulator_listener = bind("127.0.0.1", simulator_port) if uses_simulator else None
    simulator_url = f"http://127.0.0.1:{simulator_listener.getsockname()[1]}" if simulator_listener else None
    with _data_directory(keep) as directory:
        embedded = EmbeddedRedis(directory, "TMPDIR" if keep is None else "--keep")
        environ = {"IMAGEGATE_REQUESTS__JOURNAL_DIR": str(directory / "journal"), **os.environ}
        environ.setdefault("IMAGEGATE_STORAGE__URL", (directory / "files").as_uri())
        environ |= {"IMAGEGATE_ADMIN_KEY": secrets.token_urlsafe(24), "IMAGEGATE_SIMULATOR_KEY": "demo-1"}
        document = build_document(embedded.url, simulator_url, environ, datetime.now(UTC).date())
        settings, own_listeners = _with_own_ports(from_document(document, environ, "demo"))
        url = url_of(host, listener.getsockname()[1])
        info = {
            "base_url": f"{url}/v1",
            "api_key": "",
            "admin_url": url_of(settings.admin.host, settings.admin.port) if settings.admin.port else url,
            "admin_key": environ["IMAGEGATE_ADMIN_KEY"],
            "simulator_url": simulator_url,
            "redis_url": embedded.url,
            "console_url": "",
        }
        with running(embedded):
            asyncio.run(_run(settings, environ, [listener, *own_listeners], simulator_listener, info, log_format))


@contextmanager
def _data_directory(keep: str | None) -> Iterator[Path]:
    """Yields the directory of all data. One that is not to be kept is deleted at the end."""
    if keep is not None:
        yield Path(keep).expanduser().resolve()
    else:
        with TemporaryDirectory(prefix="imagegate-demo-", ignore_cleanup_errors=True) as directory:
            yield Path(directory)


async def _run(
    settings: Settings,
    environ: Mapping[str, str],
    listeners: list[socket.socket],
    simulator_listener: socket.socket | None,
    info: dict[str, str | None],
    log_format: LogFormat,
) -> None:
    options = gateway_config(create_app(resolve(settings, environ)), settings)
    options.shutdown_delay_s = 0
    programs = [(Server(options), listeners)]
    if simulator_listener:
        options.shutdown_timeout_s = _DRAIN_S
        simulator = create_simulator(latency_s=_SIMULATOR_LATENCY_S, requests_per_minute=RPM)
        programs.append((Server(server_config(simulator, _DRAIN_S)), [simulator_listener]))
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():  # a second signal hurries the servers
            for server, _ in programs:
                server.force()
        stopped.set()

    add_signal_handlers({signal.SIGINT: stop, signal.SIGTERM: stop})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.serve(bound)) for server, bound in programs]
        problem = await _use(info, settings, log_format, stopped)
        for (server, _), task in zip(programs, tasks, strict=True):  # the gateway stops before its upstream
            server.should_exit = True
            await task
    if problem:
        raise StartError(problem)


def _with_own_ports(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """Binds the ports of the admin API and the metrics. A port in use is replaced by a free one."""
    listeners, changes = [], {}
    for name, table in own_ports(settings).items():
        try:
            listener = listen(table.host, table.port)
            listener.listen()  # two demos that start at once can both bind a port
        except (OSError, OverflowError):
            listener = bind(table.host, 0, option=f"`host` in [{name}]")
        listeners.append(listener)
        changes[name] = msgspec.structs.replace(table, port=listeners[-1].getsockname()[1])
    return msgspec.structs.replace(settings, **changes), listeners


async def _use(info: dict[str, str | None], settings: Settings, log_format: LogFormat, stopped: asyncio.Event) -> str:
    """Creates a key, shows addresses and keys until the demo stops, and revokes the key.

    Returns: an error, or an empty string.
    """
    headers = {"authorization": f"Bearer {info['admin_key']}"}
    # Without proxies of the environment: this process itself responds.
    async with httpx.AsyncClient(
        base_url=f"{info['admin_url']}/admin/v1", headers=headers, trust_env=False, timeout=_START_S
    ) as admin:
        try:
            response = await _create_key(admin)
        except httpx.HTTPError as error:
            return f"cannot create the demo's key ({error})"
        if response.status_code != 201:
            return f"cannot create the demo's key ({response.text})"
        made = response.json()
        info["api_key"] = made["key"]
        if settings.console.enabled:
            invited = await admin.post("/console/invitations", json={"name": "demo", "role": "admin"})
            info["console_url"] = invited.json().get("url", "")
        print(json.dumps(info) if log_format == "json" else _render_instructions(info, settings), flush=True)
        configure_logging(log_format, "info")
        await stopped.wait()
        configure_logging(log_format, "warning")
        with suppress(httpx.HTTPError):  # the key expires
            await admin.delete(f"/keys/{made['id']}")
    return ""


async def _create_key(admin: httpx.AsyncClient) -> httpx.Response:
    """Creates an API key of the demo's tenant, once the gateway serves."""
    for _ in range(500):
        try:
            await admin.get("/tenants")
            break
        except httpx.ConnectError:
            await asyncio.sleep(0.01)
    await admin.post("/tenants", json={"name": _TENANT})
    await admin.patch(f"/tenants/{_TENANT}", json={"disabled": False, "models": None})
    body = {"label": "demo", "expires_at": int(time.time()) + _KEY_LIFE_S}
    return await admin.post(f"/tenants/{_TENANT}/keys", json=body)


def _render_instructions(info: Mapping[str, str | None], settings: Settings) -> str:
    metrics = url_of(settings.metrics.host, settings.metrics.port) if settings.metrics.port else info["admin_url"]
    link, address = info["console_url"], f"{info['admin_url']}/console"
    console = f"\nThe console is at {address}. This link signs you in once:\n\n{link}\n" if link else ""
    upstreams = "\n              ".join(f"{upstream.name}, {upstream.base_url}" for upstream in settings.upstreams)
    return f"""
imagegate is ready.

  base URL    {info["base_url"]}
  tenant key  {info["api_key"]}
  admin URL   {info["admin_url"]}
  admin key   {info["admin_key"]}
  metrics     {metrics}/metrics
  upstream    {upstreams}
  data        {Path(str(info["redis_url"]).removeprefix("unix://")).parent}

{"Its images are drawn locally and cost nothing." if info["simulator_url"] else "Every image is billed to your key."}
Both keys are valid until the demo stops. It then deletes its data. With
--keep DIR it keeps the data, but the next run makes new keys, and batches that
were created with the old ones pause.
{console}
Try it in another terminal. The response contains the image's URL:

curl {info["base_url"]}/images/generations \\
  -H "Authorization: Bearer {info["api_key"]}" \\
  -H "Content-Type: application/json" \\
  -d '{{"prompt": "a lighthouse at dawn", "response_format": "url"}}'

or from Python (pip install openai):

from base64 import b64decode
from pathlib import Path
from openai import OpenAI
client = OpenAI(
    base_url="{info["base_url"]}",
    api_key="{info["api_key"]}",
)
result = client.images.generate(model="{settings.models[0].id}", prompt="a lighthouse at dawn")
Path("lighthouse.jpg").write_bytes(b64decode(result.data[0].b64_json))

Ctrl-C stops everything.
"""
