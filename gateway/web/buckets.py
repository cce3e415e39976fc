"""Token buckets by name, in the memory of one process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BURST_S: Final = 10.0
"""A full bucket holds the tokens of this time: a client may begin with a burst."""
_BLOCKED_S: Final = 1.0
"""An empty bucket gives nothing for this long, so that a refusal states a true wait."""
_BUCKETS_MAX: Final = 4096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since_s: float
    """When `tokens` was true, monotonic."""
    blocked_until_s: float = 0.0


class Buckets:
    """Each name may take `per_second` tokens a second, and 10 s of them at once."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}

    def blocked_s(self, name: str) -> float:
        """Seconds until this name may take a token again; 0 if it may now."""
        bucket = self._buckets.get(name)
        return max(0.0, bucket.blocked_until_s - self._monotonic()) if bucket else 0.0

    def take(self, name: str) -> bool:
        """Take a token. Returns: whether it was the last one."""
        now_s, full = self._monotonic(), self._per_second * _BURST_S
        bucket = self._buckets.get(name)
        if bucket is None:
            self._drop_full(now_s)
            bucket = self._buckets[name] = _Bucket(full, now_s)
        grown = bucket.tokens + (now_s - bucket.since_s) * self._per_second
        bucket.tokens, bucket.since_s = max(min(grown, full) - 1, 0.0), now_s
        if bucket.tokens >= 1 or now_s < bucket.blocked_until_s:
            return False
        bucket.blocked_until_s = now_s + _BLOCKED_S
        return True

    def _drop_full(self, now_s: float) -> None:
        """A bucket that was not used for this long is full, as a new one is."""
        if len(self._buckets) >= _BUCKETS_MAX:
            recent = (item for item in self._buckets.items() if now_s - item[1].since_s < _BURST_S)
            self._buckets = dict(recent)
