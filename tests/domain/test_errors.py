"""The one table: every fault has a row, and the rows keep the promises about money, keys and texts."""

import pytest

from gateway.domain.errors import (
    ERROR_SPECS,
    CapacityHint,
    CooldownKind,
    ErrorCode,
    ErrorSpec,
    GatewayError,
    KeyState,
    Outcome,
    Retry,
    Scope,
)

ALL = pytest.mark.parametrize("error_code", list(ErrorCode), ids=lambda error_code: error_code.value)


def faults_with(outcome: Outcome) -> list[ErrorCode]:
    return [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].outcome is outcome]


def test_every_fault_has_a_row_and_every_row_a_fault() -> None:
    assert set(ErrorCode) == set(ERROR_SPECS)


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ERROR_SPECS[ErrorCode.INTERNAL] = ERROR_SPECS[ErrorCode.DEADLINE]  # type: ignore[index]


@ALL
def test_label_is_a_plain_lower_case_word(error_code: ErrorCode) -> None:
    assert error_code.value.isidentifier()
    assert error_code.value == error_code.value.lower()


@ALL
def test_status_is_an_error_that_the_sdks_know(error_code: ErrorCode) -> None:
    others = {416, 421}  # of links and of ports that no SDK calls
    assert ERROR_SPECS[error_code].status in others | {
        400,
        401,
        403,
        404,
        405,
        408,
        409,
        413,
        415,
        422,
        429,
        431,
        499,
        500,
        502,
        503,
        504,
    }


