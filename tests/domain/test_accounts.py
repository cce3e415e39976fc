"""Keys, and how long a fault takes them out of the pool."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.accounts import AccountLimits, Cooldown, ProviderKey, Secret, cooldown_for, make_secret
from gateway.domain.errors import ERROR_SPECS, CooldownKind, ErrorCode, KeyState, Scope

NOON = datetime(2026, 11, 23, 12, 15, 30, tzinfo=UTC).timestamp()


def test_secret_shows_its_fingerprint_only() -> None:
    secret = Secret("sk-planted", "fp-12345678")
    key = ProviderKey("302ai", "design", "design-1", secret)
    assert "sk-planted" not in f"{secret} {secret!r} {key} {key!r}"
    assert "fp-12345678" in repr(key)
    assert secret.plaintext == "sk-planted"
    assert key.id == "design/design-1"


@pytest.mark.parametrize(
    ("error_code", "expected"),
    [
        # KEY-COOL of reference/minimax.md section 3: 1002, 1039, 1041 (5 to 15 s), 2045 (10 to 30 s)
        (ErrorCode.ACCOUNT_RATE_LIMITED, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 15, 60)),
        (ErrorCode.ACCOUNT_TOKEN_LIMITED, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 60)),
        (ErrorCode.ACCOUNT_CONNECTION_LIMITED, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 10, 15)),
        (ErrorCode.ACCOUNT_GROWTH_LIMITED, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 20, 30)),
        # KEY-WINDOW: 2056, 1028, -10018
        (ErrorCode.QUOTA_EXHAUSTED_PLAN, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 3600)),
        (ErrorCode.QUOTA_EXHAUSTED_DAILY, Cooldown(Scope.ACCOUNT, KeyState.COOLING, 11 * 3600 + 44 * 60 + 30)),
        (ErrorCode.QUOTA_EXHAUSTED_KEY_DAY, Cooldown(Scope.KEY, KeyState.COOLING, 11 * 3600 + 44 * 60 + 30)),
        (
            ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH,
            Cooldown(Scope.KEY, KeyState.COOLING, 7 * 86400 + 11 * 3600 + 44 * 60 + 30),
        ),
        # KEY-DEAD, tried again after 10 to 30 minutes
        (ErrorCode.KEY_INVALID, Cooldown(Scope.KEY, KeyState.QUARANTINED, 900)),
        (ErrorCode.ACCOUNT_UNVERIFIED, Cooldown(Scope.ACCOUNT, KeyState.QUARANTINED, 900)),
        (ErrorCode.KEY_MODEL_DENIED, Cooldown(Scope.MODEL, KeyState.QUARANTINED, 900)),
        (ErrorCode.KEY_LIMIT_REACHED, Cooldown(Scope.KEY, KeyState.QUARANTINED, 900)),
        (ErrorCode.INSUFFICIENT_BALANCE, Cooldown(Scope.ACCOUNT, KeyState.QUARANTINED, 900)),
        (ErrorCode.IP_DENIED, Cooldown(Scope.UPSTREAM, KeyState.QUARANTINED, 900)),
        # -10008: 30 to 60 s
        (ErrorCode.MODEL_UNAVAILABLE, Cooldown(Scope.UPSTREAM, KeyState.COOLING, 30, 60)),
    ],
)
def test_fault_pauses(error_code: ErrorCode, expected: Cooldown) -> None:
    assert expected == cooldown_for(error_code, NOON)


def test_hourly_quota_rests_an_hour() -> None:
    """-10012 is "KEY-WINDOW 1 h", whatever the minute (reference/minimax.md 5.3)."""
    assert Cooldown(Scope.KEY, KeyState.COOLING, 3600) == cooldown_for(ErrorCode.QUOTA_EXHAUSTED_KEY_HOUR, NOON)


@pytest.mark.parametrize(
    "error_code", [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].pause is CooldownKind.NONE]
)
def test_other_faults_blame_no_key(error_code: ErrorCode) -> None:
    assert cooldown_for(error_code, NOON, asked_s=30) is None


@pytest.mark.parametrize(
    ("asked_s", "seconds"), [(None, 15), (0, 15), (3.2, 15), (15.0, 16), (40.5, 41), (10**9, 24 * 3600)]
)
def test_what_the_upstream_asks_only_lengthens_a_rest_up_to_a_day(asked_s: float | None, seconds: int) -> None:
    rest = cooldown_for(ErrorCode.ACCOUNT_RATE_LIMITED, NOON, asked_s=asked_s)
    assert Cooldown(Scope.ACCOUNT, KeyState.COOLING, seconds, 60) == rest


def test_what_the_upstream_asks_does_not_move_a_calendar_window() -> None:
    assert cooldown_for(ErrorCode.QUOTA_EXHAUSTED_DAILY, NOON) == cooldown_for(
        ErrorCode.QUOTA_EXHAUSTED_DAILY, NOON, asked_s=5
    )


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
    rest = cooldown_for(ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH, moment.timestamp())
    assert rest is not None
    assert days * 86400 == rest.seconds


@given(st.floats(0, 4e9), st.sampled_from([ErrorCode.QUOTA_EXHAUSTED_DAILY, ErrorCode.QUOTA_EXHAUSTED_KEY_MONTH]))
def test_a_rest_lasts_until_its_window_has_ended(now_s: float, error_code: ErrorCode) -> None:
    rest = cooldown_for(error_code, now_s)
    assert rest is not None
    before, after = datetime.fromtimestamp(now_s, UTC), datetime.fromtimestamp(now_s + rest.seconds, UTC)
    assert rest.seconds >= 1
    assert before.date() < after.date()


@given(st.floats(0, 4e9), st.sampled_from(list(ErrorCode)))
def test_every_rest_is_a_whole_number_of_seconds(now_s: float, error_code: ErrorCode) -> None:
    rest = cooldown_for(error_code, now_s)
    assert rest is None or rest.seconds in range(1, 31 * 86400 + 1)


@given(st.floats(0, 4e9), st.sampled_from(list(ErrorCode)), st.one_of(st.none(), st.floats(0, 1e12)))
def test_a_rest_is_what_the_table_says_of_its_fault(now_s: float, error_code: ErrorCode, asked_s: float | None) -> None:
    rest, row = cooldown_for(error_code, now_s, asked_s=asked_s), ERROR_SPECS[error_code]
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
    assert Cooldown(Scope.ACCOUNT, KeyState.COOLING, 18_000) == cooldown_for(
        ErrorCode.QUOTA_EXHAUSTED_PLAN, NOON, cooldown_s=17_999.5
    )
    assert Cooldown(Scope.KEY, KeyState.COOLING, 60) == cooldown_for(
        ErrorCode.QUOTA_EXHAUSTED_KEY_DAY, NOON, cooldown_s=60
    )
    assert cooldown_for(ErrorCode.CONTENT_INPUT, NOON, cooldown_s=60) is None
