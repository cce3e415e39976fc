"""`imagegate serve` and `imagegate check`."""

import asyncio
import os
from functools import partial
from typing import Annotated

import msgspec
import structlog
import typer
import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from gateway import __version__, logs
from gateway.app import create_app, read_admin_key, read_keys, read_pepper
from gateway.cli.output import fail
from gateway.cli.serving import bind, embedded_of, server_config, start_embedded, watch_embedded
from gateway.domain.faults import GatewayError
from gateway.settings import Settings, SettingsError, load
from gateway.stores import connect, ping
from gateway.stores.embedded import EmbeddedRedis

_LOG = structlog.get_logger("imagegate.serve")

ConfigOption = Annotated[
    str | None, typer.Option("--config", help="The configuration file.", show_default="config/imagegate.toml")
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
    try:
        keys = read_keys(settings, os.environ)
        admin_key = read_admin_key(settings, os.environ)
        read_pepper(settings, os.environ)
    except SettingsError as error:
        fail(str(error))
    accounts = {(key.upstream, key.account) for key in keys}
    names = sum(1 + len(model.aliases) for model in settings.models)
    print(f"configuration: {len(keys)} keys of {len(accounts)} accounts, {len(settings.models)} models, {names} names")
    print(f"admin API:     {'open to the admin key' if admin_key else 'closed: [admin] key is not set'}")
    if settings.redis.url == "embedded":
        print("redis:         embedded, started with the gateway")
        return
    try:
        asyncio.run(_ping(settings))
    except GatewayError as error:
        fail(f"redis does not answer ({error.detail}); check redis.url")
    except ValueError as error:
        fail(f"redis.url: {error}")
    print("redis:         answers")


def create_worker() -> Starlette:
    """One of several worker processes: everything it needs is in the environment."""
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
        fail(str(error))
    if config:
        os.environ["IMAGEGATE_CONFIG"] = config
    options = server_config("gateway.cli.serve:create_worker" if workers > 1 else app, settings.server.drain_timeout_s)
    options.workers, options.factory = workers, workers > 1
    listener = bind(host, port)
    _LOG.info("listening", url=f"http://{host}:{listener.getsockname()[1]}", workers=workers, version=__version__)
    if workers > 1:
        Multiprocess(options, sockets=[listener]).run()
    else:
        uvicorn.Server(options).run([listener])


async def _ping(settings: Settings) -> None:
    redis = connect(settings.redis.url, settings.redis.timeout_ms / 1000)
    try:
        await ping(redis)
    finally:
        await redis.aclose()
