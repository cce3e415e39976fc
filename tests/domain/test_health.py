import pytest

from gateway.domain.errors import KeyState
from gateway.domain.health import HOLDS, TRANSITIONS, Event

BY_OPERATORS_ALONE = {Event.DISABLE, Event.DRAIN}
OUT = (KeyState.COOLING, KeyState.QUARANTINED)


def test_every_state_is_of_health_or_of_an_operator() -> None:
    assert set(KeyState) == TRANSITIONS.keys() | HOLDS.keys()
    assert {KeyState.READY} == TRANSITIONS.keys() & HOLDS.keys()


@pytest.mark.parametrize("state", TRANSITIONS, ids=lambda state: state.value)
def test_health_says_of_every_event_what_becomes_of_it(state: KeyState) -> None:
    assert set(Event) - BY_OPERATORS_ALONE == TRANSITIONS[state].keys()
    assert set(TRANSITIONS[state].values()) <= TRANSITIONS.keys()


@pytest.mark.parametrize("state", HOLDS, ids=lambda state: state.value)
def test_an_operator_may_do_everything_at_any_time(state: KeyState) -> None:
    assert {Event.DISABLE: KeyState.DISABLED, Event.DRAIN: KeyState.DRAINING, Event.ENABLE: KeyState.READY} == HOLDS[
        state
    ]


def test_every_event_does_something_somewhere() -> None:
    for event in Event:
        moved = [
            state for table in (TRANSITIONS, HOLDS) for state, row in table.items() if row.get(event, state) != state
        ]
        assert moved or event is Event.INCONCLUSIVE, event


@pytest.mark.parametrize("state", OUT, ids=lambda state: state.value)
def test_what_rests_comes_back_by_a_trial_or_with_another_secret(state: KeyState) -> None:
    to_ready = {event for event, after in TRANSITIONS[state].items() if after is KeyState.READY}
    to_trial = {event for event, after in TRANSITIONS[state].items() if after is KeyState.HALF_OPEN}
    assert {Event.REPLACE} == to_ready
    assert {Event.ELAPSE, Event.CHECK_PASSED, Event.ENABLE} == to_trial


def test_only_a_success_or_another_secret_ends_a_trial_well() -> None:
    row = TRANSITIONS[KeyState.HALF_OPEN]
    assert {Event.SUCCEED, Event.REPLACE} == {event for event, after in row.items() if after is KeyState.READY}


def test_faults_alone_put_to_rest() -> None:
    for before, row in TRANSITIONS.items():
        for event, after in row.items():
            assert (event in {Event.COOL, Event.QUARANTINE}) or after not in OUT or after is before
