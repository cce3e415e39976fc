import pytest

from gateway.domain.errors import State
from gateway.domain.health import HOLDS, TRANSITIONS, Event

BY_OPERATORS_ALONE = {Event.DISABLE, Event.DRAIN}
OUT = (State.COOLING, State.QUARANTINED)


def test_every_state_is_of_health_or_of_an_operator() -> None:
    assert set(State) == TRANSITIONS.keys() | HOLDS.keys()
    assert {State.READY} == TRANSITIONS.keys() & HOLDS.keys()


@pytest.mark.parametrize("state", TRANSITIONS, ids=lambda state: state.value)
def test_health_says_of_every_event_what_becomes_of_it(state: State) -> None:
    assert set(Event) - BY_OPERATORS_ALONE == TRANSITIONS[state].keys()
    assert set(TRANSITIONS[state].values()) <= TRANSITIONS.keys()


@pytest.mark.parametrize("state", HOLDS, ids=lambda state: state.value)
def test_an_operator_may_do_everything_at_any_time(state: State) -> None:
    assert {Event.DISABLE: State.DISABLED, Event.DRAIN: State.DRAINING, Event.ENABLE: State.READY} == HOLDS[state]


def test_every_event_does_something_somewhere() -> None:
    for event in Event:
        moved = [
            state for table in (TRANSITIONS, HOLDS) for state, row in table.items() if row.get(event, state) != state
        ]
        assert moved or event is Event.INCONCLUSIVE, event


@pytest.mark.parametrize("state", OUT, ids=lambda state: state.value)
def test_what_rests_comes_back_by_a_trial_or_with_another_secret(state: State) -> None:
    to_ready = {event for event, after in TRANSITIONS[state].items() if after is State.READY}
    to_trial = {event for event, after in TRANSITIONS[state].items() if after is State.HALF_OPEN}
    assert {Event.REPLACE} == to_ready
    assert {Event.ELAPSE, Event.CHECK_PASSED, Event.ENABLE} == to_trial


def test_only_a_success_or_another_secret_ends_a_trial_well() -> None:
    row = TRANSITIONS[State.HALF_OPEN]
    assert {Event.SUCCEED, Event.REPLACE} == {event for event, after in row.items() if after is State.READY}


def test_faults_alone_put_to_rest() -> None:
    for before, row in TRANSITIONS.items():
        for event, after in row.items():
            assert (event in {Event.COOL, Event.QUARANTINE}) or after not in OUT or after is before
