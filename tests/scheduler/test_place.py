"""The place of a request that waits, and the forecast of its wait."""

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import ClockedPool


def test_a_place_has_the_forecast_that_the_request_had_when_it_joined(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(requests_per_minute=2), "b": AccountLimits(requests_per_minute=1)})
    clocked.spend(3)
    for number in range(9):
        clocked.clock.advance(0.01)
        lease_id = f"r{number}"
        joined = clocked.lease(lease_id, f"t{number % 3}", images=1 + number % 2, patience_s=3600)
        found = clocked.run("place", lease_id)
        assert ("wait", joined["wait_us"]) == (found["decision"], found["wait_us"])
        assert 1 <= found["place"] <= number + 1


def test_places_of_one_tenant_are_counted_and_move_on(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(requests_per_minute=1)})
    clocked.spend(1)
    names = ["r0", "r1", "r2"]
    for name in names:
        clocked.clock.advance(0.1)
        clocked.wait(name, patience_s=600)
    assert [1, 2, 3] == [clocked.run("place", name)["place"] for name in names]
    clocked.leave("r0")
    assert ["unknown", "wait", "wait"] == [clocked.run("place", name)["decision"] for name in names]
    assert [1, 2] == [clocked.run("place", name)["place"] for name in names[1:]]


def test_a_request_that_nothing_can_serve_has_a_place_and_no_forecast(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(requests_per_minute=1)})
    clocked.spend(1)
    clocked.wait("r0")
    clocked.hold("a", "disable")
    found = clocked.run("place", "r0")
    assert (1, -1) == (found["place"], found["wait_us"])
