"""The time zone of quotas and the ledger in Redis. A gateway of another one would count hours in the wrong day.

`PREFIX:time_zone` is its IANA name. Data without it is older than the setting, and UTC.
"""

from typing import Final

from gateway.domain.calendar import UTC_CALENDAR
from gateway.redis import Client, execute
from gateway.tenants.records import names_record

_REMEDY: Final = (
    "set it back, or stop every process, run `redis-cli set {key} {zone}` and start again. Earlier days stay as they "
    "are; the day and month of the change count hours of both zones"
)


async def find_zone_problems(redis: Client, zone: str, *, is_recorded: bool) -> list[str]:
    """Compares the configured zone with that of the data; `is_recorded` records it if there is no data.

    Raises: GatewayError REDIS_UNAVAILABLE. Redis: at most three round trips.
    """
    key = f"{redis.prefix}:time_zone"
    found = await execute(redis, redis.get(key), str)
    if not found:
        has_data = await execute(redis, redis.exists(names_record(redis.prefix)), bool)
        found = UTC_CALENDAR.name if has_data else zone
        if is_recorded and not await execute(redis, redis.set(key, found, nx=True), bool):
            found = await execute(redis, redis.get(key), str)  # another process was first
    if found == zone:
        return []
    remedy = _REMEDY.format(key=key, zone=zone)
    return [f"metering.time_zone: it is '{zone}', but usage is recorded in '{found}': {remedy}"]
