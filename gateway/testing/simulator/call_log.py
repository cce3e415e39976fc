"""The journal: every call as it came and as it ended, for whoever compares a whole run with other books."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import msgspec

from gateway.testing.simulator.accounts import account_of
from gateway.testing.simulator.fault_injection import RefusedError

_TEXT_CHARS: Final = 200
"""Kept of a prompt: who wants to find a call again writes a name of his own first."""


class Rule(StrEnum):
    """What decided how a call ends."""

    FRONT = "front"
    KEY = "key"
    FIELDS = "fields"
    LIMITS = "limits"
    WORDS = "words"
    """The prompt's, an outage behind the limits, or none."""


class Call(msgspec.Struct):
    """One call; what it never came to is left as it is here."""

    at: float
    """Seconds of the simulator's clock, when the call was there as a whole."""
    account: str
    key: str
    path: str
    model: str
    prompt: str
    """Its beginning."""
    rule: Rule = Rule.FRONT
    asked: int = 0
    """Images, where the fields were looked at."""
    images: int = 0
    """Billed."""
    withheld: int = 0
    """Billed likewise, and not delivered."""
    code: int = 0
    """The refusal's."""
    page: int = 0
    """The status of an answer that is no API's; 200 is garbage."""
    faults: tuple[str, ...] = ()
    """hang, cut, garbage, empty."""
    ended: float | None = None
    """When the answer was ready, or the client was seen to have left; None while it is under way."""


class Journal:
    """The latest calls, at most so many; with none to keep it costs nothing."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._calls: deque[Call] = deque(maxlen=most)
        self._clock = clock

    @contextmanager
    def call(self, path: str, key: str, body: object) -> Iterator[Call]:
        """A call from here to its end."""
        call = Call(self._clock(), account_of(key), key, path, _text(body, "model"), _text(body, "prompt"))
        self._calls.append(call)
        try:
            yield call
        except RefusedError as refusal:
            call.code = refusal.code
            raise
        finally:
            call.ended = self._clock()

    def calls(self) -> list[Call]:
        """The oldest first."""
        return list(self._calls)

    def clear(self) -> None:
        """Forget all of them."""
        self._calls.clear()


def _text(body: object, field: str) -> str:
    """Its beginning, also of an order that no rule has looked at."""
    value = body.get(field) if isinstance(body, dict) else None
    return value[:_TEXT_CHARS] if isinstance(value, str) else ""
