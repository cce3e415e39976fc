"""Refuses a Redis that would lose data, or whose data belongs to another time zone."""

from collections.abc import Sequence
from typing import Final

from gateway.app.backends import connect_redis
from gateway.config import SettingsError
from gateway.config.resolve import Config
from gateway.domain.errors import GatewayError
from gateway.metering.time_zone import find_zone_problems
from gateway.redis import Client
from gateway.redis.preflight import inspect

_PREFLIGHT_TIMEOUT_S: Final = 2.0
"""Minimum deadline before the start: a first connection may take longer than a request can wait."""


async def find_problems(config: Config, redis: Client, *, is_start: bool = False) -> list[str]:
    """Lists why this Redis must not be used, each with its remedy. A start records the time zone of its data.

    Raises: GatewayError REDIS_UNAVAILABLE.
    """
    return await inspect(redis) or await find_zone_problems(redis, config.calendar.name, is_recorded=is_start)


async def refuse_unfit(config: Config) -> None:
    """Raises: SettingsError if Redis responds and must not be used. An unavailable Redis may recover later."""
    redis = connect_redis(config, max(_PREFLIGHT_TIMEOUT_S, config.settings.redis.timeout_ms / 1000))
    try:
        problems = await find_problems(config, redis, is_start=True)
    except GatewayError:
        return
    finally:
        await redis.aclose()
    if problems:
        raise unfit(problems)


def unfit(problems: Sequence[str]) -> SettingsError:
    """Returns the error for a Redis that must not be used. A problem names its own setting, or `redis.url` has it."""
    place = "" if problems[0].startswith("metering.") else "redis.url: "
    return SettingsError(f"{place}{'; '.join(problems)}")
