"""`imagegate serve`."""

import asyncio
import multiprocessing
import os
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
from starlette.applications import Starlette

from gateway import __version__
from gateway.administration import read_admin_keys
from gateway.app import create_app
from gateway.backing import refuse_unfit
from gateway.cli.exposure import exposed_ports
from gateway.cli.open_files import allow_files, find_room
from gateway.cli.output import fail
from gateway.cli.reloading import Reload, tell_shared_keys
from gateway.cli.server import Server, serve_until_stopped
from gateway.cli.serving import (
    bind,
    bind_own_ports,
    embedded_of,
    gateway_config,
    own_ports,
    start_embedded,
    url_of,
    watch_embedded,
    watching,
)
from gateway.cli.watch import Watch
from gateway.cli.workers import Workers
from gateway.observability.logging import configure_logging
from gateway.observability.multiprocess import shared_directory
from gateway.processes import deny_memory_dumps, end_with_parent
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
    deny_memory_dumps()  # before secrets are read
    watch = Watch(config_path(config, os.environ))
    settings = load_settings(config)
    configure_logging(settings.logs.format, settings.logs.level)
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


def create_worker(config: str | None, metrics_directory: Path, settings: Settings) -> Starlette:
    """One of several worker processes. It begins with what its supervisor found right, whatever the file is now."""
    deny_memory_dumps()  # the supervisor's is not inherited by a program that it starts
    supervisor = multiprocessing.parent_process()
    if supervisor and not end_with_parent(signal.SIGTERM, supervisor.pid or 0):
        raise SystemExit(1)
    configure_logging(settings.logs.format, settings.logs.level)
    reload = Reload(config, os.environ, settings)
    signal.signal(signal.SIGHUP, reload.ask)
    try:
        return _create(settings, reload, embedded_of(settings), metrics_directory, watches=False)
    except SettingsError as error:
        _LOG.error("worker_cannot_start", detail=str(error))
        raise SystemExit(1) from error


def _create(
    settings: Settings,
    reload: Reload,
    embedded: EmbeddedRedis | None,
    metrics_directory: Path | None = None,
    *,
    watches: bool,
) -> Starlette:
    """The program, which keeps the embedded server alive if it `watches`."""
    if embedded is None:
        return create_app(settings, os.environ, reload=reload.keep, metrics_directory=metrics_directory)
    settings = msgspec.structs.replace(settings, redis=msgspec.structs.replace(settings.redis, url=embedded.url))
    companions = [partial(watch_embedded, embedded)] if watches else ()
    return create_app(settings, os.environ, companions, reload.keep, metrics_directory)


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
    allow_files(find_room(settings))
    try:
        app = _create(settings, reload, embedded, watches=workers == 1)
        options = gateway_config(app, settings)
        tell_shared_keys(build_supply(settings, os.environ))
        if embedded is None:
            asyncio.run(refuse_unfit(settings, os.environ))
    except SettingsError as error:
        fail(f"{config_path(config, os.environ)}: {error}")
    listener = bind(host, port)
    listeners = [listener, *bind_own_ports(settings, listener.getsockname()[1])]
    _warn_of_exposed_ports(settings, host)
    scheme = "https" if settings.server.tls else "http"
    own = {f"{name}_url": url_of(table.host, table.port, scheme) for name, table in own_ports(settings).items()}
    url = url_of(host, listener.getsockname()[1], scheme)
    _LOG.info("listening", url=url, **own, workers=workers, version=__version__)
    _tell_connections(settings, options.bounds.in_all)
    if workers > 1:
        with shared_directory() as directory, watching(embedded) if embedded else nullcontext():
            create = partial(create_worker, config, directory)
            options.app, options.workers, options.factory = partial(create, settings), workers, True
            Workers(options, listeners, reload, lambda taken: partial(create, taken)).run()
    else:
        signal.signal(signal.SIGHUP, reload.ask)
        with asyncio.Runner(loop_factory=options.get_loop_factory()) as runner:
            server = Server(options)
            acts = {signal.SIGINT: server.stop, signal.SIGTERM: server.stop}
            runner.run(serve_until_stopped(server, listeners, acts))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as it ends, the interpreter gives every other handler back


def _tell_connections(settings: Settings, in_force: int) -> None:
    """Logs the bound of each process, and warns if it is lower than the configured one."""
    configured, room = settings.server.max_connections, find_room(settings)
    if in_force == configured:
        _LOG.info("connections_bounded", max_connections=in_force, open_files_max=room.files)
        return
    _LOG.warning(
        "connections_bounded",
        max_connections=in_force,
        configured=configured,
        open_files_max=room.files,
        remedy=f"allow {room.wanted_files} open files (ulimit -Hn, LimitNOFILE), or lower server.max_connections",
    )


def _warn_of_exposed_ports(settings: Settings, host: str) -> None:
    listening = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, host=host))
    for exposure in exposed_ports(listening, has_admin_key=bool(read_admin_keys(settings, os.environ))):
        _LOG.warning("operators_port_exposed", where=exposure.where, detail=exposure.what, remedy=exposure.remedy)
