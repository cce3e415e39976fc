"""A tenant's share counts the time for which its calls hold an account's concurrency, not only pictures."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import redis

from gateway.domain.accounts import AccountLimits
from gateway.domain.health import lua_tables
from gateway.redis import script_text
from gateway.scheduler.scripts import PARTS
from tests.scheduler.clocked_pool import DENIED, WINDOW_S, ClockedPool, Mutant
from tests.scheduler.traffic import Tenant, Traffic

pytestmark = pytest.mark.slow

LIMITS = AccountLimits(requests_per_minute=10_000, images_per_minute=10_000, max_concurrency=4)
ACCOUNTS = 3
LANES = 12
SLOW = Tenant("slow", call_s=60.0, spread=0.0)
QUICK = Tenant("quick", call_s=0.5, spread=0.0)
PACED = [0, 50]
LENGTHS = [(90.0, QUICK), (600.0, replace(QUICK, call_s=3.0))]


def traffic(clocked: ClockedPool, paced: int, limits: AccountLimits = LIMITS, accounts: int = ACCOUNTS) -> Traffic:
    return Traffic(clocked, 1, accounts, limits, paced=paced)


def lanes_of(asking: Traffic, tenant: Tenant, from_s: float, until_s: float) -> float:
    """How many it held, on average."""
    held_s = sum(one.held_s(from_s, until_s) for one in asking.sent if one.tenant == tenant)
    return held_s / (until_s - from_s)


def pictures(asking: Traffic, tenant: Tenant) -> int:
    return sum(one.tenant == tenant for one in asking.sent)


@pytest.mark.parametrize(("length_s", "quick"), LENGTHS)
@pytest.mark.parametrize(("paced", "lead_s"), [(50, 0.05), (50, -0.05), (50, -5.0), (0, -0.05), (0, -5.0)])
def test_24_slow_calls_take_nothing_from_4_clients_of_another_tenant(
    clocked: ClockedPool, paced: int, length_s: float, quick: Tenant, lead_s: float
) -> None:
    """Both begin within a moment, in either order; without a pace, the one that is alone first takes all."""
    asking = traffic(clocked, paced)
    began_s = max(0.0, lead_s)
    asking.at(max(0.0, -lead_s), lambda: asking.use(SLOW, 24))
    asking.at(began_s, lambda: asking.use(quick, 4))
    asking.run(began_s + length_s)
    assert 0.9 * 4 * length_s / quick.call_s <= pictures(asking, quick)
    assert 0.8 * (LANES - 4) <= lanes_of(asking, SLOW, 0, began_s + length_s)


@pytest.mark.parametrize("paced", PACED)
@pytest.mark.parametrize(("length_s", "tenant"), LENGTHS)
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 3), (2, 1), (1, 10)])
def test_a_tenant_gets_80_percent_of_its_share_of_lane_time_and_of_pictures_beside_slow_calls(
    clocked: ClockedPool, paced: int, length_s: float, tenant: Tenant, weights: tuple[int, int]
) -> None:
    quick, slow = replace(tenant, weight=weights[0]), replace(SLOW, weight=weights[1])
    asking = traffic(clocked, paced)
    asking.use(quick, 24)
    asking.at(0.05, lambda: asking.use(slow, 24))
    asking.run(length_s)
    share = LANES * quick.weight / (quick.weight + slow.weight)
    assert 0.8 * share <= lanes_of(asking, quick, 0, length_s)
    assert 0.8 * share * length_s / quick.call_s <= pictures(asking, quick)
    assert 0.8 * (LANES - share) <= lanes_of(asking, slow, 60, length_s) or length_s < 600
    assert 0.9 * LANES <= lanes_of(asking, quick, 60, length_s) + lanes_of(asking, slow, 60, length_s)


def test_of_a_single_lane_each_tenant_has_its_share_of_the_time(clocked: ClockedPool) -> None:
    """No part of it can be kept, so that the tenants take turns by the time that they held it."""
    limits = replace(LIMITS, requests_per_minute=100, max_concurrency=1)
    asking = traffic(clocked, 0, limits, accounts=1)
    asking.use(replace(QUICK, call_s=2.0), 4)
    asking.use(replace(SLOW, call_s=40.0), 4)
    asking.run(2000)
    assert 0.8 * 0.5 <= lanes_of(asking, replace(QUICK, call_s=2.0), 0, 2000)


@pytest.mark.parametrize("paced", PACED)
def test_a_tenant_alone_uses_every_lane(clocked: ClockedPool, paced: int) -> None:
    """Half of them at once and the others within half a minute, unless there is no pace."""
    for tenant in (replace(QUICK, call_s=3.0), SLOW):
        clocked.client.flushall()
        asking = traffic(ClockedPool(clocked.client), paced)
        asking.use(tenant, 24)
        assert (LANES if paced == 0 else LANES / 2) == len(asking.sent)
        asking.run(300)
        assert 0.98 * LANES <= lanes_of(asking, tenant, 35, 300)


@pytest.mark.parametrize("paced", PACED)
def test_a_tenant_uses_what_others_that_ask_now_and_then_do_not_need(clocked: ClockedPool, paced: int) -> None:
    asking = traffic(clocked, paced)
    asking.use(SLOW, 24)
    for number in range(4):
        asking.now_and_then(Tenant(f"seldom{number}"), 25, 60)
    asking.run(600)
    assert 0.6 * LANES <= lanes_of(asking, SLOW, 60, 600)


def test_who_comes_to_a_pool_that_slow_calls_have_filled_waits_for_seconds(clocked: ClockedPool) -> None:
    """The lanes over half of them were given one by one, and so they end."""
    asking = traffic(clocked, 50)
    asking.use(SLOW, 24)
    quick = replace(QUICK, call_s=3.0)
    asking.at(200, lambda: asking.use(quick, 4))
    asking.run(400)
    assert asking.waits(quick)[-1] <= 35
    assert 0.8 * 4 <= lanes_of(asking, quick, 250, 400)


def test_no_number_of_tenants_with_slow_calls_hides_one_with_quick_calls(clocked: ClockedPool) -> None:
    asking, quick = traffic(clocked, 50), replace(QUICK, call_s=3.0)
    asking.use(quick, 4)
    for number in range(40):
        asking.at(1, partial(asking.use, replace(SLOW, name=f"slow{number}", spread=0.3), 3))
    asking.run(600)
    assert 0.8 * LANES / 41 <= lanes_of(asking, quick, 0, 600)
    assert 0.9 * LANES <= sum(one.held_s(60, 600) for one in asking.sent) / 540


def test_a_tenants_lanes_are_those_of_the_accounts_that_can_serve_it(clocked: ClockedPool) -> None:
    """Of one account out of three, too, it leaves another its share."""
    clocked.declare({f"a{at}": LIMITS for at in range(3)})
    avoided = ("a1/", "a2/")
    assert clocked.lease("q1", "quick", avoided=avoided)["decision"] == "leased"
    for account, tenant in itertools.product(range(1, 3), ("quick", "slow")):
        clocked.take("denied", tenant, avoided=[f"a{at}/" for at in range(3) if at != account])
        clocked.release("denied", **DENIED)
    given = [clocked.lease(f"s{at}", "slow", patience_s=100)["decision"] for at in range(4)]
    assert ["leased", "leased", "wait", "wait"] == given
    assert clocked.take("q2", "quick")


@pytest.mark.parametrize("is_released", [True, False])
def test_what_a_tenant_gave_back_unused_keeps_no_lanes_from_another(clocked: ClockedPool, *, is_released: bool) -> None:
    """Its clients hang up at once, before a call is sent or while they wait."""
    clocked.declare({f"a{at}": LIMITS for at in range(ACCOUNTS)})
    assert clocked.take("kept", "quick")
    for round_ in range(3):
        ids = [f"gone{round_}-{at}" for at in range(LANES)]
        for lease_id in ids:
            clocked.lease(lease_id, "gone", patience_s=100)
        for lease_id in clocked.leases.keys() & {*ids} if is_released else ():
            clocked.release(lease_id, is_unsent=True)
        clocked.leave(*ids)
    assert ["0"] == clocked.client.hmget("ig3:{pool:sim}:meta", "share_unmet")


def test_what_is_kept_of_flows_is_forgotten_a_minute_later(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS})
    for number in range(300):
        clocked.take(f"r{number}", f"tenant{number}")
        clocked.release(f"r{number}")
    names = [f"ig3:{{pool:sim}}:{name}" for name in ("flows", "recent")]
    assert [300, 300] == [clocked.client.hlen(names[0]), clocked.client.zcard(names[1])]
    assert all(0 < clocked.client.ttl(name) for name in names)
    clocked.clock.advance(WINDOW_S)
    for _ in range(2):
        clocked.turn()
        clocked.clock.advance(2)
    assert 0 == clocked.client.exists(*names)
    kept = clocked.client.hmget("ig3:{pool:sim}:meta", "share_weight", "share_unmet")
    assert ["0", "0"] == kept


MUTANTS: dict[str, Mutant] = {
    "time costs nothing": ("  if used <= paid then return end\n", "  do return end\n"),
    "a tenant has no share of the lanes": (
        "if math.min(f.h, in_flight) < share then return true end",
        "do return true end",
    ),
    "nothing is kept for others": ("return due <= now\n", "return true\n"),
    "what others ask for is not kept": ("free > math.min(setting('share_unmet') - f.u, most) and", "free > 0 and"),
    "lanes are not given back": ("f.h = math.max(0, f.h + more)", "f.h = f.h + math.max(0, more)"),
}


def is_fair(client: "redis.Redis", mutant: Mutant = ("", "")) -> bool:
    """Of many lanes, also if the slow calls come first, and of a single one; and whether all of them are used."""
    quick = replace(QUICK, call_s=3.0)
    client.flushall()
    many = traffic(ClockedPool(client, mutant), 50)
    many.use(SLOW, 24)
    many.at(0.05, lambda: many.use(quick, 4))
    many.at(90, lambda: many.use(quick, 20))
    many.run(400)
    client.flushall()
    one = Traffic(ClockedPool(client, mutant), 1, 1, replace(LIMITS, max_concurrency=1), paced=0)
    one.use(quick, 4)
    one.use(replace(SLOW, call_s=40.0), 4)
    one.run(1000)
    shares = (lanes_of(many, quick, 0, 90) / 4, lanes_of(many, quick, 200, 400) / 6, 2 * lanes_of(one, quick, 0, 1000))
    return min(shares) >= 0.8 and lanes_of(many, quick, 60, 400) + lanes_of(many, SLOW, 60, 400) >= 0.9 * LANES


def test_scripts_as_they_are_are_fair(clocked: ClockedPool) -> None:
    assert is_fair(clocked.client)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_script_that_is_wrong_is_found_out(clocked: ClockedPool, mutant: str) -> None:
    assert MUTANTS[mutant][0] in script_text("scheduler/lease", PARTS["lease"], lua_tables())
    assert not is_fair(clocked.client, MUTANTS[mutant])
