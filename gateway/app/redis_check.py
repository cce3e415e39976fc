"""Tries a Redis as the gateway uses it: with the real scripts, on a tenant that exists for a moment."""

import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.app.backends import build_metering, build_scheduler, connect_redis
from gateway.app.redis_fitness import find_problems
from gateway.config.resolve import Config
from gateway.domain.billing import AdmissionRequest
from gateway.domain.errors import GatewayError
from gateway.domain.pricing import MadeImages, Offer, PerImage, Price
from gateway.domain.tenants import ApiKey, Principal, Tenant
from gateway.metering.reservations import redis_keys
from gateway.observability.metrics import Metrics
from gateway.redis import Client, execute
from gateway.redis.client import parse_address
from gateway.redis.journal import Journal
from gateway.redis.preflight import find_volatility, read_back
from gateway.redis.unreachable import explain_unreachable
from gateway.tenants.records import write_key, write_tenant

_TIMEOUT_MIN_S: Final = 2.0
_KEPT_S: Final = 60
"""If this process is killed meanwhile."""
_WINDOWS: Final = ("open", "batch_open", "rate", "recent", "transfers", "days", "records_end")
"""Of the tenant and, most of them, of its key."""


@dataclass(frozen=True, slots=True)
class RedisReport:
    """What is wrong with a Redis, each with its fix."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


async def try_redis(config: Config) -> RedisReport:
    """Reads the server's settings, writes, reads, and runs the scripts of a request. Raises: SettingsError."""
    redis = connect_redis(config, max(_TIMEOUT_MIN_S, config.settings.redis.timeout_ms / 1000))
    try:
        problems = await find_problems(config, redis) or list(filter(None, [await read_back(redis)]))
        if problems:
            return RedisReport(tuple(problems))
        if problem := await _try_scripts(config, redis):
            return RedisReport(
                (f"redis does not run the gateway's scripts ({problem}): use Redis 6.2 or newer, or Valkey",)
            )
        return RedisReport((), tuple(filter(None, [await find_volatility(redis)])))
    except GatewayError as error:
        reason = explain_unreachable(error, is_encrypted=parse_address(config.settings.redis.url).is_encrypted)
        return RedisReport((f"redis does not respond: {reason}",))
    finally:
        await redis.aclose()


async def _try_scripts(config: Config, redis: Client) -> str:
    """Admits and settles a free request, and reads every upstream. Returns: the error, or an empty string.

    Raises: GatewayError REDIS_UNAVAILABLE, of commands other than scripts.
    """
    name, key_id, ids = f"_check-{uuid.uuid4().hex}", "0" * 10, []  # no tenant's name begins with "_"
    caller = Principal(Tenant(name), ApiKey(key_id, name, "", 1))
    metrics, journal = Metrics(), Journal()
    metering = build_metering(config, redis, metrics, journal)
    scheduling = build_scheduler(config, redis, metrics, journal)
    records = redis_keys(redis.prefix, name, "tenant", "keys")
    try:
        fields = (write_tenant(caller.tenant), {key_id: write_key(caller.key, "")})
        for record, values in zip(records, fields, strict=True):
            items = [part for pair in values.items() for part in pair]
            await execute(redis, redis.hset(record, items=items), int)
            await execute(redis, redis.expire(record, _KEPT_S), object)
        try:
            purchase = AdmissionRequest("check", "check", 1, (Offer((Price(0, PerImage(1)),), MadeImages(1)),))
            async with metering.admission.admit(caller, purchase) as reservation:
                ids.append(reservation.id)
            await scheduling.scheduler.has_capacity()
            await scheduling.scheduler.snapshot()
        except GatewayError as error:
            return error.detail
        return "a request cannot be settled" if metering.admission.unsettled else ""
    finally:
        days = [time.strftime(form, time.gmtime()) for form in ("day:%Y%m%d", "month:%Y%m", "sums:%Y%m%d")]
        own = [f"{prefix}{window}" for prefix in ("", f"key:{key_id}:") for window in (*_WINDOWS, *days)]
        made = redis_keys(redis.prefix, name, *own, *(f"reservation:{made}" for made in ids))
        await execute(redis, redis.delete(*records, *made), int)
