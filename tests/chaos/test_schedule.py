from collections import Counter
from random import Random

import pytest

from chaos.administration import plan_tenants
from chaos.configuration import LEASE_S
from chaos.orders import draw
from chaos.schedule import FEATURES, plan


def test_the_same_seed_throws_the_same_and_asks_the_same() -> None:
    assert plan(7, 180) == plan(7, 180)
    assert plan(7, 180) != plan(8, 180)
    assert [draw(Random(7), None) for _ in range(3)] == [draw(Random(7), None) for _ in range(3)]
    assert [tenant.caps for tenant in plan_tenants(Random(7))] == [tenant.caps for tenant in plan_tenants(Random(7))]


@pytest.mark.parametrize("seconds", [1, 30, 60, 180])
@pytest.mark.parametrize("seed", range(5))
def test_every_kind_comes_in_every_run(seed: int, seconds: float) -> None:
    expected = {
        "kill",
        "end",
        "rolling restart",
        "worker killed",
        "supervisor killed",
        "redis stands still",
        "redis is killed",
        "redis is restarted",
        "black hole",
        "black hole, then cut",
        "redis stalls, long",
        "redis is killed, long",
        "redis clock +2 s",
        "redis clock -2 s",
        "redis clock +30 s",
        "redis clock -30 s",
        "redis clock +90 s",
        "redis clock -90 s",
        "overload",
        "hang",
        "cut",
        "502",
        "garbage",
        "key dead",
        "account broke",
        "window used up",
        "poison",
        "key revoked",
        "limits changed",
        "reload",
        "wrong reload",
        "reload by signal",
    }
    assert expected == {fault.kind for fault in plan(seed, seconds)}


@pytest.mark.parametrize("feature", FEATURES)
def test_what_a_run_does_without_changes_nothing_of_the_rest(feature: str) -> None:
    rest = [fault for fault in plan(7, 180) if fault.kind not in FEATURES[feature]]
    assert rest == plan(7, 180, [feature])


@pytest.mark.parametrize("seed", range(20))
def test_a_long_outage_outlasts_a_lease_and_the_clock_is_stepped_last(seed: int) -> None:
    faults = plan(seed, 60)
    assert all(fault.seconds > LEASE_S + 1 for fault in faults if fault.kind in FEATURES["outages"])
    assert {2, -2, 30, -30, 90, -90} == {fault.number for fault in faults if fault.lane == "clock"}
    assert min(fault.at_s for fault in faults if fault.lane == "clock") >= 39


def test_what_is_asked_for_has_both_wires_streams_every_count_and_hang_ups_at_every_stage() -> None:
    chance = Random(1)
    orders = [draw(chance, None) for _ in range(3000)]
    assert {"openai", "native"} == {order.wire for order in orders}
    assert set(range(1, 11)) <= {order.count for order in orders}
    assert 5 == len({order.hang_up for order in orders})
    assert any(order.body.get("stream") for order in orders)
    words = Counter(order.words for order in orders)
    assert {"[hang]", "[cut]", "[garbage]", "[empty]", "[http=502]", "[fail=1]"} <= set(words)


def test_twenty_tenants_are_limited_in_every_way_and_one_is_not() -> None:
    caps = [tenant.caps for tenant in plan_tenants(Random(3))]
    assert 20 == len(caps)
    assert any(one.is_free for one in caps)
    for name in caps[0].__slots__:
        assert any(getattr(one, name) is not None for one in caps), name
