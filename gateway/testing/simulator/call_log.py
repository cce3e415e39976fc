"""The call log: every call and its outcome, for comparison with other records of a run."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import msgspec

from gateway.testing.simulator.accounts import account_of
from gateway.testing.simulator.fault_injection import RefusedError

_TEXT_CHARS: Final = 200
"""Stored prompt length; tests that search for a call put an ID first."""


class Rule(StrEnum):
    """The check that decided a call's outcome."""

    FRONT = "front"
    KEY = "key"
    FIELDS = "fields"
    LIMITS = "limits"
    WORDS = "words"
    """The prompt's words, a back-end outage, or none."""


class Call(msgspec.Struct):
    """One call; unset fields have these defaults."""

    at: float
    """Seconds of the simulator's clock at which the whole call was received."""
    account: str
    key: str
    path: str
    model: str
    prompt: str
    """Its beginning."""
    rule: Rule = Rule.FRONT
    asked: int = 0
    """Images, if the fields were checked."""
    images: int = 0
    """Billed."""
    withheld: int = 0
    """Billed too, but not delivered."""
    code: int = 0
    """Of the refusal."""
    page: int = 0
    """Status of a response that is not the API's; 200 is garbage."""
    faults: tuple[str, ...] = ()
    """hang, cut, garbage, empty."""
    ended: float | None = None
    """Time at which the response was ready or the client seen disconnected; None while in progress."""


class CallLog:
    """The latest calls up to a limit; a limit of 0 costs nothing."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._calls: deque[Call] = deque(maxlen=most)
        self._clock = clock

    @contextmanager
    def call(self, path: str, key: str, body: object) -> Iterator[Call]:
        """Records a call from start to end."""
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
        """Oldest first."""
        return list(self._calls)

    def clear(self) -> None:
        """Drops all calls."""
        self._calls.clear()


def _text(body: object, field: str) -> str:
    """Returns its beginning, also for a request that no check has parsed."""
    value = body.get(field) if isinstance(body, dict) else None
    return value[:_TEXT_CHARS] if isinstance(value, str) else ""
