from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from gateway.metering.reservations import PARTS
from tests.metering.histories_of_admission import Mutant, Replay
from tests.support.clocked import Clock, clocked_script
from tests.support.seeds import seeds

HISTORIES = 200
FREED = "{'open', 'batch_open'}) do redis.call('ZREM', scope .. name, id) end\nend\n\nlocal how"
MUTANTS: dict[str, Mutant] = {
    "a window of 59 seconds": ("admit", "WINDOW_S = 60", "WINDOW_S = 59"),
    "a refusal that frees a second early": ("admit", "second.at + WINDOW_S + 1", "second.at + WINDOW_S"),
    "seconds that have not begun": ("admit", "elseif at <= now_s then", "else"),
    "a day for a month": ("admit", "'month', measure = 'images'", "'day', measure = 'images'"),
    "a second admission": ("admit", "reservation_id ~= '' and not is_known", "reservation_id ~= ''"),
    "an expired ticket's place is free": ("admit", "count('open', now_ms - UNSWEPT_MS)", "count('open', now_ms)"),
    "the first price": ("admit", "tonumber(since) > latest", "latest < 0"),
    "nothing is given back": ("settle", "ipairs(windows) do\n", "ipairs({}) do\n"),
    "a correction charges again": ("settle", "taken = {images = number('settled:charged')", "taken = {images = 0"),
    "a correction adds a record": ("settle", "redis.call('XDEL', ledger, reservation.entry)", ""),
    "more than was reserved": ("settle", "number('images') - sent)", "number('images'))"),
    "what is alive is settled": ("settle", "tonumber(expiry_ms) > now_ms", "false"),
    "a key's place is not freed": ("settle", FREED, FREED.replace("scope ..", "base ..")),
    "a line fills the minute": ("admit", "is_counted = not line and", "is_counted ="),
    "a line needs room in the minute": ("admit", "    if not line then\n", "    if true then\n"),
    "a line has no quota": ("admit", "if is_new and not order then", "if is_new and not order and not line then"),
    "a line takes a place of others": ("admit", " - count('batch_open', now_ms - UNSWEPT_MS)", ""),
    "a line's place is not freed": ("settle", FREED, FREED.replace(", 'batch_open'", "")),
    "a line is refunded in the minute": ("settle", "if not reservation.batch_id then rates", "if true then rates"),
    "a line is in no batch": ("settle", "if reservation.batch_id and is_recorded and", "if false and"),
    "an order after the settlement": ("mark_sent", "not redis.call('ZSCORE', KEYS[2], ARGV[1])", "false"),
    "an order that was free is ordered": ("mark_sent", "ARGV[2], ARGV[3])", "ARGV[2], math.abs(ARGV[3]))"),
    "an expiry of the old clock": ("renew", "scope .. name, 'XX', expiry_ms", "scope .. name, 'XX', 'GT', expiry_ms"),
}


@pytest.fixture
def server(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.fuzz
def test_every_history_is_admitted_charged_and_recorded_as_the_model_says(server: "redis.Redis") -> None:
    """Several processes; requests repeated, late, expired; midnight, a month's end, a clock that jumps both ways."""
    replay = Replay(server)
    for seed in seeds(HISTORIES):
        wrong = replay.run(seed)
        assert not wrong, f"{wrong}\nSEED={seed} shows it again"
        if seed % 100 == 0:
            server.flushall()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_script_that_is_wrong_is_found_out(server: "redis.Redis", mutant: str) -> None:
    replay = Replay(server, MUTANTS[mutant])
    assert any(replay.run(seed) for seed in range(60))


@pytest.mark.parametrize("year", [1999, 2000, 2024, 2026, 2027, 2100])
def test_days_and_months_are_those_of_the_calendar(server: "redis.Redis", year: int) -> None:
    """Leap years and the ends of months: a quota resets at the first moment of the next month, or day."""
    admit = clocked_script(server, "metering/admit", PARTS["admit"])
    server.hset("ig3:{acme}:tenant", mapping={"created_at": 1, "limits": '{"images_per_day":0,"images_per_month":1}'})
    names = [f"ig3:{{acme}}:{name}" for name in ("tenant", "keys", "reservation:t", "open", "x", "rate", "x")]
    for month in range(1, 13):
        first = datetime(year, month, 1, tzinfo=UTC)
        following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        for moment in (first, following - timedelta(seconds=1)):
            Clock(server, moment.timestamp())
            day_ends = datetime(moment.year, moment.month, moment.day, tzinfo=UTC) + timedelta(days=1)
            told: dict[str, Any] = {}
            for images in (1, 2):  # the day allows none; of the two that are never allowed the month ends later
                reply = admit(keys=names, args=["t", "", "rq", "m", images, "0:1", 1000])
                told[f"{images}"] = reply
            assert f'"frees_at_s":{int(day_ends.timestamp())}' in told["1"]
            assert f'"frees_at_s":{int(following.timestamp())}' in told["2"]
