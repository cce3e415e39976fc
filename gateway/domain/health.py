"""The states of provider keys, accounts and upstreams, and the events that move them.

The scheduler's Lua scripts use the same tables: `lua_tables` renders them, and `scheduler/scripts.py` prepends the
text. Pairs that change nothing are listed too, so that a missing pair is a bug.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from gateway.domain.errors import KeyState


class Event(Enum):
    """Events that may change the state of a key, account or upstream."""

    COOL = "cool"
    QUARANTINE = "quarantine"
    ELAPSE = "elapse"  # the cooldown expired: one call at a time may try it
    SUCCEED = "succeed"
    INCONCLUSIVE = "inconclusive"  # the trial call ended without a clear result
    CHECK_PASSED = "check_passed"  # a free key check succeeded
    ENABLE = "enable"
    REPLACE = "replace"  # its secret was replaced
    DISABLE = "disable"
    DRAIN = "drain"  # an operator drained it: in-flight calls finish, and no new ones start


_Table = Mapping[KeyState, Mapping[Event, KeyState]]


_ALWAYS: Final = {
    Event.COOL: KeyState.COOLING,
    Event.QUARANTINE: KeyState.QUARANTINED,
    Event.REPLACE: KeyState.READY,
}
_BY_TRIAL: Final = dict.fromkeys((Event.ELAPSE, Event.CHECK_PASSED, Event.ENABLE), KeyState.HALF_OPEN)


def _unchanged(state: KeyState) -> Mapping[Event, KeyState]:
    """Transitions of a temporary state. The success of a call that was sent earlier does not end it."""
    return _ALWAYS | _BY_TRIAL | dict.fromkeys((Event.SUCCEED, Event.INCONCLUSIVE), state)


TRANSITIONS: Final[_Table] = MappingProxyType(
    {
        KeyState.READY: _ALWAYS | dict.fromkeys((*_BY_TRIAL, Event.SUCCEED, Event.INCONCLUSIVE), KeyState.READY),
        KeyState.COOLING: _unchanged(KeyState.COOLING),
        KeyState.QUARANTINED: _unchanged(KeyState.QUARANTINED),
        KeyState.HALF_OPEN: _unchanged(KeyState.HALF_OPEN) | {Event.SUCCEED: KeyState.READY},
    }
)
"""Health transitions. COOL and QUARANTINE replace a temporary state only if the new one ends later."""

_BY_OPERATOR: Final = {Event.DISABLE: KeyState.DISABLED, Event.DRAIN: KeyState.DRAINING, Event.ENABLE: KeyState.READY}
HOLDS: Final[_Table] = MappingProxyType(
    {KeyState.READY: _BY_OPERATOR, KeyState.DISABLED: _BY_OPERATOR, KeyState.DRAINING: _BY_OPERATOR}
)
"""Transitions of the operator's hold, which takes precedence over health. READY means no hold."""


def lua_tables() -> str:
    """Renders both tables as Lua source."""
    lines = []
    for name, table in (("TRANSITIONS", TRANSITIONS), ("HOLDS", HOLDS)):
        rows = (
            f"{state.value} = {{{', '.join(f'{event.value} = {after.value!r}' for event, after in row.items())}}}"
            for state, row in table.items()
        )
        lines.append(f"local {name} = {{{', '.join(rows)}}}")
    return "\n".join(lines)
