"""The one table: every fault has a row, and the rows keep the promises about money, keys and texts."""

import pytest

from gateway.domain.errors import TABLE, Fault, GatewayError, Lowers, Outcome, Pause, Retry, Row, Scope, State

ALL = pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)


def faults_with(outcome: Outcome) -> list[Fault]:
    return [fault for fault in Fault if TABLE[fault].outcome is outcome]


def test_every_fault_has_a_row_and_every_row_a_fault() -> None:
    assert set(Fault) == set(TABLE)


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE[Fault.INTERNAL] = TABLE[Fault.DEADLINE]  # type: ignore[index]


@ALL
def test_label_is_a_plain_lower_case_word(fault: Fault) -> None:
    assert fault.value.isidentifier()
    assert fault.value == fault.value.lower()


@ALL
def test_status_is_an_error_that_the_sdks_know(fault: Fault) -> None:
    operators = {421}  # of the ports that no SDK calls
    assert TABLE[fault].status in operators | {
        400,
        401,
        403,
        404,
        405,
        408,
        409,
        413,
        429,
        431,
        499,
        500,
        502,
        503,
        504,
    }


@ALL
def test_every_row_has_a_type_and_a_message_that_ends_as_a_sentence(fault: Fault) -> None:
    row = TABLE[fault]
    assert row.type in {"invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"}
    assert row.message.endswith((".", "([admin] key)."))


@ALL
def test_only_known_free_outcomes_are_sent_again(fault: Fault) -> None:
    row = TABLE[fault]
    if row.retry is not Retry.NEVER:
        assert row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED}


@ALL
def test_trouble_with_a_key_is_never_the_callers_401_402_or_403(fault: Fault) -> None:
    row = TABLE[fault]
    if row.scope is not Scope.NOTHING or row.pause is not Pause.NONE:
        assert row.status not in {401, 402, 403}
        assert row.status >= 429


@ALL
def test_a_pause_names_what_rests_and_in_which_state(fault: Fault) -> None:
    row = TABLE[fault]
    assert (row.pause is Pause.NONE) == (row.state is State.READY)
    assert (row.pause is Pause.SECONDS) == (row.pause_s > 0)
    if row.pause is not Pause.NONE:
        assert row.scope is not Scope.NOTHING


@ALL
def test_the_callers_own_fault_is_a_4xx_and_never_sent_again(fault: Fault) -> None:
    row = TABLE[fault]
    if row.type == "invalid_request_error":
        assert 400 <= row.status < 500
        assert row.retry is Retry.NEVER
        assert row.pause is Pause.NONE


@ALL
def test_retry_after_lies_between_1_and_60_seconds(fault: Fault) -> None:
    assert 1 <= TABLE[fault].retry_after_s <= 60


@ALL
def test_waiting_is_asked_for_with_429_and_503_only(fault: Fault) -> None:
    assert (TABLE[fault].status in {429, 503}) == TABLE[fault].asks_to_wait


@ALL
def test_the_client_may_repeat_only_what_is_free_and_may_pass(fault: Fault) -> None:
    row = TABLE[fault]
    if row.may_client_retry:
        assert row.status in {408, 429} or row.status >= 500
        assert row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED}


def test_exactly_these_outcomes_are_unknown() -> None:
    """Sent, and no answer that can be relied on: whatever is added here is never bought again."""
    expected = {
        Fault.UPSTREAM_TIMEOUT,
        Fault.READ_TIMEOUT,
        Fault.ANSWER_LOST,
        Fault.ANSWER_UNREADABLE,
        Fault.ANSWER_TOO_LARGE,
        Fault.CHANGE_UNCONFIRMED,
        Fault.INTERNAL,
    }
    assert expected == set(faults_with(Outcome.UNKNOWN))
    assert [Fault.RESULT_LOST] == faults_with(Outcome.DELIVERED)


@pytest.mark.parametrize("fault", faults_with(Outcome.UNKNOWN) + faults_with(Outcome.DELIVERED))
def test_what_may_have_cost_money_tells_the_sdks_not_to_repeat(fault: Fault) -> None:
    assert not TABLE[fault].may_client_retry
    assert Retry.NEVER is TABLE[fault].retry


OWN_BOUNDS = {Fault.POOL_BUSY, Fault.REQUESTS_THROTTLED}
TENANTS_LIMITS = {Fault.RATE_LIMITED, Fault.RATE_EXCEEDED_BY_ONE, Fault.QUOTA_EXHAUSTED}


@ALL
def test_detail_is_shown_only_for_the_callers_own_faults(fault: Fault) -> None:
    error = GatewayError(fault, "sk-planted-secret at https://upstream.example")
    is_callers = TABLE[fault].outcome is Outcome.NOT_SENT and TABLE[fault].status not in {429, *range(500, 600)}
    expected = error.detail if is_callers or fault in {*TENANTS_LIMITS, *OWN_BOUNDS} else None
    assert (expected or TABLE[fault].message) == error.message


@ALL
def test_without_detail_the_message_is_the_rows(fault: Fault) -> None:
    assert TABLE[fault].message == GatewayError(fault).message


