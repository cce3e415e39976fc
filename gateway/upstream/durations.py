"""How long calls take, learnt from those that delivered: a call is not repeated with less time than that."""

from collections import deque
from typing import Final

from gateway.domain.models import Target

_KEPT: Final = 50
"""Calls, of each upstream, model and number of images: the latest."""


class CallDurations:
    """The latest calls of this process that delivered."""

    def __init__(self, default_s: float) -> None:
        """`default_s` is for calls of a kind that has not delivered yet."""
        self._default_s = default_s
        self._seconds: dict[tuple[str, str, int], deque[float]] = {}

    def note(self, target: Target, images: int, seconds: float) -> None:
        """Record a call that delivered, with the time that its pictures took."""
        kind = (target.upstream, target.model, images)
        self._seconds.setdefault(kind, deque(maxlen=_KEPT)).append(seconds)

    def usual_s(self, target: Target, images: int) -> float:
        """The time within which nine of ten calls delivered."""
        kept = sorted(self._seconds.get((target.upstream, target.model, images), ()))
        return kept[-1 - len(kept) // 10] if kept else self._default_s
