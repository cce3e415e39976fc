"""Time zones that are none, another one than that of the data, and credits that cannot be given."""

import pytest
import redis

from gateway.app.redis_fitness import refuse_unfit
from gateway.config import SettingsError, from_document
from gateway.config.resolve import resolve
from gateway.config.time_zone import read_calendar
from tests.support.commands import check_refused, run
from tests.support.harness import ADMIN_KEY, Gateway, document, environment, upstream
from tests.support.operators import Shows


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Europe/Berlim", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "'europe/berlin'"),
        ("Europe", "there is no time zone 'Europe'"),
        ("localtime", "there is no time zone 'localtime'; expected an IANA name"),
        ("+02:00", 'expected an IANA name, as "Europe/Berlin"'),
        ("../etc/passwd", "there is no time zone '../etc/passwd'"),
        ("/etc/localtime", "there is no time zone '/etc/localtime'"),
        ("a\0b", "there is no time zone"),
        ("Mars/Olympus Mons", "there is no time zone"),
    ],
)
def test_a_zone_that_is_none_is_named(shows: Shows, zone: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_calendar(zone)
    shows(12, f'time_zone = "{zone}"', str(refused.value))
    assert str(refused.value).startswith("metering.time_zone: ")
    assert words in str(refused.value)


@pytest.mark.anyio
@pytest.mark.parametrize(("zone", "recorded"), [("UTC", "Europe/Berlin"), ("Europe/Berlin", "UTC")])
async def test_another_zone_than_that_of_the_data_is_told_how_to_change_it(
    redis_url: str, shows: Shows, zone: str, recorded: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("ig3:time_zone", recorded)
    found = document(redis_url, upstream("a", "minimax", "http://127.0.0.1:1/", "one:k1"), metering={"time_zone": zone})
    with pytest.raises(SettingsError) as refused:
        await refuse_unfit(resolve(from_document(found, {}, "gate.toml"), environment(found)))
    message = str(refused.value)
    shows(12, f'time_zone = "{zone}" on data of {recorded}', message)
    assert message.startswith(f"metering.time_zone: it is '{zone}', but usage is recorded in '{recorded}': set it back")
    assert f"`redis-cli set ig3:time_zone {zone}`" in message


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--usd", "0"), "more than 0"),
        (("--usd", "1,5"), 'usd: Expected a decimal string up to 999999999 with up to 6 decimals, as "50.00".'),
        (("--usd", "-1"), "usd: Expected a decimal string"),
        (("--images", "1", "--month", "2026-13"), "month: Expected a month, as 2026-01."),
        (("--images", "1", "--month", "2020-01"), "has used nothing in it"),
        (("--images", "1", "--month", "2999-01"), "has used nothing in it"),
        (("--reset", "images_per_day", "--month", "2026-01"), "a quota of a day has none"),
        (("--images", "1", "--id", "a b"), "id: Expected at most 64 characters"),
    ],
)
def test_a_mistake_in_a_credit_is_named(gateway: Gateway, shows: Shows, options: tuple[str, ...], words: str) -> None:
    given = ("tenant", "credit", "acme", "--reason", "outage", *options)
    done = run(*given, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    shows(12, " ".join(("imagegate tenant credit acme", *options)), done.stderr)
    check_refused(done, words)
