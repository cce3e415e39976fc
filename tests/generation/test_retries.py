"""What one part of a job may still try, by the table alone."""

import pytest

from gateway.domain.accounts import ProviderKey, make_secret
from gateway.domain.catalog import Capability, PlannedTarget
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, Outcome, Retry, Scope
from gateway.domain.images import Size, SizePlan
from gateway.generation.retries import RetryState
from gateway.scheduler import NoCapacity, RetryKind

KEY = ProviderKey("sim", "a", "a-1", make_secret("a-1"))
SHAPE = SizePlan(Size(1024, 1024))
HERE, THERE = (PlannedTarget(name, "image-01", Capability(()), SHAPE) for name in ("sim", "other"))


def failed(*error_codes: ErrorCode, left: int = 3) -> RetryState:
    tries = RetryState(left)
    for error_code in error_codes:
        tries.note_failure(GatewayError(error_code), KEY)
    return tries


@pytest.mark.parametrize("error_code", ErrorCode)
def test_what_was_sent_counts_and_what_was_not_does_not(error_code: ErrorCode) -> None:
    assert (3 if ERROR_SPECS[error_code].outcome is Outcome.NOT_SENT else 2) == failed(error_code).left


@pytest.mark.parametrize("error_code", ErrorCode)
def test_a_fault_avoids_whom_the_table_blames(error_code: ErrorCode) -> None:
    avoided = {Scope.KEY: ("a/a-1",), Scope.MODEL: ("a/a-1",), Scope.ACCOUNT: ("a/",)}
    assert avoided.get(ERROR_SPECS[error_code].scope, ()) == failed(error_code).avoided_at("sim")


def test_another_upstream_s_keys_are_not_avoided() -> None:
    assert () == failed(ErrorCode.KEY_INVALID).avoided_at("other")


@pytest.mark.parametrize("error_code", ErrorCode)
def test_only_free_outcomes_are_sent_again(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    is_free = row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED} and row.retry is not Retry.NEVER
    assert is_free is failed(error_code).may_send_again(GatewayError(error_code))


@pytest.mark.parametrize(
    "error_code", [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].retry is Retry.ONCE]
)
def test_once_is_once_whatever_the_faults(error_code: ErrorCode) -> None:
    tries = failed(error_code)
    assert tries.may_send_again(GatewayError(error_code))
    assert not tries.may_send_again(GatewayError(ErrorCode.UPSTREAM_ERROR))


@pytest.mark.parametrize(
    "error_code", [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].outcome is Outcome.REFUSED]
)
def test_after_the_last_attempt_nothing_is_sent_anywhere(error_code: ErrorCode) -> None:
    tries = failed(error_code, left=1)
    assert not tries.may_send_again(GatewayError(error_code))
    assert not tries.may_go_elsewhere(GatewayError(error_code))


@pytest.mark.parametrize("error_code", ErrorCode)
def test_the_next_target_is_for_what_concerns_the_whole_upstream(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    expected = row.scope is Scope.UPSTREAM and row.retry is not Retry.NEVER
    assert expected is failed(error_code).may_go_elsewhere(GatewayError(error_code))


def test_a_first_call_repeats_nothing() -> None:
    assert RetryKind.FIRST is RetryState(3).repeat_at("sim")


@pytest.mark.parametrize("error_code", ErrorCode)
def test_a_repeated_call_counts_against_the_budget_where_the_upstream_is_ill(error_code: ErrorCode) -> None:
    expected = RetryKind.RETRY if ERROR_SPECS[error_code].trips_breaker else RetryKind.FAILOVER
    assert expected is failed(error_code).repeat_at("sim")
    assert RetryKind.FIRST is failed(error_code).repeat_at("other")


def test_busy_is_told_where_one_upstream_is_and_the_shortest_wait() -> None:
    tries = RetryState(3)
    for nothing in (NoCapacity(40.0, is_busy=False), NoCapacity(7.5, is_busy=True), NoCapacity(None, is_busy=False)):
        tries.note_no_key(HERE, nothing)
    error = tries.decision()
    assert (ErrorCode.NO_CAPACITY, 7.5) == (error.error_code, error.retry_after_s)
    assert "Every account that could make this image is busy for about 8 s." == error.detail


def test_busy_without_a_forecast_names_no_seconds() -> None:
    tries = RetryState(3)
    tries.note_no_key(HERE, NoCapacity(None, is_busy=True))
    error = tries.decision()
    assert (ErrorCode.NO_CAPACITY, None) == (error.error_code, error.retry_after_s)
    assert "Every account that could make this image is busy; please try again shortly." == error.detail


def test_down_is_told_where_all_are() -> None:
    tries = RetryState(3)
    tries.note_no_key(HERE, NoCapacity(None, is_busy=False))
    error = tries.decision()
    assert (ErrorCode.NO_HEALTHY_ACCOUNT, None) == (error.error_code, error.retry_after_s)


@pytest.mark.parametrize("error_code", ErrorCode)
def test_a_fault_is_told_rather_than_that_no_key_was_left(error_code: ErrorCode) -> None:
    tries = failed(error_code)
    tries.note_no_key(HERE, NoCapacity(None, is_busy=False))
    assert error_code is tries.decision().error_code


@pytest.mark.parametrize("error_code", ErrorCode)
def test_a_fault_that_another_key_would_not_have_is_not_told_where_the_others_were_only_busy(
    error_code: ErrorCode,
) -> None:
    tries = failed(error_code)
    tries.note_no_key(HERE, NoCapacity(5.0, is_busy=True))
    expected = ErrorCode.NO_CAPACITY if ERROR_SPECS[error_code].retry is Retry.FREELY else error_code
    assert expected is tries.decision().error_code


def test_the_first_place_in_the_line_is_kept() -> None:
    tries = RetryState(3)
    for asked in ("", "1000", "2000"):
        tries.note_no_key(HERE, NoCapacity(None, is_busy=True, asked=asked))
    assert "1000" == tries.asked


def test_the_target_that_has_room_first_is_known() -> None:
    tries = RetryState(3)
    for target, wait_s in ((HERE, 9.0), (THERE, 4.0), (HERE, 6.0)):
        tries.note_no_key(target, NoCapacity(wait_s, is_busy=True))
    assert THERE is tries.soonest


@pytest.mark.parametrize("nothing", [NoCapacity(1.0, is_busy=False), NoCapacity(None, is_busy=True)])
def test_nobody_waits_at_a_target_that_rests_or_that_tells_no_time(nothing: NoCapacity) -> None:
    tries = RetryState(3)
    tries.note_no_key(THERE, nothing)
    assert tries.soonest is None
    tries.note_no_key(HERE, NoCapacity(50.0, is_busy=True))
    assert HERE is tries.soonest


def test_what_one_part_has_tried_is_not_what_another_has() -> None:
    tries = RetryState(3)
    part = tries.copy()
    part.note_failure(GatewayError(ErrorCode.KEY_INVALID), KEY)
    part.note_no_key(HERE, NoCapacity(1.0, is_busy=True))
    assert (3, (), None) == (tries.left, tries.avoided_at("sim"), tries.soonest)
