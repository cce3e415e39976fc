"""The auditing arithmetic: books that agree are green, and each single falsehood turns them red."""

from typing import Any

import pytest

from chaos.ledger_records import Counters, Sums
from chaos.observations import Bill, Caps, Ending, LimitPeriod, Recovery
from chaos.reconciliation import reconcile
from chaos.reconciliation.leftovers import GROWTH_BYTES
from chaos.reconciliation.purchases import most_at_stake
from tests.chaos.books import (
    MINIMAX_PATH,
    asked,
    broken,
    call,
    found,
    line,
    observed,
    process,
    share,
    two,
    unconfirmed,
)


def test_books_that_agree_are_green_and_are_told_to_the_micro_dollar() -> None:
    books, discrepancies = reconcile(observed())
    row = books.rows["north"]
    assert [] == discrepancies
    assert (2, 2, 0) == (row.billed, row.ledger, row.unbilled)
    assert (7000, 7000, 7000) == (row.billed_usd_micros, row.ledger_usd_micros, books.sums_usd_micros)


def test_an_order_that_never_arrived_is_explained_by_a_kill_and_by_nothing_else() -> None:
    killed, alive = reconcile(observed(**broken(killed_s=100.5))), reconcile(observed(**broken(killed_s=None)))
    assert (2, []) == (killed[0].total.unbilled, killed[1])
    assert {
        "in the ledger and not billed, without a cause",
        "a connection broke, and nobody was killed",
        "images differ in total",
        "images differ of account north",
        "micro-dollars differ in total",
        "micro-dollars differ of account north",
    } == {one.what for one in alive[1]}


def test_a_kill_before_or_after_the_request_explains_nothing() -> None:
    for killed_s in (99.0, 130.0):
        assert "in the ledger and not billed, without a cause" in found(
            **unconfirmed(calls=[], invoice={}, asked=[asked(is_success=False)], processes=[process(killed_s=killed_s)])
        )


def test_garbage_that_cost_nothing_is_explained() -> None:
    garbage = call(images=0, faults=("garbage",))
    refused = asked(status=502, code="upstream_error", pictures=0, is_success=False)
    assert set() == found(**unconfirmed(calls=[garbage], invoice={}, asked=[refused]))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"lines": [], "sums": {}}, "billed by the provider and not in the ledger"),
        ({"lines": [line(), line()]}, "in the ledger twice"),
        ({"lines": [line(usd="0.0035")]}, "a record's money is not its images' price"),
        ({"lines": [line(calls=(share(account="south"),))]}, "billed by the provider and not in the ledger"),
        ({"lines": [line(calls=(share(delivered=3),))]}, "the ledger says more than was made"),
        ({"invoice": {"north": Bill(1, 3, 0, {}, 1, 1)}}, "the provider's journal is not its invoice"),
        ({"sums": {"acme": Sums(delivered=3, usd_micros=7000, requests=1)}}, "a tenant's sums are not its records"),
        ({"sums": {"acme": Sums(delivered=2, usd_micros=7001, requests=1)}}, "a tenant's sums are not its records"),
        ({"days": {"acme": Counters(1, 7000)}}, "a tenant's counters are not its records"),
        ({"months": {"acme": Counters(2, 3500)}}, "a tenant's counters are not its records"),
        ({"verified": ["a difference"]}, "imagegate usage verify"),
        ({"calls": [call(), call(at=102.0)]}, "bought twice"),
        ({"calls": [call(), call("cb-1-nobody-9", images=0)]}, "bought without a request"),
        ({"calls": [call(), call(rule="limits", code=1002, images=0)]}, "an account over its rate"),
        ({"calls": [call(), call(rule="limits", code=1041, images=0)]}, "an account over its concurrency"),
        ({"calls": [call(), call(rule="fields", code=2013, images=0)]}, "the provider did not understand a call"),
        ({"revoked": {"key": 99.0}}, "bought with a revoked key"),
        ({"asked": [asked(ending=Ending.LATE)]}, "no answer"),
        ({"asked": [asked(ending=Ending.BROKEN)]}, "a connection broke, and nobody was killed"),
        ({"asked": [asked(status=500, is_success=False)]}, "an answer that must not be"),
        ({"asked": [asked(pictures=1)]}, "the client's pictures are not the ledger's"),
        ({"asked": [asked(is_success=False)]}, "delivered, says the ledger, and the client got an error"),
        ({"leftovers": ["ig3:{acme}:open: 1 reservations left"]}, "left in Redis"),
        ({"mistakes": [("cb-1-acme-1", "internal_error")]}, "a mistake in a log"),
        ({"recovery": [Recovery("place 0", 30.1, 30.1)]}, "did not serve again in time"),
        ({"recovery": [Recovery("place 0", 3.0, 93.1)]}, "did not serve again in time"),
        ({"recovery": [Recovery("place 0", 3.0)]}, "did not serve again in time"),
        ({"processes": [process(died=True)]}, "a process ended by itself"),
        ({"processes": [process(was_told_to_end=True, exit_code=1)]}, "a process did not end well"),
        ({"processes": [process(was_told_to_end=True)]}, "a process did not end well"),
    ],
)
def test_one_falsehood_turns_it_red(given: dict[str, Any], what: str) -> None:
    assert what in found(**given)


