"""Which of several configurations counts: the one whose first declaration is the latest."""

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import ClockedPool, described

OLD, NEW = ("old", 20, 50), ("new", 10, 7)
"""Digest, requests a minute, max_queue_length."""
_Configuration = tuple[str, int, int]


def declare(clocked: ClockedPool, process: str, configuration: _Configuration) -> None:
    digest, requests, max_queue_length = configuration
    clocked.declare_as(
        process, digest, {"a": described(AccountLimits(requests), "a-1")}, max_queue_length=max_queue_length
    )


def in_force(clocked: ClockedPool) -> _Configuration:
    requests, max_queue_length = (
        clocked.account()["requests_per_minute_now"],
        int(clocked.client.hget("ig3:{pool:sim}:meta", "max_queue_length") or 0),
    )
    return next(one for one in (OLD, NEW) if (requests, max_queue_length) == one[1:])


def live(clocked: ClockedPool, seconds: int, *processes: tuple[str, _Configuration]) -> None:
    """Each renews every two seconds, and declares what Redis does not know any more."""
    for _ in range(0, seconds, 2):
        clocked.clock.advance(2)
        for process, configuration in processes:
            if clocked.renew(process, configuration[0]) == "unknown":
                declare(clocked, process, configuration)


def test_an_old_worker_that_is_started_again_does_not_bring_its_limits_back(clocked: ClockedPool) -> None:
    declare(clocked, "old-1", OLD)
    clocked.clock.advance(1)
    declare(clocked, "new", NEW)
    for worker in ("old-1", "old-2", "old-1"):
        clocked.clock.advance(1)
        declare(clocked, worker, OLD)
        assert NEW == in_force(clocked)
        live(clocked, 40, ("new", NEW), (worker, OLD))
        assert NEW == in_force(clocked)


@pytest.mark.parametrize("silent_s", [4, 16, 60, 3600])
def test_an_old_process_that_was_silent_does_not_bring_its_limits_back(clocked: ClockedPool, silent_s: int) -> None:
    declare(clocked, "old", OLD)
    clocked.clock.advance(1)
    declare(clocked, "new", NEW)
    live(clocked, silent_s, ("new", NEW))
    live(clocked, 30, ("old", OLD), ("new", NEW))
    assert NEW == in_force(clocked)


def test_the_new_one_counts_again_after_it_was_silent(clocked: ClockedPool) -> None:
    """While it was, the old one had to do."""
    declare(clocked, "old", OLD)
    clocked.clock.advance(1)
    declare(clocked, "new", NEW)
    live(clocked, 20, ("old", OLD))
    assert OLD == in_force(clocked)
    live(clocked, 4, ("new", NEW), ("old", OLD))
    assert NEW == in_force(clocked)


def test_a_configuration_that_is_brought_back_counts_when_no_other_is_left(clocked: ClockedPool) -> None:
    declare(clocked, "old", OLD)
    clocked.clock.advance(1)
    declare(clocked, "new", NEW)
    declare(clocked, "back", OLD)
    live(clocked, 20, ("back", OLD))
    assert OLD == in_force(clocked)
