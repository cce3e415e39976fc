from dataclasses import dataclass

import pytest

from gateway.redis.call_guard import Breaker, Outcome, Permit

FAILURES_MAX = 5
PAUSE_S = 0.5


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock, failures_max=FAILURES_MAX, open_s=PAUSE_S)


def entered(breaker: Breaker) -> Permit:
    entry = breaker.acquire()
    assert entry is not None
    return entry


def end(breaker: Breaker, *outcomes: Outcome) -> None:
    """One call after the other."""
    for outcome in outcomes:
        breaker.record(entered(breaker), outcome)


def open_(breaker: Breaker) -> None:
    end(breaker, *[Outcome.FAILED] * FAILURES_MAX)


def test_failures_in_a_row_open_it_and_calls_then_fail_at_once(breaker: Breaker) -> None:
    end(breaker, *[Outcome.FAILED] * (FAILURES_MAX - 1))
    was_open = breaker.is_open
    end(breaker, Outcome.FAILED)
    assert (False, True) == (was_open, breaker.is_open)
    assert breaker.acquire() is None


def test_an_answer_in_between_starts_the_count_again(breaker: Breaker) -> None:
    end(breaker, *[Outcome.FAILED] * (FAILURES_MAX - 1), Outcome.ANSWERED, *[Outcome.FAILED] * (FAILURES_MAX - 1))
    assert not breaker.is_open


def test_callers_who_go_away_open_nothing(breaker: Breaker) -> None:
    end(breaker, *[Outcome.UNKNOWN] * 100)
    assert not breaker.is_open


def test_a_burst_of_which_some_were_answered_opens_nothing(breaker: Breaker) -> None:
    """A hundred calls at once, one answered, the others too late: the server is there, this process was slow."""
    entries = [entered(breaker) for _ in range(100)]
    breaker.record(entries[0], Outcome.ANSWERED)
    for entry in entries[1:]:
        breaker.record(entry, Outcome.FAILED)
    assert not breaker.is_open


def test_calls_at_once_of_which_none_was_answered_open_it(breaker: Breaker) -> None:
    entries = [entered(breaker) for _ in range(100)]
    for entry in entries:
        breaker.record(entry, Outcome.FAILED)
    assert breaker.is_open


def test_after_the_pause_one_call_tries_and_the_others_still_fail(breaker: Breaker, clock: Clock) -> None:
    open_(breaker)
    clock.now_s += PAUSE_S
    probe = entered(breaker)
    assert breaker.acquire() is None
    breaker.record(probe, Outcome.ANSWERED)
    assert not breaker.is_open
    assert breaker.acquire() is not None


def test_a_probe_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    open_(breaker)
    clock.now_s += PAUSE_S
    end(breaker, Outcome.FAILED)
    clock.now_s += PAUSE_S - 0.01
    assert breaker.acquire() is None
    clock.now_s += 0.01
    assert breaker.acquire() is not None


def test_a_probe_whose_caller_goes_away_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    open_(breaker)
    clock.now_s += PAUSE_S
    end(breaker, Outcome.UNKNOWN)
    assert breaker.is_open
    assert breaker.acquire() is not None


def test_calls_that_began_before_it_opened_do_not_prolong_the_pause(breaker: Breaker, clock: Clock) -> None:
    late = entered(breaker)
    open_(breaker)
    clock.now_s += PAUSE_S
    breaker.record(late, Outcome.FAILED)
    assert breaker.acquire() is not None


def test_a_late_answer_closes_it(breaker: Breaker) -> None:
    late = entered(breaker)
    open_(breaker)
    breaker.record(late, Outcome.ANSWERED)
    assert not breaker.is_open


def test_once_it_has_closed_it_counts_from_nought(breaker: Breaker, clock: Clock) -> None:
    open_(breaker)
    clock.now_s += PAUSE_S
    end(breaker, Outcome.ANSWERED, *[Outcome.FAILED] * (FAILURES_MAX - 1))
    assert not breaker.is_open
