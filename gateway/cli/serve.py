"""`imagegate serve` and `imagegate check`."""

import asyncio
import multiprocessing
import os
import signal
import socket
from functools import partial
from typing import Annotated

import msgspec
import structlog
import typer
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from gateway import __version__, logs
from gateway.app import connect_redis, create_app, read_admin_key, read_keys, read_pepper, unfetchable
from gateway.cli.output import fail
from gateway.cli.serving import (
    Server,
    bind,
    connection_limits,
    embedded_of,
    server_config,
    start_embedded,
    url_of,
    watch_embedded,
)
from gateway.domain.faults import GatewayError
from gateway.processes import end_with_parent
from gateway.settings import Settings, SettingsError, config_path, load
from gateway.stores import ping
from gateway.stores.embedded import EmbeddedError, EmbeddedRedis

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
    """Validate the configuration and ping Redis."""
    settings = _load(config)
    path = config_path(config, os.environ)
    try:
        keys = read_keys(settings, os.environ)
        admin_key = read_admin_key(settings, os.environ)
        read_pepper(settings, os.environ)
        redis = _check_redis(settings)
    except SettingsError as error:
        fail(f"{path}: {error}")
    accounts = len({(key.upstream, key.account) for key in keys})
    print(path)
    print(f"valid: upstream keys {len(keys)}, accounts {accounts}, models {len(settings.models)}")
    print(f"admin API: {'open to the admin key' if admin_key else 'closed, no [admin] key is set'}")
    print(f"redis: {redis}")
    for upstream in unfetchable(settings):
        print(f"warning: upstream {upstream}:")
        print("  result_hosts does not name its own address, where its links may point")


def _check_redis(settings: Settings) -> str:
    """What is to be said of it. Raises: SettingsError."""
    embedded = embedded_of(settings)
    if embedded is None:
        try:
            asyncio.run(_ping(settings))
        except GatewayError as error:
            raise SettingsError(f"redis.url: redis does not answer ({error.detail})") from error
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
    return _create(settings, embedded_of(settings))


def _create(settings: Settings, embedded: EmbeddedRedis | None) -> Starlette:
    if embedded is None:
        return create_app(settings, os.environ)
    settings = msgspec.structs.replace(settings, redis=msgspec.structs.replace(settings.redis, url=embedded.url))
    return create_app(settings, os.environ, [partial(watch_embedded, embedded)])


def _load(config: str | None) -> Settings:
    try:
        return load(config, os.environ)
    except SettingsError as error:
        fail(str(error))


def _run(
    settings: Settings, embedded: EmbeddedRedis | None, config: str | None, host: str, port: int, workers: int
) -> None:
    try:
        app = _create(settings, embedded)
    except SettingsError as error:
        fail(f"{config_path(config, os.environ)}: {error}")
    if config:
        os.environ["IMAGEGATE_CONFIG"] = config
    options = server_config(
        "gateway.cli.serve:create_worker" if workers > 1 else app,
        settings.server.drain_timeout_s,
        connection_limits(settings),
    )
    options.workers, options.factory = workers, workers > 1
    listener = bind(host, port)
    _LOG.info("listening", url=url_of(host, listener.getsockname()[1]), workers=workers, version=__version__)
    if workers > 1:
        Multiprocess(options, sockets=[listener]).run()
    else:
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


async def _ping(settings: Settings) -> None:
    """Raises: GatewayError REDIS_AWAY, SettingsError."""
    redis = connect_redis(settings)
    try:
        await ping(redis)
    finally:
        await redis.aclose()
