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
    """An error with a cooldown."""
    QUARANTINE = "quarantine"
    """An error with a quarantine."""
    ELAPSE = "elapse"
    """The cooldown expired: one call at a time may try it."""
    SUCCEED = "succeed"
    """A call succeeded."""
    INCONCLUSIVE = "inconclusive"
    """The trial call ended without a clear result."""
    CHECK_PASSED = "check_passed"
    """A free key check succeeded."""
    ENABLE = "enable"
    """An operator enabled it."""
    REPLACE = "replace"
    """Its secret was replaced."""
    DISABLE = "disable"
    """An operator disabled it."""
    DRAIN = "drain"
    """An operator drained it: in-flight calls finish, and no new ones start."""


_Table = Mapping[KeyState, Mapping[Event, KeyState]]


def _out(state: KeyState) -> Mapping[Event, KeyState]:
    """Transitions of a temporary state. The success of a call that was sent earlier does not end it."""
    return {
        Event.COOL: KeyState.COOLING,
        Event.QUARANTINE: KeyState.QUARANTINED,
        Event.ELAPSE: KeyState.HALF_OPEN,
        Event.SUCCEED: state,
        Event.INCONCLUSIVE: state,
        Event.CHECK_PASSED: KeyState.HALF_OPEN,
        Event.ENABLE: KeyState.HALF_OPEN,
        Event.REPLACE: KeyState.READY,
    }


TRANSITIONS: Final[_Table] = MappingProxyType(
    {
        KeyState.READY: {
            Event.COOL: KeyState.COOLING,
            Event.QUARANTINE: KeyState.QUARANTINED,
            Event.ELAPSE: KeyState.READY,
            Event.SUCCEED: KeyState.READY,
            Event.INCONCLUSIVE: KeyState.READY,
            Event.CHECK_PASSED: KeyState.READY,
            Event.ENABLE: KeyState.READY,
            Event.REPLACE: KeyState.READY,
        },
        KeyState.COOLING: _out(KeyState.COOLING),
        KeyState.QUARANTINED: _out(KeyState.QUARANTINED),
        KeyState.HALF_OPEN: {
            Event.COOL: KeyState.COOLING,
            Event.QUARANTINE: KeyState.QUARANTINED,
            Event.ELAPSE: KeyState.HALF_OPEN,
            Event.SUCCEED: KeyState.READY,
            Event.INCONCLUSIVE: KeyState.HALF_OPEN,
            Event.CHECK_PASSED: KeyState.HALF_OPEN,
            Event.ENABLE: KeyState.HALF_OPEN,
            Event.REPLACE: KeyState.READY,
        },
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
    return "\n".join(
        f"local {name} = {_lua(table)}" for name, table in (("TRANSITIONS", TRANSITIONS), ("HOLDS", HOLDS))
    )


def _lua(table: _Table) -> str:
    rows = (
        f"{state.value} = {{{', '.join(f'{event.value} = {after.value!r}' for event, after in row.items())}}}"
        for state, row in table.items()
    )
    return f"{{{', '.join(rows)}}}"
