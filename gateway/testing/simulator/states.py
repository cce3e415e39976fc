"""Key and account states, and outages, set at run time.

The last change counts: one for an account overrides its keys, and any change overrides the key's own word.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.testing.simulator.accounts import account_of
from gateway.testing.simulator.fault_injection import KEY_WORDS, USED_UP, FaultScript, RefusedError


class KeySwitch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The code to respond with, for a time if given; 0 works."""

    answers: Annotated[int, Meta(ge=-(10**10), le=10**10)]
    remains_ms: Annotated[int, Meta(gt=0)] | None = None


class OutageSwitch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Makes every generation hang, be cut, return garbage, or get this status of a proxy."""

    kind: Annotated[str, Meta(pattern="^(hang|cut|garbage|5[0-9][0-9])$")]
    seconds: Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The current code of a key, 0 if it works, and the remaining time if known."""

    code: int
    remains_ms: int | None = None


WORKS: Final = KeyStatus(0)


class KeyStates:
    """States of all keys."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: dict[str, tuple[KeySwitch, float]] = {}
        self._accounts: dict[str, tuple[KeySwitch, float]] = {}

    def set_key(self, key: str, order: KeySwitch) -> None:
        self._keys[key] = (order, self._clock())

    def set_account(self, account: str, order: KeySwitch) -> None:
        self._keys = {key: kept for key, kept in self._keys.items() if account_of(key) != account}
        self._accounts[account] = (order, self._clock())

    def standing(self, key: str) -> KeyStatus:
        ordered = self._keys.get(key) or self._accounts.get(account_of(key))
        if ordered is None:
            return _by_word(key)
        order, since = ordered
        if order.remains_ms is None:
            return KeyStatus(order.answers)
        remains_ms = order.remains_ms - round((self._clock() - since) * 1000)
        return KeyStatus(order.answers, remains_ms) if remains_ms > 0 else WORKS

    def check(self, key: str) -> None:
        """Raises: RefusedError if the key does not work now."""
        if code := self.standing(key).code:
            raise RefusedError(code)

    def plan(self, key: str) -> KeyStatus:
        """Returns the state of the key's plan: with images left, or used up.

        Raises: RefusedError if it is neither.
        """
        standing = self.standing(key)
        if standing.code and standing.code not in USED_UP:
            raise RefusedError(standing.code)
        return standing


class Outages:
    """The current outage, if any.

    A 5xx and garbage come from a front end without a back end: nothing is checked or billed. Calls that hang or are
    cut have passed all checks, and are billed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._order: OutageSwitch | None = None
        self._until = 0.0

    def begin(self, order: OutageSwitch) -> None:
        self._order, self._until = order, self._clock() + order.seconds

    def end(self) -> None:
        self._order = None

    def status(self) -> int | None:
        """Returns the front end's response status, if it is the front end that fails."""
        kind = self._kind()
        if kind is None or kind in {"hang", "cut"}:
            return None
        return 200 if kind == "garbage" else int(kind)

    def script(self) -> FaultScript | None:
        """Returns the fault of accepted requests in place of their own words, if any."""
        kind = self._kind()
        return FaultScript(flags=frozenset({kind})) if kind in {"hang", "cut"} and kind is not None else None

    def _kind(self) -> str | None:
        if self._order is None or self._clock() >= self._until:
            return None
        return self._order.kind


def _by_word(key: str) -> KeyStatus:
    return next((KeyStatus(code) for word, code in KEY_WORDS.items() if key.startswith(word)), WORKS)
