"""The states of provider keys, accounts and upstreams, and the events that move them.

The scripts of the pool run on these tables: `lua_tables` renders them, and `stores/pool/scripts.py` puts the text
before each script. A state that an event does not change is written out, so that a missing pair is a mistake.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from gateway.domain.errors import KeyState


class Event(Enum):
    """What happens to a key, an account or an upstream."""

    COOL = "cool"
    """A fault whose row asks for a cooldown."""
    QUARANTINE = "quarantine"
    """A fault whose row asks for a quarantine."""
    ELAPSE = "elapse"
    """Its time is over: one call at a time may try it."""
    SUCCEED = "succeed"
    """A call with it succeeded."""
    INCONCLUSIVE = "inconclusive"
    """The call that tried it ended without a verdict."""
    CHECK_PASSED = "check_passed"
    """A free request of the provider says that it works."""
    ENABLE = "enable"
    """An operator puts it back into use."""
    REPLACE = "replace"
    """It has another secret."""
    DISABLE = "disable"
    """An operator takes it out of use."""
    DRAIN = "drain"
    """An operator lets its calls in flight end, and no new ones begin."""


_Table = Mapping[KeyState, Mapping[Event, KeyState]]


def _out(state: KeyState) -> Mapping[Event, KeyState]:
    """A state that lasts for a time. A success of a call that was sent before does not end it."""
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
"""Health. COOL and QUARANTINE change a state that lasts only to one that ends later."""

_BY_OPERATOR: Final = {Event.DISABLE: KeyState.DISABLED, Event.DRAIN: KeyState.DRAINING, Event.ENABLE: KeyState.READY}
HOLDS: Final[_Table] = MappingProxyType(
    {KeyState.READY: _BY_OPERATOR, KeyState.DISABLED: _BY_OPERATOR, KeyState.DRAINING: _BY_OPERATOR}
)
"""What an operator says; it stands beside health and comes first. READY is no hold."""


def lua_tables() -> str:
    """Both tables as Lua source."""
    return "\n".join(
        f"local {name} = {_lua(table)}" for name, table in (("TRANSITIONS", TRANSITIONS), ("HOLDS", HOLDS))
    )


def _lua(table: _Table) -> str:
    rows = (
        f"{state.value} = {{{', '.join(f'{event.value} = {after.value!r}' for event, after in row.items())}}}"
        for state, row in table.items()
    )
    return f"{{{', '.join(rows)}}}"
