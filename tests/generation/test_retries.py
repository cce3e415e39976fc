"""What one part of a job may still try, by the table alone."""

import pytest

from gateway.domain.accounts import UpstreamKey, make_secret
from gateway.domain.catalog import PlannedTarget
from gateway.domain.errors import TABLE, Fault, GatewayError, Outcome, Retry, Scope
from gateway.domain.images import Capability
from gateway.domain.sizes import Shape, Size
from gateway.generation.retries import Tries
from gateway.scheduler import NoKey, Repeat

KEY = UpstreamKey("sim", "a", "a-1", make_secret("a-1"))
SHAPE = Shape(Size(1024, 1024))
HERE, THERE = (PlannedTarget(name, "image-01", Capability(()), SHAPE) for name in ("sim", "other"))


def failed(*faults: Fault, left: int = 3) -> Tries:
    tries = Tries(left)
    for fault in faults:
        tries.note_failure(GatewayError(fault), KEY)
    return tries


@pytest.mark.parametrize("fault", Fault)
def test_what_was_sent_counts_and_what_was_not_does_not(fault: Fault) -> None:
    assert (3 if TABLE[fault].outcome is Outcome.NOT_SENT else 2) == failed(fault).left


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_avoids_whom_the_table_blames(fault: Fault) -> None:
    avoided = {Scope.KEY: ("a/a-1",), Scope.MODEL: ("a/a-1",), Scope.ACCOUNT: ("a/",)}
    assert avoided.get(TABLE[fault].scope, ()) == failed(fault).avoided_at("sim")


def test_another_upstream_s_keys_are_not_avoided() -> None:
    assert () == failed(Fault.KEY_INVALID).avoided_at("other")


@pytest.mark.parametrize("fault", Fault)
def test_only_free_outcomes_are_sent_again(fault: Fault) -> None:
    row = TABLE[fault]
    is_free = row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and row.retry is not Retry.NEVER
    assert is_free is failed(fault).may_send_again(GatewayError(fault))


@pytest.mark.parametrize("fault", [fault for fault in Fault if TABLE[fault].retry is Retry.ONCE])
def test_once_is_once_whatever_the_faults(fault: Fault) -> None:
    tries = failed(fault)
    assert tries.may_send_again(GatewayError(fault))
    assert not tries.may_send_again(GatewayError(Fault.UPSTREAM_ERROR))


@pytest.mark.parametrize("fault", [fault for fault in Fault if TABLE[fault].outcome is Outcome.REFUSED])
def test_after_the_last_attempt_nothing_is_sent_anywhere(fault: Fault) -> None:
    tries = failed(fault, left=1)
    assert not tries.may_send_again(GatewayError(fault))
    assert not tries.may_go_elsewhere(GatewayError(fault))


@pytest.mark.parametrize("fault", Fault)
def test_the_next_target_is_for_what_concerns_the_whole_upstream(fault: Fault) -> None:
    row = TABLE[fault]
    expected = row.scope is Scope.UPSTREAM and row.retry is not Retry.NEVER
    assert expected is failed(fault).may_go_elsewhere(GatewayError(fault))


def test_a_first_call_repeats_nothing() -> None:
    assert Repeat.NO is Tries(3).repeat_at("sim")


@pytest.mark.parametrize("fault", Fault)
def test_a_repeated_call_counts_against_the_budget_where_the_upstream_is_ill(fault: Fault) -> None:
    expected = Repeat.OF_ILL_UPSTREAM if TABLE[fault].ails_upstream else Repeat.OF_BAD_KEY
    assert expected is failed(fault).repeat_at("sim")
    assert Repeat.NO is failed(fault).repeat_at("other")


def test_busy_is_told_where_one_upstream_is_and_the_shortest_wait() -> None:
    tries = Tries(3)
    for nothing in (NoKey(40.0, is_busy=False), NoKey(7.5, is_busy=True), NoKey(None, is_busy=False)):
        tries.note_no_key(HERE, nothing)
    error = tries.verdict()
    assert (Fault.POOL_BUSY, 7.5) == (error.fault, error.retry_after_s)
    assert "Every account that could make this image is busy for about 8 s." == error.detail


def test_busy_without_a_forecast_names_no_seconds() -> None:
    tries = Tries(3)
    tries.note_no_key(HERE, NoKey(None, is_busy=True))
    error = tries.verdict()
    assert (Fault.POOL_BUSY, None) == (error.fault, error.retry_after_s)
    assert "Every account that could make this image is busy; please try again shortly." == error.detail


def test_down_is_told_where_all_are() -> None:
    tries = Tries(3)
    tries.note_no_key(HERE, NoKey(None, is_busy=False))
    error = tries.verdict()
    assert (Fault.POOL_DOWN, None) == (error.fault, error.retry_after_s)


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_told_rather_than_that_no_key_was_left(fault: Fault) -> None:
    tries = failed(fault)
    tries.note_no_key(HERE, NoKey(None, is_busy=False))
    assert fault is tries.verdict().fault


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_that_another_key_would_not_have_is_not_told_where_the_others_were_only_busy(fault: Fault) -> None:
    tries = failed(fault)
    tries.note_no_key(HERE, NoKey(5.0, is_busy=True))
    expected = Fault.POOL_BUSY if TABLE[fault].retry is Retry.FREELY else fault
    assert expected is tries.verdict().fault


def test_the_first_place_in_the_line_is_kept() -> None:
    tries = Tries(3)
    for asked in ("", "1000", "2000"):
        tries.note_no_key(HERE, NoKey(None, is_busy=True, asked=asked))
    assert "1000" == tries.asked


def test_the_target_that_has_room_first_is_known() -> None:
    tries = Tries(3)
    for target, wait_s in ((HERE, 9.0), (THERE, 4.0), (HERE, 6.0)):
        tries.note_no_key(target, NoKey(wait_s, is_busy=True))
    assert THERE is tries.soonest


@pytest.mark.parametrize("nothing", [NoKey(1.0, is_busy=False), NoKey(None, is_busy=True)])
def test_nobody_waits_at_a_target_that_rests_or_that_tells_no_time(nothing: NoKey) -> None:
    tries = Tries(3)
    tries.note_no_key(THERE, nothing)
    assert tries.soonest is None
    tries.note_no_key(HERE, NoKey(50.0, is_busy=True))
    assert HERE is tries.soonest


def test_what_one_part_has_tried_is_not_what_another_has() -> None:
    tries = Tries(3)
    part = tries.copy()
    part.note_failure(GatewayError(Fault.KEY_INVALID), KEY)
    part.note_no_key(HERE, NoKey(1.0, is_busy=True))
    assert (3, (), None) == (tries.left, tries.avoided_at("sim"), tries.soonest)
