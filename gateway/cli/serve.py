"""`imagegate serve`."""

import asyncio
import multiprocessing
import os
import signal
import socket
from contextlib import nullcontext
from functools import partial
from typing import Annotated

import msgspec
import structlog
import typer
from starlette.applications import Starlette

from gateway import __version__, logs
from gateway.app import create_app
from gateway.backing import refuse_unfit
from gateway.cli.output import fail
from gateway.cli.reloading import Reload, Watch, Workers, tell_shared_keys
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
from gateway.processes import end_with_parent
from gateway.settings import Settings, SettingsError, config_path, load
from gateway.stores.embedded import EmbeddedRedis
from gateway.supply import build_supply

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
    watch = Watch(config_path(config, os.environ))
    settings = load_settings(config)
    logs.configure(settings.logs.format, settings.logs.level)
    embedded = embedded_of(settings)
    if embedded:
        start_embedded(embedded)
    try:
        _run(
            settings,
            Reload(config, os.environ, settings, watch),
            embedded,
            config,
            host or settings.server.host,
            settings.server.port if port is None else port,
            workers,
        )
    finally:
        if embedded:
            embedded.stop()


def create_worker(config: str | None, settings: Settings) -> Starlette:
    """One of several worker processes. It begins with what its supervisor found right, whatever the file is now."""
    supervisor = multiprocessing.parent_process()
    if supervisor and not end_with_parent(signal.SIGTERM, supervisor.pid or 0):
        raise SystemExit(1)
    logs.configure(settings.logs.format, settings.logs.level)
    reload = Reload(config, os.environ, settings)
    signal.signal(signal.SIGHUP, reload.ask)
    return _create(settings, reload, embedded_of(settings), watches=False)


def _create(settings: Settings, reload: Reload, embedded: EmbeddedRedis | None, *, watches: bool) -> Starlette:
    """The program, which keeps the embedded server alive if it `watches`."""
    if embedded is None:
        return create_app(settings, os.environ, reload=reload.keep)
    settings = msgspec.structs.replace(settings, redis=msgspec.structs.replace(settings.redis, url=embedded.url))
    companions = [partial(watch_embedded, embedded)] if watches else ()
    return create_app(settings, os.environ, companions, reload.keep)


def load_settings(config: str | None) -> Settings:
    try:
        return load(config, os.environ)
    except SettingsError as error:
        fail(str(error))


def _run(
    settings: Settings,
    reload: Reload,
    embedded: EmbeddedRedis | None,
    config: str | None,
    host: str,
    port: int,
    workers: int,
) -> None:
    try:
        app = _create(settings, reload, embedded, watches=workers == 1)
        tell_shared_keys(build_supply(settings, os.environ))
        if embedded is None:
            asyncio.run(refuse_unfit(settings, os.environ))
    except SettingsError as error:
        fail(f"{config_path(config, os.environ)}: {error}")
    options = server_config(app, settings.server.drain_timeout_s, connection_limits(settings))
    listener = bind(host, port)
    _LOG.info("listening", url=url_of(host, listener.getsockname()[1]), workers=workers, version=__version__)
    if workers > 1:
        create = partial(create_worker, config)
        options.app, options.workers, options.factory = partial(create, settings), workers, True
        supervisor = Workers(options, [listener], reload, lambda taken: partial(create, taken))
        with watching(embedded) if embedded else nullcontext():
            supervisor.run()
    else:
        signal.signal(signal.SIGHUP, reload.ask)
        with asyncio.Runner(loop_factory=options.get_loop_factory()) as runner:
            runner.run(_serve_until_stopped(Server(options), listener))


async def _serve_until_stopped(server: Server, listener: socket.socket) -> None:
    """SIGTERM and SIGINT drain and end it; a second one ends it at once."""

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve([listener])
    if not server.started:
        fail("the gateway could not start; the log says why")
