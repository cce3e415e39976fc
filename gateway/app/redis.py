"""The Redis of a configuration: connected, and looked at before the start."""

from collections.abc import Mapping
from typing import Final

from gateway import config
from gateway.config import Settings
from gateway.domain.errors import GatewayError
from gateway.redis import FORMS, Client, Credentials, connect
from gateway.redis.preflight import inspect

_PATIENCE_S: Final = 2.0
"""At least so long before the start: a first connection may take longer than a request can wait."""


def connect_redis(settings: Settings, environ: Mapping[str, str], timeout_s: float | None = None) -> Client:
    """Connects with the first call. Raises: SettingsError for a URL that is none or a secret that is missing."""
    login = _read_login(settings, environ)
    try:
        return connect(settings.redis.url, timeout_s or settings.redis.timeout_ms / 1000, login)
    except ValueError as error:
        raise config.SettingsError(f"redis.url: {error}. Give {FORMS}.") from error


async def find_problems(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Why this Redis must not be used, each with its remedy. Raises: SettingsError, GatewayError REDIS_UNAVAILABLE."""
    redis = connect_redis(settings, environ, max(_PATIENCE_S, settings.redis.timeout_ms / 1000))
    try:
        return await inspect(redis)
    finally:
        await redis.aclose()


async def refuse_unfit(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises: SettingsError for a Redis that answers and must not be used; one that is away may come later."""
    try:
        problems = await find_problems(settings, environ)
    except GatewayError:
        return
    if problems:
        raise config.SettingsError(f"redis.url: {'; '.join(problems)}")


def _read_login(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    given = settings.redis
    password, sentinel = given.password, given.sentinel_password
    return Credentials(
        given.username,
        config.read_secret(password, environ, "redis.password") if password else None,
        config.read_secret(sentinel, environ, "redis.sentinel_password") if sentinel else None,
    )
