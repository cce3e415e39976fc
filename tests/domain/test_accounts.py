"""Keys, and how long a fault takes them out of the pool."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.accounts import AccountLimits, Rest, Secret, UpstreamKey, make_secret, rest_after
from gateway.domain.errors import TABLE, Fault, Pause, Scope, State

NOON = datetime(2026, 11, 23, 12, 15, 30, tzinfo=UTC).timestamp()


def test_secret_shows_its_fingerprint_only() -> None:
    secret = Secret("sk-planted", "fp-12345678")
    key = UpstreamKey("302ai", "design", "design-1", secret)
    assert "sk-planted" not in f"{secret} {secret!r} {key} {key!r}"
    assert "fp-12345678" in repr(key)
    assert secret.reveal() == "sk-planted"
    assert key.id == "design/design-1"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        # KEY-COOL of reference/minimax.md section 3: 1002, 1039, 1041 (5 to 15 s), 2045 (10 to 30 s)
        (Fault.ACCOUNT_RATE_LIMITED, Rest(Scope.ACCOUNT, State.COOLING, 15, 60)),
        (Fault.ACCOUNT_TOKEN_LIMITED, Rest(Scope.ACCOUNT, State.COOLING, 60)),
        (Fault.ACCOUNT_CONNECTION_LIMITED, Rest(Scope.ACCOUNT, State.COOLING, 10, 15)),
        (Fault.ACCOUNT_GROWTH_LIMITED, Rest(Scope.ACCOUNT, State.COOLING, 20, 30)),
        # KEY-WINDOW: 2056, 1028, -10018
        (Fault.WINDOW_SPENT, Rest(Scope.ACCOUNT, State.COOLING, 3600)),
        (Fault.DAY_SPENT, Rest(Scope.ACCOUNT, State.COOLING, 11 * 3600 + 44 * 60 + 30)),
        (Fault.KEY_DAY_SPENT, Rest(Scope.KEY, State.COOLING, 11 * 3600 + 44 * 60 + 30)),
        (Fault.KEY_MONTH_SPENT, Rest(Scope.KEY, State.COOLING, 7 * 86400 + 11 * 3600 + 44 * 60 + 30)),
        # KEY-DEAD, tried again after 10 to 30 minutes
        (Fault.KEY_INVALID, Rest(Scope.KEY, State.QUARANTINED, 900)),
        (Fault.KEY_UNVERIFIED, Rest(Scope.ACCOUNT, State.QUARANTINED, 900)),
        (Fault.KEY_MODEL_DENIED, Rest(Scope.MODEL, State.QUARANTINED, 900)),
        (Fault.KEY_LIMIT_REACHED, Rest(Scope.KEY, State.QUARANTINED, 900)),
        (Fault.BALANCE_EMPTY, Rest(Scope.ACCOUNT, State.QUARANTINED, 900)),
        (Fault.EGRESS_DENIED, Rest(Scope.UPSTREAM, State.QUARANTINED, 900)),
        # -10008: 30 to 60 s
        (Fault.UPSTREAM_NO_CHANNEL, Rest(Scope.UPSTREAM, State.COOLING, 30, 60)),
    ],
)
def test_fault_pauses(fault: Fault, expected: Rest) -> None:
    assert expected == rest_after(fault, NOON)


def test_hourly_quota_rests_an_hour() -> None:
    """-10012 is "KEY-WINDOW 1 h", whatever the minute (reference/minimax.md 5.3)."""
    assert Rest(Scope.KEY, State.COOLING, 3600) == rest_after(Fault.KEY_HOUR_SPENT, NOON)


@pytest.mark.parametrize("fault", [fault for fault in Fault if TABLE[fault].pause is Pause.NONE])
def test_other_faults_blame_no_key(fault: Fault) -> None:
    assert rest_after(fault, NOON, asked_s=30) is None


@pytest.mark.parametrize(
    ("asked_s", "seconds"), [(None, 15), (0, 15), (3.2, 15), (15.0, 16), (40.5, 41), (10**9, 24 * 3600)]
)
def test_what_the_upstream_asks_only_lengthens_a_rest_up_to_a_day(asked_s: float | None, seconds: int) -> None:
    rest = rest_after(Fault.ACCOUNT_RATE_LIMITED, NOON, asked_s=asked_s)
    assert Rest(Scope.ACCOUNT, State.COOLING, seconds, 60) == rest


def test_what_the_upstream_asks_does_not_move_a_calendar_window() -> None:
    assert rest_after(Fault.DAY_SPENT, NOON) == rest_after(Fault.DAY_SPENT, NOON, asked_s=5)


@pytest.mark.parametrize(
    ("moment", "days"),
    [
        (datetime(2026, 12, 31, tzinfo=UTC), 1),
        (datetime(2027, 1, 31, tzinfo=UTC), 1),
        (datetime(2028, 2, 1, tzinfo=UTC), 29),
        (datetime(2027, 2, 1, tzinfo=UTC), 28),
        (datetime(2026, 10, 1, tzinfo=UTC), 31),
    ],
)
def test_month_ends_with_the_utc_month(moment: datetime, days: int) -> None:
    rest = rest_after(Fault.KEY_MONTH_SPENT, moment.timestamp())
    assert rest is not None
    assert days * 86400 == rest.seconds


@given(st.floats(0, 4e9), st.sampled_from([Fault.DAY_SPENT, Fault.KEY_MONTH_SPENT]))
def test_a_rest_lasts_until_its_window_has_ended(now_s: float, fault: Fault) -> None:
    rest = rest_after(fault, now_s)
    assert rest is not None
    before, after = datetime.fromtimestamp(now_s, UTC), datetime.fromtimestamp(now_s + rest.seconds, UTC)
    assert rest.seconds >= 1
    assert before.date() < after.date()


@given(st.floats(0, 4e9), st.sampled_from(list(Fault)))
def test_every_rest_is_a_whole_number_of_seconds(now_s: float, fault: Fault) -> None:
    rest = rest_after(fault, now_s)
    assert rest is None or rest.seconds in range(1, 31 * 86400 + 1)


@given(st.floats(0, 4e9), st.sampled_from(list(Fault)), st.one_of(st.none(), st.floats(0, 1e12)))
def test_a_rest_is_what_the_table_says_of_its_fault(now_s: float, fault: Fault, asked_s: float | None) -> None:
    rest, row = rest_after(fault, now_s, asked_s=asked_s), TABLE[fault]
    if rest is not None:
        assert (row.scope, row.state, row.pause_max_s) == (rest.scope, rest.state, rest.seconds_max)


def test_a_secret_s_fingerprint_is_its_own_and_tells_nothing_of_it() -> None:
    one, other = make_secret("sk-planted-1"), make_secret("sk-planted-2")
    assert make_secret("sk-planted-1").fingerprint == one.fingerprint
    assert one.fingerprint != other.fingerprint
    assert "planted" not in one.fingerprint


def test_an_account_that_says_nothing_has_cautious_limits() -> None:
    """10 requests a minute are documented, 60 images a minute inferred (reference/minimax.md 4)."""
    assert AccountLimits(10, 60, 10, 1) == AccountLimits()


def test_an_errors_own_cooldown_replaces_the_tables_seconds_and_nothing_else() -> None:
    assert Rest(Scope.ACCOUNT, State.COOLING, 18_000) == rest_after(Fault.WINDOW_SPENT, NOON, cooldown_s=17_999.5)
    assert Rest(Scope.KEY, State.COOLING, 60) == rest_after(Fault.KEY_DAY_SPENT, NOON, cooldown_s=60)
    assert rest_after(Fault.CONTENT_INPUT, NOON, cooldown_s=60) is None
