"""Steps of the server's clock that come before every lease was renewed."""

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import ClockedPool


def test_a_step_forward_and_back_expires_no_lease_that_was_renewed_before_both(clocked: ClockedPool) -> None:
    clocked.declare({"a": AccountLimits(100, 100, max_concurrency=1)})
    clocked.take("held", lease_s=6)
    for step_s in (-90.0, 90.0, 90.0, -90.0):
        clocked.clock.advance(step_s + 0.2)
        assert "busy" == clocked.lease("other", process="p2", lease_s=6)["decision"]
    clocked.turn(leases=["held"], lease_s=6)
    assert 1 == clocked.account()["in_flight"]