def test_error_says_its_fault_and_detail_in_the_log() -> None:
    assert str(GatewayError(Fault.UPSTREAM_ERROR, "1033 mysql failed")) == "upstream_error: 1033 mysql failed"
    assert str(GatewayError(Fault.UPSTREAM_ERROR)) == "upstream_error"


def test_parameter_of_the_error_overrules_the_rows() -> None:
    assert GatewayError(Fault.CONTENT_INPUT).param == "prompt"
    assert GatewayError(Fault.CONTENT_INPUT, param="image").param == "image"
    assert GatewayError(Fault.INVALID_TYPE).param is None


def test_error_carries_what_the_upstream_said() -> None:
    error = GatewayError(Fault.ACCOUNT_RATE_LIMITED, retry_after_s=7.5, upstream_code=1002)
    assert (error.retry_after_s, error.upstream_code, error.row) == (7.5, 1002, TABLE[Fault.ACCOUNT_RATE_LIMITED])


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
    assert expected == Row(status, "server_error", None, "m", outcome, retry).may_client_retry


@pytest.mark.parametrize("fault", [Fault.QUOTA_EXHAUSTED, Fault.RATE_EXCEEDED_BY_ONE])
def test_what_waiting_does_not_mend_is_not_to_be_sent_again(fault: Fault) -> None:
    assert (429, False) == (TABLE[fault].status, TABLE[fault].may_client_retry)


def test_a_rate_that_frees_is_worth_waiting_for() -> None:
    assert TABLE[Fault.RATE_LIMITED].may_client_retry


def test_exactly_these_faults_speak_of_the_upstream_as_a_whole() -> None:
    """So many in a row open its circuit breaker; what a key, an account or a tenant is at fault for never does."""
    expected = {
        Fault.UPSTREAM_ERROR,
        Fault.UPSTREAM_MISPLACED,
        Fault.UPSTREAM_EMPTY,
        Fault.UPSTREAM_TIMEOUT,
        Fault.CONNECT_FAILED,
        Fault.READ_TIMEOUT,
        Fault.ANSWER_LOST,
        Fault.ANSWER_UNREADABLE,
        Fault.ANSWER_TOO_LARGE,
    }
    assert expected == {fault for fault in Fault if TABLE[fault].ails_upstream}


@ALL
def test_what_ails_an_upstream_is_a_5xx_and_rests_no_key(fault: Fault) -> None:
    row = TABLE[fault]
    if row.ails_upstream:
        assert row.status >= 500
        assert row.pause is Pause.NONE


BARE = [fault for fault in Fault if TABLE[fault].is_bare]


def test_a_status_or_a_text_alone_is_a_bare_fault() -> None:
    expected = {
        Fault.BARE_UNAUTHORIZED,
        Fault.BARE_PAYMENT_REQUIRED,
        Fault.BARE_FORBIDDEN,
        Fault.BARE_RATE_LIMITED,
        Fault.BARE_REFUSAL,
        Fault.MODEL_DENIED_IN_TEXT,
    }
    assert expected == set(BARE)


@pytest.mark.parametrize("fault", BARE)
def test_a_bare_fault_blames_nothing_and_is_tried_with_another_key(fault: Fault) -> None:
    row = TABLE[fault]
    assert (Pause.NONE, State.READY, Lowers.NOTHING, False) == (row.pause, row.state, row.lowers, row.ails_upstream)
    assert (Outcome.REFUSED, Retry.FREELY) == (row.outcome, row.retry)
    assert row.scope in {Scope.KEY, Scope.ACCOUNT}


@ALL
def test_a_page_is_asked_and_a_request_slowed_down_for_bare_faults_only(fault: Fault) -> None:
    row = TABLE[fault]
    assert row.is_bare or (False, 0.0) == (row.asks_page, row.delay_s)


def test_a_request_that_is_blamed_is_the_caller_s_and_is_over() -> None:
    row = TABLE[Fault.REQUEST_BLOCKED]
    assert (400, Outcome.REFUSED, Retry.NEVER, False) == (row.status, row.outcome, row.retry, row.may_client_retry)


def test_exactly_these_faults_lower_what_is_expected_of_an_account() -> None:
    expected = {
        Fault.ACCOUNT_RATE_LIMITED: Lowers.RATE,
        Fault.ACCOUNT_GROWTH_LIMITED: Lowers.GROWTH,
        Fault.ACCOUNT_CONNECTION_LIMITED: Lowers.CONCURRENCY,
    }
    assert expected == {fault: TABLE[fault].lowers for fault in Fault if TABLE[fault].lowers is not Lowers.NOTHING}


@ALL
def test_what_lowers_an_account_s_estimate_rests_that_account_for_a_moment(fault: Fault) -> None:
    row = TABLE[fault]
    if row.lowers is not Lowers.NOTHING:
        assert (Scope.ACCOUNT, Pause.SECONDS, State.COOLING) == (row.scope, row.pause, row.state)
        assert row.pause_max_s <= 60


@ALL
def test_no_fault_takes_out_what_only_a_person_or_time_does(fault: Fault) -> None:
    assert TABLE[fault].state in {State.READY, State.COOLING, State.QUARANTINED}


@ALL
def test_a_rest_that_grows_grows_to_more(fault: Fault) -> None:
    row = TABLE[fault]
    assert row.pause_max_s == 0 or row.pause_max_s > row.pause_s > 0
