"""The setting `[metering] time_zone`, and the refusal of another zone than that of the data."""

import pytest
import redis

from gateway.app.redis_fitness import refuse_unfit
from gateway.config import SettingsError, from_document
from gateway.config.resolve import Config, resolve
from gateway.config.time_zone import read_calendar
from tests.support.harness import document, environment, upstream


def configured(redis_url: str, zone: str) -> Config:
    found = document(redis_url, upstream("a", "minimax", "http://127.0.0.1:1/", "one:k1"), metering={"time_zone": zone})
    return resolve(from_document(found, {}, "gate.toml"), environment(found))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu"])
def test_an_iana_name_is_a_zone(zone: str) -> None:
    assert zone == read_calendar(zone).name


@pytest.mark.anyio
async def test_a_start_with_another_zone_than_that_of_the_data_is_refused(redis_url: str) -> None:
    await refuse_unfit(configured(redis_url, "Europe/Berlin"))
    await refuse_unfit(configured(redis_url, "Europe/Berlin"))
    with pytest.raises(SettingsError) as refused:
        await refuse_unfit(configured(redis_url, "UTC"))
    assert str(refused.value).startswith("metering.time_zone: it is 'UTC', but usage is recorded in 'Europe/Berlin'")
    with redis.Redis.from_url(redis_url) as client:
        client.set("ig3:time_zone", "UTC")
    await refuse_unfit(configured(redis_url, "UTC"))
