"""Phases with stricter or looser assertions: overloads, outages, clock steps, worker kills."""

from dataclasses import replace
from typing import Any

import pytest

from chaos.observations import Caps, LimitPeriod
from chaos.phases import Overload, Scripts
from tests.chaos.books import asked, broken, call, found, process, two


@pytest.mark.parametrize(
    ("step_s", "what"), [(99.0, {"a tenant over its rate"}), (103.0, set()), (110.0, {"a tenant over its rate"})]
)
def test_a_minute_of_a_tenant_ends_where_the_clock_is_stepped(step_s: float, what: set[str]) -> None:
    limit_periods = {"acme": [LimitPeriod(Caps(requests_per_minute=1), 0.0, 1e12)]}
    assert what == found(**two(100.0, 105.0), limit_periods=limit_periods, clock_steps_s=[step_s])


@pytest.mark.parametrize(
    ("step_s", "what"),
    [(99.0, {"a tenant over its limit"}), (100.4, set()), (100.8, {"a tenant over its limit"})],
)
def test_a_request_is_surely_counted_until_the_clock_is_stepped(step_s: float, what: set[str]) -> None:
    """Two at once from 100.6 s on."""
    limit_periods = {"acme": [LimitPeriod(Caps(concurrency=1), 0.0, 1e12)]}
    assert what == found(**two(100.0, 100.5), limit_periods=limit_periods, clock_steps_s=[step_s])


@pytest.mark.parametrize(
    ("code", "steps_s", "what"),
    [
        (1002, [], {"an account over its rate"}),
        (1039, [], {"an account over its rate"}),
        (1041, [], {"an account over its concurrency"}),
        (1002, [60.0], set()),
        (1002, [30.0], {"an account over its rate"}),
        (1002, [110.0], {"an account over its rate"}),
        (1041, [100.0], {"an account over its concurrency"}),
    ],
)
def test_a_refusal_of_the_provider_is_explained_by_a_step_of_the_clock_if_it_is_of_a_minute(
    code: int, steps_s: list[float], what: set[str]
) -> None:
    refused = call(images=0, code=code, rule="limits", ended=100.2)
    again = call(at=100.3)
    assert what == found(calls=[refused, again], clock_steps_s=steps_s)


def crowded(*moments_s: float, images: int = 9) -> dict[str, Any]:
    """Calls at one account of the crowd, all free."""
    ids = [f"cb-1-crowd00-{number}" for number, _ in enumerate(moments_s)]
    return {
        "asked": [asked(), *(asked(name, asked=images, is_success=False, status=502, code="x") for name in ids)],
        "calls": [
            call(),
            *(
                call(name, at=at_s, ended=at_s + 0.1, account="crowd00", asked=images, images=0, withheld=0, code=1000)
                for name, at_s in zip(ids, moments_s, strict=True)
            ),
        ],
    }


def test_what_the_accounts_of_the_crowd_may_do_in_a_minute_is_computed() -> None:
    over = {"an account over its rate"}
    assert set() == found(**crowded(*range(100, 106)))
    assert over == found(**crowded(*range(100, 107)))
    assert over == found(**crowded(*range(100, 111), images=1))
    assert set() == found(**crowded(*range(100, 107)), clock_steps_s=[103.0])
    assert set() == found(**crowded(*range(100, 106), 161))


def test_an_overload_takes_nothing_down() -> None:
    calm = Scripts(1000, 20_000, 1.0, 0.01)
    unavailable = asked(status=503, code="gateway_unavailable", pictures=0, is_success=False, may_have_cost=False)
    books = {"asked": [unavailable], "calls": [], "invoice": {}, "lines": [], "sums": {}, "days": {}, "months": {}}
    assert set() == found(**books, overloads=[Overload(100.5, 110.0, calm, 0)])
    assert {"gateway_unavailable, and Redis was well"} == found(**books, overloads=[Overload(99.0, 110.0, calm, 0)])
    assert {"a circuit breaker for Redis opened, and Redis was well"} == found(overloads=[Overload(0, 10, calm, 1)])
    assert set() == found(overloads=[Overload(0, 10, calm, 1, lag_s=0.5)])
    busy = replace(calm, commands=200_000)
    assert {"the work of scripts grows with the queue"} == found(overloads=[Overload(0, 10, busy, 0)])


def test_the_kill_of_a_worker_explains_what_a_kill_explains() -> None:
    given = broken(killed_s=None)
    assert set() == found(**given | {"processes": [process(worker_kills_s=(50.0, 100.5))]})
    assert "a connection broke, and nobody was killed" in found(
        **given | {"processes": [process(worker_kills_s=(50.0,))]}
    )