@ALL
def test_every_row_has_a_type_and_a_message_that_ends_as_a_sentence(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    assert row.type in {"invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"}
    assert row.message.endswith((".", "([admin] key)."))


@ALL
def test_only_known_free_outcomes_are_sent_again(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.retry is not Retry.NEVER:
        assert row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED}


@ALL
def test_trouble_with_a_key_is_never_the_callers_401_402_or_403(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.scope is not Scope.NOTHING or row.pause is not CooldownKind.NONE:
        assert row.status not in {401, 402, 403}
        assert row.status >= 429


@ALL
def test_a_pause_names_what_rests_and_in_which_state(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    assert (row.pause is CooldownKind.NONE) == (row.state is KeyState.READY)
    assert (row.pause is CooldownKind.SECONDS) == (row.pause_s > 0)
    if row.pause is not CooldownKind.NONE:
        assert row.scope is not Scope.NOTHING


@ALL
def test_the_callers_own_fault_is_a_4xx_and_never_sent_again(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.type == "invalid_request_error":
        assert 400 <= row.status < 500
        assert row.retry is Retry.NEVER
        assert row.pause is CooldownKind.NONE


@ALL
def test_waiting_is_asked_for_with_429_and_503_and_where_it_helps(error_code: ErrorCode) -> None:
    row, told_s = ERROR_SPECS[error_code], GatewayError(error_code).retry_after
    assert (row.status in {429, 503} and row.may_client_retry) == (told_s is not None)
    assert told_s is None or 1 <= told_s <= 61


@pytest.mark.parametrize(
    ("wait_s", "told_s"),
    [
        (0, 1),
        (0.2, 1),
        (1.2, 2),
        (59, 59),
        (59.1, 61),
        (60, 61),
        (61, 61),
        (61.5, 62),
        (120, 120),
        (121, 120),
        (9e9, 120),
    ],
)
def test_the_wait_is_the_true_one_but_for_the_bounds_of_sdks(wait_s: float, told_s: int) -> None:
    assert told_s == GatewayError(ErrorCode.RATE_LIMITED, retry_after_s=wait_s).retry_after


def test_no_wait_is_told_where_it_is_useless() -> None:
    assert GatewayError(ErrorCode.QUOTA_EXHAUSTED, retry_after_s=30).retry_after is None


@ALL
def test_the_client_may_repeat_only_what_is_free_and_may_pass(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.may_client_retry:
        assert row.status in {408, 429} or row.status >= 500
        assert row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED}


def test_exactly_these_outcomes_are_unknown() -> None:
    """Sent, and no answer that can be relied on: whatever is added here is never bought again."""
    expected = {
        ErrorCode.UPSTREAM_TIMEOUT,
        ErrorCode.READ_TIMEOUT,
        ErrorCode.TASK_UNFINISHED,
        ErrorCode.TASK_LOST,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.INVALID_RESPONSE,
        ErrorCode.RESPONSE_TOO_LARGE,
        ErrorCode.CHANGE_UNCONFIRMED,
        ErrorCode.INTERNAL,
    }
    assert expected == set(faults_with(Outcome.UNKNOWN))
    assert [ErrorCode.DOWNLOAD_FAILED] == faults_with(Outcome.DELIVERED)


@pytest.mark.parametrize("error_code", faults_with(Outcome.UNKNOWN) + faults_with(Outcome.DELIVERED))
def test_what_may_have_cost_money_tells_the_sdks_not_to_repeat(error_code: ErrorCode) -> None:
    assert not ERROR_SPECS[error_code].may_client_retry
    assert Retry.NEVER is ERROR_SPECS[error_code].retry


OWN_BOUNDS = {ErrorCode.NO_CAPACITY, ErrorCode.REQUESTS_THROTTLED}
TENANTS_LIMITS = {
    ErrorCode.RATE_LIMITED,
    ErrorCode.REQUEST_EXCEEDS_LIMIT,
    ErrorCode.QUOTA_EXHAUSTED,
    ErrorCode.STORAGE_QUOTA_EXHAUSTED,
}


@ALL
def test_detail_is_shown_only_for_the_callers_own_faults(error_code: ErrorCode) -> None:
    error = GatewayError(error_code, "sk-planted-secret at https://upstream.example")
    is_callers = ERROR_SPECS[error_code].outcome is Outcome.NOT_SENT and ERROR_SPECS[error_code].status not in {
        429,
        *range(500, 600),
    }
    expected = error.detail if is_callers or error_code in {*TENANTS_LIMITS, *OWN_BOUNDS} else None
    assert (expected or ERROR_SPECS[error_code].message) == error.message


@ALL
def test_without_detail_the_message_is_the_rows(error_code: ErrorCode) -> None:
    assert ERROR_SPECS[error_code].message == GatewayError(error_code).message


def test_error_says_its_fault_and_detail_in_the_log() -> None:
    assert str(GatewayError(ErrorCode.UPSTREAM_ERROR, "1033 mysql failed")) == "upstream_error: 1033 mysql failed"
    assert str(GatewayError(ErrorCode.UPSTREAM_ERROR)) == "upstream_error"


def test_parameter_of_the_error_overrules_the_rows() -> None:
    assert GatewayError(ErrorCode.CONTENT_INPUT).param == "prompt"
    assert GatewayError(ErrorCode.CONTENT_INPUT, param="image").param == "image"
    assert GatewayError(ErrorCode.INVALID_TYPE).param is None


def test_error_carries_what_the_upstream_said() -> None:
    error = GatewayError(ErrorCode.ACCOUNT_RATE_LIMITED, retry_after_s=7.5, upstream_code=1002)
    assert (error.retry_after_s, error.upstream_code, error.row) == (
        7.5,
        1002,
        ERROR_SPECS[ErrorCode.ACCOUNT_RATE_LIMITED],
    )


@pytest.mark.parametrize(
    ("status", "outcome", "retry", "expected"),
    [
        (400, Outcome.NOT_SENT, Retry.NEVER, False),
        (408, Outcome.NOT_SENT, Retry.NEVER, True),
        (429, Outcome.REFUSED, Retry.FREELY, True),
        (500, Outcome.NOT_SENT, Retry.NEVER, True),
        (502, Outcome.REFUSED, Retry.ONCE, True),
        (502, Outcome.REFUSED, Retry.NEVER, False),
        (502, Outcome.UNKNOWN, Retry.NEVER, False),
        (502, Outcome.DELIVERED, Retry.NEVER, False),
    ],
)
def test_clients_retry_follows_status_and_money(status: int, outcome: Outcome, retry: Retry, expected: bool) -> None:
    assert expected == ErrorSpec(status, "server_error", None, "m", outcome, retry).may_client_retry


@pytest.mark.parametrize("error_code", [ErrorCode.QUOTA_EXHAUSTED, ErrorCode.REQUEST_EXCEEDS_LIMIT])
def test_what_waiting_does_not_mend_is_not_to_be_sent_again(error_code: ErrorCode) -> None:
    assert (429, False) == (ERROR_SPECS[error_code].status, ERROR_SPECS[error_code].may_client_retry)


def test_a_rate_that_frees_is_worth_waiting_for() -> None:
    assert ERROR_SPECS[ErrorCode.RATE_LIMITED].may_client_retry


def test_exactly_these_faults_speak_of_the_upstream_as_a_whole() -> None:
    """So many in a row open its circuit breaker; what a key, an account or a tenant is at fault for never does."""
    expected = {
        ErrorCode.UPSTREAM_ERROR,
        ErrorCode.UNEXPECTED_RESPONSE,
        ErrorCode.EMPTY_RESPONSE,
        ErrorCode.UPSTREAM_TIMEOUT,
        ErrorCode.CONNECT_FAILED,
        ErrorCode.READ_TIMEOUT,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.INVALID_RESPONSE,
        ErrorCode.RESPONSE_TOO_LARGE,
    }
    assert expected == {error_code for error_code in ErrorCode if ERROR_SPECS[error_code].trips_breaker}


@ALL
def test_what_ails_an_upstream_is_a_5xx_and_rests_no_key(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.trips_breaker:
        assert row.status >= 500
        assert row.pause is CooldownKind.NONE


BARE = [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].is_bare]


def test_a_status_or_a_text_alone_is_a_bare_fault() -> None:
    expected = {
        ErrorCode.BARE_UNAUTHORIZED,
        ErrorCode.BARE_PAYMENT_REQUIRED,
        ErrorCode.BARE_FORBIDDEN,
        ErrorCode.BARE_RATE_LIMITED,
        ErrorCode.BARE_REFUSAL,
        ErrorCode.MODEL_DENIED_IN_TEXT,
    }
    assert expected == set(BARE)


@pytest.mark.parametrize("error_code", BARE)
def test_a_bare_fault_blames_nothing_and_is_tried_with_another_key(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    assert (CooldownKind.NONE, KeyState.READY, CapacityHint.NOTHING, False) == (
        row.pause,
        row.state,
        row.lowers,
        row.trips_breaker,
    )
    assert (Outcome.REFUSED, Retry.FREELY) == (row.outcome, row.retry)
    assert row.scope in {Scope.KEY, Scope.ACCOUNT}


@ALL
def test_a_page_is_asked_and_a_request_slowed_down_for_bare_faults_only(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    assert row.is_bare or (False, 0.0) == (row.asks_page, row.delay_s)


def test_a_request_that_is_blamed_is_the_caller_s_and_is_over() -> None:
    row = ERROR_SPECS[ErrorCode.REQUEST_BLOCKED]
    assert (400, Outcome.REFUSED, Retry.NEVER, False) == (row.status, row.outcome, row.retry, row.may_client_retry)


def test_exactly_these_faults_lower_what_is_expected_of_an_account() -> None:
    expected = {
        ErrorCode.ACCOUNT_RATE_LIMITED: CapacityHint.RATE,
        ErrorCode.ACCOUNT_GROWTH_LIMITED: CapacityHint.GROWTH,
        ErrorCode.ACCOUNT_CONNECTION_LIMITED: CapacityHint.CONCURRENCY,
    }
    assert expected == {
        error_code: ERROR_SPECS[error_code].lowers
        for error_code in ErrorCode
        if ERROR_SPECS[error_code].lowers is not CapacityHint.NOTHING
    }


@ALL
def test_what_lowers_an_account_s_estimate_rests_that_account_for_a_moment(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    if row.lowers is not CapacityHint.NOTHING:
        assert (Scope.ACCOUNT, CooldownKind.SECONDS, KeyState.COOLING) == (row.scope, row.pause, row.state)
        assert row.pause_max_s <= 60


@ALL
def test_no_fault_takes_out_what_only_a_person_or_time_does(error_code: ErrorCode) -> None:
    assert ERROR_SPECS[error_code].state in {KeyState.READY, KeyState.COOLING, KeyState.QUARANTINED}


@ALL
def test_a_rest_that_grows_grows_to_more(error_code: ErrorCode) -> None:
    row = ERROR_SPECS[error_code]
    assert row.pause_max_s == 0 or row.pause_max_s > row.pause_s > 0
