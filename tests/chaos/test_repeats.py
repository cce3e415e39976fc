"""Requests that their clients repeat: what the reconciliation allows, and each falsehood that it finds."""

from typing import Any

import pytest

from chaos.ledger_records import Counters, Sums
from chaos.observations import Asked, Bill, Ending
from chaos.repeats import conclude
from tests.chaos.books import ID, asked, call, found, line, process, share


def attempt(**given: Any) -> Asked:
    return asked(**({"digest": "cat"} | given))


def left(**given: Any) -> Asked:
    return attempt(ending=Ending.LEFT, status=0, pictures=0, is_success=False, **given)


def failed(code: str, **given: Any) -> Asked:
    return attempt(sent_s=102.0, ended_s=103.0, status=409, code=code, pictures=0, is_success=False, **given)


def again(**given: Any) -> Asked:
    return attempt(**({"sent_s": 102.0, "ended_s": 103.0, "is_replayed": True} | given))


def repeated(*attempts: Asked, is_keyed: bool = True) -> list[Asked]:
    """Returns one request with these attempts."""
    whole = asked(is_keyed=is_keyed, attempts=list(attempts))
    conclude(whole)
    return [whole]


BOUGHT_TWICE: dict[str, Any] = {
    "calls": [call(), call(at=102.0, ended=102.5)],
    "invoice": {"north": Bill(2, 4, 0, {}, 1, 2)},
    "lines": [line(), line()],
    "sums": {"acme": Sums(delivered=4, usd_micros=14000, requests=2)},
    "days": {"acme": Counters(4, 14000)},
    "months": {"acme": Counters(4, 14000)},
}
REFUSED = line(delivered=0, usd="0", outcome="refused", calls=(share(delivered=0),))


@pytest.mark.parametrize(
    "given",
    [
        {"asked": repeated(attempt(), again())},
        {"asked": repeated(left(), again())},
        {"asked": repeated(left(), left(), left())},
        {"asked": repeated(attempt(), failed("rate_limit_exceeded", may_have_cost=False))},
        {
            "asked": repeated(failed("rate_limit_exceeded", may_have_cost=False), again()),
            "lines": [line(), REFUSED],
            "sums": {"acme": Sums(delivered=2, usd_micros=7000, requests=2)},
        },
        {"asked": repeated(left(), again(digest="dog"), is_keyed=False), **BOUGHT_TWICE},
        {
            "asked": repeated(attempt(ending=Ending.BROKEN, is_success=False), failed("result_not_kept")),
            "processes": [process(killed_s=101.0)],
        },
    ],
)
def test_books_with_repeated_requests_are_green(given: dict[str, Any]) -> None:
    assert set() == found(**given)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"asked": repeated(attempt(), again()), **BOUGHT_TWICE}, "bought twice"),
        ({"asked": repeated(attempt(), again()), **BOUGHT_TWICE}, "in the ledger twice"),
        (
            {"asked": repeated(left(), again(), is_keyed=False), **BOUGHT_TWICE, "lines": [line()] * 3},
            "in the ledger twice",
        ),
        ({"asked": repeated(attempt(), again(digest="dog"))}, "one key, and different images"),
        ({"asked": repeated(attempt(), failed("upstream_error"))}, "a replay that is not its first response"),
        ({"asked": repeated(left(), failed("result_not_kept"))}, "a replay that is not its first response"),
        (
            {"asked": repeated(attempt(ending=Ending.BROKEN, is_success=False), again())},
            "a connection broke, and nobody was killed",
        ),
        ({"asked": repeated(attempt(ending=Ending.LATE, is_success=False))}, "no answer"),
    ],
)
def test_each_falsehood_is_found(given: dict[str, Any], what: str) -> None:
    assert what in found(**given)


def test_a_client_has_what_its_best_attempt_brought() -> None:
    [whole] = repeated(left(), failed("upstream_error"), again(pictures=1))
    assert (ID, True, 1, 103.0) == (whole.id, whole.is_success, whole.pictures, whole.ended_s)
    [whole] = repeated(failed("rate_limit_exceeded", may_have_cost=False), left())
    assert (Ending.LEFT, False) == (whole.ending, whole.is_success)
