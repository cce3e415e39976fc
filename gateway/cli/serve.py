"""`imagegate serve` and `imagegate check`."""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from typing import Annotated

import msgspec
import structlog
import typer
from starlette.applications import Starlette

from gateway import __version__, logs
from gateway.administration import read_admin_keys, read_declared, read_pepper
from gateway.app import create_app
from gateway.backing import find_problems, refuse_unfit
from gateway.cli.output import fail
from gateway.cli.reloading import Reload, Workers
from gateway.cli.serving import (
    Server,
    bind,
    connection_limits,
    embedded_of,
    server_config,
    start_embedded,
    url_of,
    watch_embedded,
    watching,
)
from gateway.domain.faults import GatewayError
from gateway.processes import end_with_parent
from gateway.settings import Settings, SettingsError, config_path, load
from gateway.stores.embedded import EmbeddedError, EmbeddedRedis
from gateway.supply import build_catalog, read_keys, unfetchable
from gateway.web.admin.access import AdminKey

_LOG = structlog.get_logger("imagegate.serve")

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="The configuration file; else IMAGEGATE_CONFIG, else config/imagegate.toml."),
]


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port, instead of the configured one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
) -> None:
    """Run the gateway."""
    settings = _load(config)
    logs.configure(settings.logs.format, settings.logs.level)
    embedded = embedded_of(settings)
    if embedded:
        start_embedded(embedded)
    try:
        _run(
            settings,
            embedded,
            config,
            host or settings.server.host,
            settings.server.port if port is None else port,
            workers,
        )
    finally:
        if embedded:
            embedded.stop()


def check(config: ConfigOption = None) -> None:
    """Validate the configuration, and see whether Redis answers and can be used."""
    settings = _load(config)
    path = config_path(config, os.environ)
    try:
        keys = read_keys(settings, os.environ)
        admin_keys = read_admin_keys(settings, os.environ)
        read_pepper(settings, os.environ)
        read_declared(settings, os.environ, build_catalog(settings))
        redis = _check_redis(settings)
    except SettingsError as error:
        fail(f"{path}: {error}")
    accounts = len({(key.upstream, key.account) for key in keys})
    print(path)
    print(f"valid: upstream keys {len(keys)}, accounts {accounts}, models {len(settings.models)}")
    if settings.tenants:
        keys_declared = sum(len(tenant.keys) for tenant in settings.tenants)
        print(f"declared: tenants {len(settings.tenants)}, keys {keys_declared}")
    print(f"admin API: {_openness(admin_keys)}")
    print(f"redis: {redis}")
    for upstream in unfetchable(settings):
        print(f"warning: upstream {upstream}:")
        print("  result_hosts does not name its own address, where its links may point")


def _openness(keys: list[AdminKey]) -> str:
    return f"open to {', '.join(key.name for key in keys)}" if keys else "closed, no [admin] key is set"


def _check_redis(settings: Settings) -> str:
    """What is to be said of it. Raises: SettingsError."""
    embedded = embedded_of(settings)
    if embedded is None:
        try:
            problems = asyncio.run(find_problems(settings, os.environ))
        except GatewayError as error:
            remedy = "is it running there? is TLS meant (rediss://)?"
            raise SettingsError(f"redis.url: redis does not answer ({error.detail}); {remedy}") from error
        if problems:
            raise SettingsError(f"redis.url: {'; '.join(problems)}")
        return "answers"
    try:
        embedded.prepare()
    except EmbeddedError as error:
        raise SettingsError(f"redis: {error}") from error
    return "embedded, starts with the gateway"


def create_worker() -> Starlette:
    """One of several worker processes: everything it needs is in the environment."""
    supervisor = multiprocessing.parent_process()
    if supervisor and not end_with_parent(signal.SIGTERM, supervisor.pid or 0):
        raise SystemExit(1)
    settings = load(None, os.environ)
    logs.configure(settings.logs.format, settings.logs.level)
    return _create(settings, embedded_of(settings), watches=False)


def _create(settings: Settings, embedded: EmbeddedRedis | None, *, watches: bool) -> Starlette:
    """The program, which keeps the embedded server alive if it `watches`."""
    if embedded is None:
        return create_app(settings, os.environ)
    settings = msgspec.structs.replace(settings, redis=msgspec.structs.replace(settings.redis, url=embedded.url))
    return create_app(settings, os.environ, [partial(watch_embedded, embedded)] if watches else ())


def _load(config: str | None) -> Settings:
    try:
        return load(config, os.environ)
    except SettingsError as error:
        fail(str(error))


def _run(
    settings: Settings, embedded: EmbeddedRedis | None, config: str | None, host: str, port: int, workers: int
) -> None:
    try:
        app = _create(settings, embedded, watches=workers == 1)
        if embedded is None:
            asyncio.run(refuse_unfit(settings, os.environ))
    except SettingsError as error:
        fail(f"{config_path(config, os.environ)}: {error}")
    if config:
        os.environ["IMAGEGATE_CONFIG"] = config
    reload = Reload(config, os.environ, settings)
    options = server_config(
        "gateway.cli.serve:create_worker" if workers > 1 else app,
        settings.server.drain_timeout_s,
        connection_limits(settings),
    )
    options.workers, options.factory = workers, workers > 1
    listener = bind(host, port)
    _LOG.info("listening", url=url_of(host, listener.getsockname()[1]), workers=workers, version=__version__)
    if workers > 1:
        supervisor = Workers(options, sockets=[listener])
        supervisor.reload = reload
        with watching(embedded) if embedded else nullcontext():
            supervisor.run()
    else:
        with asyncio.Runner(loop_factory=options.get_loop_factory()) as runner:
            runner.run(
                _serve_until_stopped(Server(options), listener, partial(reload.on_signal, app.state.declaration))
            )


async def _serve_until_stopped(
    server: Server, listener: socket.socket, reload: Callable[[asyncio.Event], Coroutine[None, None, None]]
) -> None:
    """SIGTERM and SIGINT drain and end it; a second one ends it at once. SIGHUP reads the configuration again."""

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    hang_up = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up.set)
    async with asyncio.TaskGroup() as group:
        reloading = group.create_task(reload(hang_up))
        await server.serve([listener])
        reloading.cancel()
    if not server.started:
        fail("the gateway could not start; the log says why")
