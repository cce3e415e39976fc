"""MiniMax's quota page: the used-up windows of a plan, and when they end (reference/minimax.md 4.3)."""

from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.protocol import KeyCheck
from gateway.providers.replies import UntrustedObject

_WINDOWS: Final = (("current_interval", "remains_time"), ("current_weekly", "weekly_remains_time"))
"""The two windows of a plan: prefix of their counts, and field of their end."""
_NOTHING: Final = ("0", "0.0")
_WINDOW_MAX_S: Final = 8 * 86_400.0
"""Limit on the length of a window: a week and a day."""


_Window = tuple[float, bool]
"""Seconds until the end of a window that is, or may be, used up; whether it certainly is."""


def read_quota(envelope: UntrustedObject) -> KeyCheck:
    """Reads a page without an error."""
    rows = envelope.inners("model_remains") or envelope.inner("data").inners("model_remains")
    if envelope.inner("base_resp").integer("status_code") is None and not rows:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "neither base_resp nor model_remains")
    rows = [row for row in rows if row.text("model_name").startswith("image")]
    windows = [[window for kind in _WINDOWS if (window := _window(row, *kind))] for row in rows]
    spent_s = _end_s([[window for window in of_row if window[1]] for of_row in windows])
    if spent_s:
        return KeyCheck(ErrorCode.QUOTA_EXHAUSTED_PLAN, "the plan is used up", window_s=spent_s)
    remaining = [row.value(f"{prefix}_remaining_percent") for row in rows for prefix, _ in _WINDOWS]
    percents = [value for value in remaining if value is not None]
    has_left = bool(percents) and all(isinstance(value, int | float) and value > 0 for value in percents)
    return KeyCheck(proves_balance=True, window_if_spent_s=_end_s(windows), has_plan_left=has_left)


def _end_s(windows: list[list[_Window]]) -> float | None:
    """Returns seconds until the plan has quota again: the end of the last window. None unless all rows have one."""
    return max(ends_in_s for of_row in windows for ends_in_s, _ in of_row) if windows and all(windows) else None


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
        return (ends_in_s, False) if count is not None else None
    return (ends_in_s, True) if str(percent) in _NOTHING else None
