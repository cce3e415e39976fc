"""The report, for people at 80 columns and for programs."""

from typing import Any

import msgspec
import pytest

from chaos.collection import read_mistakes
from chaos.fault_injection import InjectedFault
from chaos.phases import Outage, Overload, Scripts
from chaos.reconciliation import reconcile
from chaos.report import render, render_json
from chaos.run import Outcome
from chaos.schedule import plan
from tests.chaos.books import observed


def outcome(**given: Any) -> Outcome:
    thrown = [InjectedFault(fault, fault.at_s, fault.at_s + fault.seconds) for fault in plan(7, 600)]
    return Outcome(7, observed(**given), ("clock",), thrown, load_s=180.0, total_s=210.0)


def test_people_are_told_what_does_not_hold_with_its_requests_at_80_columns() -> None:
    bad = outcome(lines=[], sums={})
    text = render(bad, *reconcile(bad.observed))
    assert 80 >= max(len(line) for line in text.splitlines())
    assert "billed by the provider and not in the ledger: north: billed 2, in the ledger\n    0 [cb-1-acme-1]" in text
    assert "rolling restart" in text


def test_overloads_and_outages_are_told_at_80_columns() -> None:
    overload = Overload(90.0, 110.0, Scripts(7624, 1_639_160, 12.4, 1.234), 14)
    seen = outcome(overloads=[overload], outages=[Outage(100.5, 100.7)], clock_steps_s=[120.0, 121.0])
    text = render(seen, *reconcile(seen.observed))
    assert 80 >= max(len(line) for line in text.splitlines())
    assert "7624 scripts, 215 commands and 1.63 ms of CPU each, the slowest 1234 ms" in text
    assert "outage of 0.2 s: 1 calls in flight from before it until after it" in text
    assert "without clock" in text


def test_people_are_told_that_all_agrees() -> None:
    good = outcome()
    text = render(good, *reconcile(good.observed))
    assert "No discrepancy." in text
    assert "  north          2 +        0 =         2         0            0     0" in text


def test_programs_are_told_the_same() -> None:
    bad = outcome(lines=[], sums={})
    told = msgspec.json.decode(render_json(bad, *reconcile(bad.observed)))
    assert 7 == told["seed"]
    assert 2 == told["books"]["accounts"]["north"]["billed"]
    assert {
        "what": "billed by the provider and not in the ledger",
        "detail": "north: billed 2, in the ledger 0",
        "request_ids": ["cb-1-acme-1"],
    } in told["discrepancies"]


def test_what_must_not_stand_in_a_log_is_found_in_it() -> None:
    lines = [
        '{"event": "request", "error_code": null, "request_id": "cb-1"}',
        '{"event": "internal_error", "request_id": "cb-2"}',
        '{"event": "request", "error_code": "internal", "request_id": "cb-3"}',
        "Traceback (most recent call last):",
        "",
    ]
    assert [("cb-2", lines[1]), ("cb-3", lines[2]), ("", lines[3])] == list(read_mistakes(lines))


@pytest.mark.parametrize(("kills", "found"), [(0, 2), (1, 1), (2, 0)])
def test_a_sigkill_may_cut_one_line_of_a_log(kills: int, found: int) -> None:
    lines = ['{"event": "request", "error_co', '{"event": "request"}', '{"method": "POST", "ro{"event": "request"}']
    assert found == len(list(read_mistakes(lines, kills)))


def test_no_sigkill_excuses_what_is_no_log_line() -> None:
    assert 1 == len(list(read_mistakes(["Traceback (most recent call last):"], 1)))
