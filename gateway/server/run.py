"""Runs the gateway: sockets, then one process or a supervisor with workers."""

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from starlette.applications import Starlette

from gateway import __version__
from gateway.app import create_app
from gateway.app.redis_fitness import refuse_unfit
from gateway.config import Settings, SettingsError, config_path, locate, misspelled_variables
from gateway.config.resolve import Config, read_config, resolve
from gateway.observability.logging import configure_logging
from gateway.observability.multiprocess import shared_directory
from gateway.redis.child_process import end_with_parent
from gateway.server.config import allow_files, find_room, gateway_config
from gateway.server.embedded import embedded_of, running
from gateway.server.exposure import exposed_ports
from gateway.server.file_watcher import FileWatcher
from gateway.server.reload import ConfigReloader, warn_of_shared_keys
from gateway.server.shutdown import Server, run_until_stopped
from gateway.server.sockets import bind, bind_own_ports, own_ports, url_of
from gateway.server.workers import WorkerSupervisor

_LOG = structlog.get_logger("imagegate.serve")
_PR_SET_DUMPABLE: Final = 4


def run_gateway(config: str | None, host: str | None, port: int | None, workers: int) -> None:
    """Serves until a signal stops it. `host` and `port` replace the configured ones.

    Raises: SettingsError, EmbeddedError, StartError.
    """
    deny_memory_dumps()  # before secrets are read
    path = config_path(config, os.environ)
    watcher = FileWatcher(path)  # before the file is read
    resolved = read_config(config, os.environ)
    settings = resolved.settings
    configure_logging(settings.logs.format, settings.logs.level)
    allow_files(find_room(settings))
    reloader = ConfigReloader(config, os.environ, settings, watcher)
    with ExitStack() as stack:
        if embedded := embedded_of(settings):
            stack.enter_context(running(embedded))
        try:
            app = _create(resolved, reloader)
            options = gateway_config(app, settings)
            warn_of_shared_keys(resolved.upstreams)
            asyncio.run(refuse_unfit(_with_address(resolved)))
        except SettingsError as error:
            raise locate(error, os.environ, path) from error
        host = host or settings.server.host
        listener = bind(host, settings.server.port if port is None else port)
        listeners = [listener, *bind_own_ports(settings, listener.getsockname()[1])]
        _log_start(resolved, host, listener.getsockname()[1], workers)
        if workers == 1:
            signal.signal(signal.SIGHUP, reloader.request_reload)
            server = Server(options)
            run_until_stopped(server, listeners, {signal.SIGINT: server.stop, signal.SIGTERM: server.stop})
            return
        create = partial(create_worker, config, stack.enter_context(shared_directory()))
        options.app, options.workers, options.factory = partial(create, settings), workers, True
        WorkerSupervisor(options, listeners, reloader, lambda current: partial(create, current)).run()


def deny_memory_dumps() -> None:
    """Disables core dumps of this process and, on Linux, reads of its memory and environment by its own user.

    The size limit alone is not enough: the kernel ignores it if `core_pattern` is a pipe.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def create_worker(config: str | None, metrics_directory: Path, settings: Settings) -> Starlette:
    """The program of one worker. It begins with settings that its supervisor validated, whatever the file holds now."""
    deny_memory_dumps()  # a process does not inherit it across exec
    supervisor = multiprocessing.parent_process()
    if supervisor and not end_with_parent(signal.SIGTERM, supervisor.pid or 0):
        raise SystemExit(1)
    configure_logging(settings.logs.format, settings.logs.level)
    reloader = ConfigReloader(config, os.environ, settings)
    signal.signal(signal.SIGHUP, reloader.request_reload)
    try:
        return _create(resolve(settings, os.environ), reloader, metrics_directory)
    except SettingsError as error:
        _LOG.error("worker_start_failed", detail=str(error))
        raise SystemExit(1) from error


def _create(config: Config, reloader: ConfigReloader, metrics_directory: Path | None = None) -> Starlette:
    return create_app(_with_address(config), reload=reloader.run, metrics_directory=metrics_directory)


def _with_address(config: Config) -> Config:
    """Replaces the URL "embedded" by that of the embedded server."""
    if embedded := embedded_of(config.settings):
        redis = msgspec.structs.replace(config.settings.redis, url=embedded.url)
        return replace(config, settings=msgspec.structs.replace(config.settings, redis=redis))
    return config


def _log_start(config: Config, host: str, port: int, workers: int) -> None:
    """Logs the addresses and the limit on each process's connections, and warns of both."""
    server = msgspec.structs.replace(config.settings.server, host=host)
    settings = msgspec.structs.replace(config.settings, server=server)
    for exposure in exposed_ports(settings, has_admin_key=bool(config.admin_keys)):
        _LOG.warning("operator_port_exposed", where=exposure.where, detail=exposure.what, hint=exposure.remedy)
    for name, meant in misspelled_variables(settings, os.environ):
        _LOG.warning("environment_variable_ignored", variable=name, hint=f"to set a setting, use {meant}")
    scheme = "https" if server.tls else "http"
    dedicated = {f"{name}_url": url_of(table.host, table.port, scheme) for name, table in own_ports(settings).items()}
    _LOG.info("listening", url=url_of(host, port, scheme), **dedicated, workers=workers, version=__version__)
    room = find_room(settings)
    bounds = {"max_connections": room.connections, "configured": server.max_connections, "open_files_max": room.files}
    if room.connections == room.wanted:
        _LOG.info("connections_bounded", **bounds)
        return
    _LOG.warning(
        "connections_bounded",
        **bounds,
        hint=f"allow {room.wanted_files} open files (ulimit -Hn, LimitNOFILE), or lower server.max_connections",
    )
