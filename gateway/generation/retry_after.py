"""Reads the header Retry-After."""

import calendar
import time
from email.utils import parsedate
from typing import Final

import httpx

_DIGITS_MAX: Final = 9
_MAX_S: Final = 999_999_999.0
_DATE_MAX_CHARS: Final = 64


def read_retry_after(headers: httpx.Headers) -> float | None:
    """Returns seconds, of both forms: a number, or a date, which counts from the response's own date."""
    after = headers.get("retry-after", "").strip()
    if after.isascii() and after.isdecimal():
        return float(after) if len(after) <= _DIGITS_MAX else None
    ends_at = _parse_date(after)
    if ends_at is None:
        return None
    sent_at = _parse_date(headers.get("date", ""))
    return min(max(0.0, ends_at - (time.time() if sent_at is None else sent_at)), _MAX_S)


def _parse_date(text: str) -> float | None:
    """Returns the Unix seconds of an HTTP date in any of its three forms (RFC 9110, 5.6.7)."""
    try:
        parsed = parsedate(text[:_DATE_MAX_CHARS])
        return float(calendar.timegm(parsed)) if parsed else None
    except (ValueError, OverflowError):
        return None
