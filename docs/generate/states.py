"""Table of cooldown states, from gateway/domain/health.py."""

from collections.abc import Mapping

from docs.generate.pages import code, table
from gateway.domain.errors import KeyState
from gateway.domain.health import TRANSITIONS, Event

_EVENTS: Mapping[Event, str] = {
    Event.COOL: "a call fails, and its fault asks for a cooldown",
    Event.QUARANTINE: "a call fails, and its fault asks for quarantine",
    Event.ELAPSE: "the time is over",
    Event.SUCCEED: "a call succeeds",
    Event.INCONCLUSIVE: "the trial call ends without a verdict",
    Event.CHECK_PASSED: "a free probe finds that it works",
    Event.ENABLE: "an operator enables it",
    Event.REPLACE: "the key has another secret",
}


def blocks() -> dict[str, str]:
    head = ("event", *(code(state.value) for state in TRANSITIONS))
    return {
        "states": table(
            head, ((words, *(_after(state, event) for state in TRANSITIONS)) for event, words in _EVENTS.items())
        )
    }


def _after(state: KeyState, event: Event) -> str:
    after = TRANSITIONS[state][event]
    return "" if after is state else code(after.value)
