from collections.abc import Iterator

import pytest
import redis

from tests.scheduler.clocked_pool import Mutant
from tests.scheduler.histories import History
from tests.scheduler.scripted_pool import ClockedPool
from tests.support.seeds import seeds

HISTORIES = 200
PARTS = 8
"""Of the histories: several processes run them."""
MUTANTS: dict[str, Mutant] = {
    "another entry is crossed out": ("if log[i + 3] == number then", "if log[i + 3] >= number then"),
    "a window of 59 seconds": ("return MINUTE + setting('margin_us') end", "return MINUTE - 1000000 end"),
    "no grace after an outage": ("return until_us > now and until_us <= now + grace_us()", "return false"),
    "no dispatch at a release": (
        "dispatch_freed()\nreturn reply({decision = 'released'})",
        "return reply({decision = 'released'})",
    ),
    "no dispatch at a heartbeat": ("has_more = dispatch() or has_more", ""),
    "nothing gets free": ("if math.floor(score / SHELF) < before then is_freed = true end", ""),
    "nothing is reserved": ("if roomy then reserved[roomy] = images end", ""),
    "a batch takes what is kept of a minute": ("room_at(a, need.n, need.q == 'b')", "room_at(a, need.n)"),
    "the highest pass first": ("or other.pass < first.pass", "or other.pass > first.pass"),
    "calls in flight stay": ("math.max(0, a.load.in_flight - 1)", "a.load.in_flight"),
    "calls in flight are forgotten": ("math.max(0, a.load.in_flight - 1)", "math.max(0, a.load.in_flight - 2)"),
    "a claim counts from the grant": ("  count_at(a, lease, now)\n", ""),
    "an expired lease was not sent": ("give_back(id, lease, lease.g)", "give_back(id, lease, true)"),
    "an unsent request keeps its room": ("if is_unsent then remove_entry(a, lease.s, lease.n) end", ""),
    "a late call is not moved": ("if later_us ~= '' then shift(id, tonumber(later_us)) end", ""),
    "what a clock ahead wrote is dropped": ("t <= now + span then", "t <= now then"),
    "no lease is renewed": ("redis.call('ZADD', K.leases, 'GT', now + lease_us, id)", ""),
    "a lane that was given back is held": ("f.h = math.max(0, f.h + more)", "f.h = f.h + math.max(0, more)"),
    "no tenant may hold its share": ("if math.min(f.h, in_flight) < share then return true end", ""),
    "flows count on": ("redis.call('HDEL', K.flows, unpack(gone))", ""),
    "their weights count on": ("add_meta('share_weight', f.is_counted and -f.w or 0)", ""),
    "a person's word is not heard": ("holds[a.name] and {} or a.record.keys", "a.record.keys"),
}
SHOWN_BY = {
    "another entry is crossed out": 61,
    "nothing is reserved": 39,
    "a late call is not moved": 21,
    "what a clock ahead wrote is dropped": 20,
    "an expired lease was not sent": 11,
    "no lease is renewed": 3,
    "no dispatch at a release": 3,
    "no dispatch at a heartbeat": 2,
    "a claim counts from the grant": 1,
    "a person's word is not heard": 1,
    "no grace after an outage": 3,
    "a batch takes what is kept of a minute": 1,
    "nothing gets free": 3,
    "the highest pass first": 1,
}
"""Seeds of the first history that shows a mutant, when they were last looked for: they are tried first."""


@pytest.fixture
def server(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def live(pool: ClockedPool, server: "redis.Redis", seed: int) -> str:
    """Returns: what was wrong with a history; empty where nothing was."""
    server.flushdb()
    return History(pool, seed).run_all()


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(PARTS))
def test_in_every_history_all_limits_hold_and_no_request_waits_beside_room(server: "redis.Redis", part: int) -> None:
    """Several processes that die; reloads, outages, faults, late and abandoned calls; a clock that jumps both ways."""
    pool = ClockedPool(server)
    for seed in seeds(HISTORIES, part, PARTS):
        wrong = live(pool, server, seed)
        assert not wrong, f"{wrong}\nSEED={seed} shows it again"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_script_that_is_wrong_is_found_out(server: "redis.Redis", mutant: str) -> None:
    pool = ClockedPool(server, MUTANTS[mutant])
    assert any(live(pool, server, seed) for seed in (SHOWN_BY.get(mutant, 0), *range(240)))