def test_an_answer_that_says_it_was_free_must_be() -> None:
    free = asked(status=429, code="rate_limit_exceeded", pictures=0, is_success=False, may_have_cost=False)
    assert "an answer that says it was free, and was not" in found(**unconfirmed(asked=[free]))
    garbage = call(images=0, faults=("garbage",))
    assert {"an answer that says it was free, and was charged"} == found(
        **unconfirmed(asked=[free], calls=[garbage], invoice={})
    )


def test_a_refusal_of_a_gateway_that_was_killed_while_redis_was_away_may_be_unconfirmed() -> None:
    free = asked(status=200, code="1026", pictures=0, is_success=False, may_have_cost=False)
    refused = unconfirmed(asked=[free], calls=[call(images=0)], invoice={})
    what = {"an answer that says it was free, and was charged", "in the ledger and not billed, without a cause"}
    assert what <= found(**refused)
    assert set() == found(**refused, processes=[process(killed_s=101.5)])
    for killed_s in (99.0, 130.0):
        assert what <= found(**refused, processes=[process(killed_s=killed_s)])


def test_pictures_of_a_gateway_that_was_killed_while_redis_was_away_may_be_unconfirmed() -> None:
    what = "the client's pictures are not the ledger's"
    assert {what} == found(**unconfirmed())
    assert set() == found(**unconfirmed(processes=[process(killed_s=101.5)]))
    for killed_s in (99.0, 130.0):
        assert {what} == found(**unconfirmed(processes=[process(killed_s=killed_s)]))


def test_memory_is_judged_from_the_warm_beginning_to_the_end() -> None:
    def growing(by: int) -> tuple[tuple[float, int], ...]:
        return tuple((second, 80_000_000 + (by if second > 40 else 0)) for second in range(60))

    assert "memory grows" in found(processes=[process(memory=growing(GROWTH_BYTES + 1))])
    assert set() == found(processes=[process(memory=growing(GROWTH_BYTES))])


def test_what_is_clearly_free_may_be_sent_again_and_silence_may_not() -> None:
    refused = call(images=0, code=1002, rule="words", ended=100.5)
    hung = call(images=0, faults=("hang",), ended=100.5)
    again = call(at=100.6)
    assert [2, 4, 4] == [
        most_at_stake([refused, again]),
        most_at_stake([hung, again]),
        most_at_stake([refused, call(at=100.4)]),
    ]


@pytest.mark.parametrize("path", [MINIMAX_PATH, "/minimaxi/v1/image_generation"])
def test_a_time_out_of_302ai_leaves_the_cost_open_on_either_path(path: str) -> None:
    assert call(images=0, code=-1024, path=path).is_unclear


@pytest.mark.parametrize(
    ("caps", "gap_s", "what"),
    [
        (Caps(requests_per_minute=1), 59.8, {"a tenant over its rate"}),
        (Caps(requests_per_minute=1), 60.0, set()),
        (Caps(requests_per_minute=2), 1.0, set()),
        (Caps(images_per_minute=3), 59.8, {"a tenant over its rate"}),
        (Caps(images_per_minute=3), 60.0, set()),
        (Caps(images_per_minute=4), 1.0, set()),
        (Caps(concurrency=1), 0.5, {"a tenant over its limit"}),
        (Caps(concurrency=1), 0.9, set()),
        (Caps(concurrency=2), 0.5, set()),
        (Caps(images_per_day=3), 5.0, {"a tenant over its quota"}),
        (Caps(images_per_month=3), 5.0, {"a tenant over its quota"}),
        (Caps(usd_micros_per_month=13_999), 5.0, {"a tenant over its quota"}),
        (Caps(images_per_day=4, images_per_month=4, usd_micros_per_month=14_000), 5.0, set()),
    ],
)
def test_a_limit_is_held_in_every_window(caps: Caps, gap_s: float, what: set[str]) -> None:
    limit_periods = {"acme": [LimitPeriod(caps, 0.0, 1e12)]}
    assert what == found(**two(100.0, 100.0 + gap_s), limit_periods=limit_periods)


@pytest.mark.parametrize(("until_s", "what"), [(98.0, {"a tenant over its rate"}), (99.0, set())])
def test_a_limit_may_hold_a_moment_longer_than_its_change(until_s: float, what: set[str]) -> None:
    """Two requests from 100 s on, with a limit of two that was lowered to one before: it takes a second to be so."""
    high, low = (
        LimitPeriod(Caps(requests_per_minute=2), 0.0, until_s),
        LimitPeriod(Caps(requests_per_minute=1), 97.0, 1e12),
    )
    assert what == found(**two(100.0, 102.0), limit_periods={"acme": [high, low]})


@pytest.mark.parametrize(("new_day_s", "what"), [(None, {"a tenant over its quota"}), (102.5, set())])
def test_a_quota_begins_anew_with_its_day(new_day_s: float | None, what: set[str]) -> None:
    limit_periods = {"acme": [LimitPeriod(Caps(images_per_day=2), 0.0, 1e12)]}
    assert what == found(**two(100.0, 105.0), limit_periods=limit_periods, new_day_s=new_day_s)
