"""Batches in the reconciliation: lines that end once are green, and each single falsehood turns them red."""

from typing import Any

import pytest

from chaos.ledger_records import Sums
from tests.chaos.books import ID, OTHER, asked, batched, call, found, line, process

LINE = line(batch_id="batch_1", custom_id=ID)


def test_a_batch_whose_lines_ended_once_is_green() -> None:
    assert set() == found(**batched())
    assert set() == found(**batched(status="cancelled", is_cancelled=True))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"output": []}, "a line of a batch did not end once"),
        ({"output": [ID, ID]}, "a line of a batch did not end once"),
        ({"errors": [ID, OTHER]}, "a line of a batch did not end once"),
        ({"errors": [OTHER, "another"]}, "a line of a batch did not end once"),
        ({"counts": (2, 2, 0)}, "a batch's counts are not its files"),
        ({"status": "in_progress"}, "a batch did not end well"),
        ({"status": "cancelled"}, "a batch did not end well"),
        ({"id": "", "status": ""}, "a batch did not end well"),
        ({"faults": ["an image of 9 bytes is none of its prompt"]}, "a batch has a fault"),
        ({"custom_ids": (OTHER,), "output": [], "counts": (1, 0, 1)}, "a record of another batch's line"),
    ],
)
def test_a_line_that_is_lost_or_ends_twice_turns_it_red(given: dict[str, Any], what: str) -> None:
    assert what in found(**batched(**given))


def test_usage_by_tag_user_and_upstream_is_compared_with_the_records() -> None:
    tagged = line(tags={"team": "ads"}, user="u")
    sums = Sums(delivered=2, usd_micros=7000, requests=1)
    good = {"tag": {"team=ads": sums}, "user": {"u": sums}, "upstream": {"minimax": sums}}
    assert set() == found(lines=[tagged], split_sums=good)
    for by, value in (("tag", "team=ads"), ("user", "u"), ("upstream", "minimax")):
        wrong = {value: Sums(delivered=2, usd_micros=6999, requests=1)}
        for reported in (wrong, {}, {"": sums}):
            assert {f"usage by {by} is not its records"} == found(lines=[tagged], split_sums=good | {by: reported})


@pytest.mark.parametrize("sums", [{}, {"batch_1": Sums(delivered=1, usd_micros=7000, requests=1)}])
def test_usage_by_batch_is_compared_with_the_records(sums: dict[str, Sums]) -> None:
    assert {"usage by batch is not its records"} == found(**batched() | {"batch_sums": sums})


def test_a_line_is_bought_once() -> None:
    assert "bought twice" in found(**batched() | {"calls": [call(), call(at=102.0)]})
    assert "in the ledger twice" in found(**batched() | {"lines": [LINE, LINE]})


def test_attempts_of_a_line_that_cost_nothing_have_records() -> None:
    free = line(delivered=0, usd="0", outcome="refused", calls=(), batch_id="batch_1", custom_id=ID)
    sums = Sums(delivered=2, usd_micros=7000, requests=2)
    assert set() == found(
        **batched() | {"lines": [LINE, free], "sums": {"acme": sums}, "batch_sums": {"batch_1": sums}}
    )


def test_a_line_that_was_delivered_fails_only_if_a_gateway_was_killed_before_its_end() -> None:
    def failed(code: str, killed_s: float) -> set[str]:
        given = batched(output=[], errors=[ID, OTHER], counts=(2, 0, 2))
        [first, second] = given["asked"]
        lost = asked(batch=first.batch, status=504, code=code, pictures=0, is_success=False)
        return found(**given | {"asked": [lost, second], "processes": [process(killed_s=killed_s)]})

    what = "delivered, says the ledger, and the client got an error"
    assert set() == failed("upstream_timeout", 100.95)
    assert {what} == failed("upstream_timeout", 99.0) == failed("upstream_error", 100.95)
