"""MiniMax's quota page: the used-up windows of a plan, and when they end (reference/minimax.md 4.3)."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.protocol import KeyCheck
from gateway.providers.replies import UntrustedObject

_WINDOWS: Final = (("current_interval", "remains_time"), ("current_weekly", "weekly_remains_time"))
"""The two windows of a plan: prefix of their counts, and field of their end."""
_NOTHING: Final = ("0", "0.0")
_WINDOW_MAX_S: Final = 8 * 86_400.0
"""Limit on the length of a window: a week and a day."""


def read_quota(envelope: UntrustedObject) -> KeyCheck:
    """Reads a page without an error."""
    rows = envelope.inners("model_remains") or envelope.inner("data").inners("model_remains")
    if envelope.inner("base_resp").integer("status_code") is None and not rows:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "neither base_resp nor model_remains")
    rows = [row for row in rows if row.text("model_name").startswith("image")]
    windows = [_windows(row) for row in rows]
    spent_s = _end_s([[window for window in of_row if window.is_surely_spent] for of_row in windows])
    if spent_s:
        return KeyCheck(ErrorCode.QUOTA_EXHAUSTED_PLAN, "the plan is used up", window_s=spent_s)
    remaining = [row.value(f"{prefix}_remaining_percent") for row in rows for prefix, _ in _WINDOWS]
    percents = [value for value in remaining if value is not None]
    has_left = bool(percents) and all(isinstance(value, int | float) and value > 0 for value in percents)
    return KeyCheck(proves_balance=True, window_if_spent_s=_end_s(windows), has_plan_left=has_left)


@dataclass(frozen=True, slots=True)
class _Window:
    """A window that is, or may be, used up."""

    ends_in_s: float
    is_surely_spent: bool


def _end_s(windows: list[list[_Window]]) -> float | None:
    """Returns seconds until the plan has quota again: the end of the last window. None unless all rows have one."""
    if not windows or not all(windows):
        return None
    return max(window.ends_in_s for of_row in windows for window in of_row)


def _windows(row: UntrustedObject) -> list[_Window]:
    windows = (_window(row, prefix, end) for prefix, end in _WINDOWS)
    return [window for window in windows if window]


def _window(row: UntrustedObject, prefix: str, end: str) -> _Window | None:
    """Reads one window of a row. Returns None if some of it remains.

    Sources disagree whether `usage_count` is the used or the remaining part, so 0 of 100 and 100 of 100 are both
    ambiguous. Only the percentage is reliable, unless a count contradicts it.
    """
    total, count = row.integer(f"{prefix}_total_count"), row.integer(f"{prefix}_usage_count")
    percent, ends_in_s = row.value(f"{prefix}_remaining_percent"), (row.integer(end) or 0) / 1000
    if not total or total < 0 or count not in {0, total, None} or not 0 < ends_in_s <= _WINDOW_MAX_S:
        return None
    if percent is None:
        return _Window(ends_in_s, is_surely_spent=False) if count is not None else None
    return _Window(ends_in_s, is_surely_spent=True) if str(percent) in _NOTHING else None
