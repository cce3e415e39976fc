"""The Redis of a configuration: connected, and looked at before the start."""

from typing import Final

from gateway.config import SettingsError
from gateway.config.resolve import Config
from gateway.domain.errors import GatewayError
from gateway.redis import FORMS, Client, connect
from gateway.redis.preflight import inspect

_PATIENCE_S: Final = 2.0
"""At least so long before the start: a first connection may take longer than a request can wait."""


def connect_redis(config: Config, timeout_s: float | None = None) -> Client:
    """Creates a client, which connects at its first call. Raises: SettingsError if the URL is invalid."""
    redis = config.settings.redis
    try:
        return connect(redis.url, timeout_s or redis.timeout_ms / 1000, config.redis_credentials)
    except ValueError as error:
        raise SettingsError(f"redis.url: {error}. Give {FORMS}.") from error


async def find_problems(config: Config) -> list[str]:
    """Why this Redis must not be used, each with its remedy. Raises: SettingsError, GatewayError REDIS_UNAVAILABLE."""
    redis = connect_redis(config, max(_PATIENCE_S, config.settings.redis.timeout_ms / 1000))
    try:
        return await inspect(redis)
    finally:
        await redis.aclose()


async def refuse_unfit(config: Config) -> None:
    """Raises: SettingsError for a Redis that answers and must not be used; one that is away may come later."""
    try:
        problems = await find_problems(config)
    except GatewayError:
        return
    if problems:
        raise SettingsError(f"redis.url: {'; '.join(problems)}")
