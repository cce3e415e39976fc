from collections.abc import Callable

import pytest

from gateway.domain.billing import ImageOutcomes, RequestOutcome, usd
from gateway.domain.errors import ERROR_SPECS, ErrorCode, Outcome


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (3_500, "0.0035"),
        (10_000, "0.01"),
        (500_000, "0.50"),
        (50_000_000, "50.00"),
        (1_234_567_890, "1234.56789"),
        (-3_500, "-0.0035"),
    ],
)
def test_money_is_told_exactly(micros: int, text: str) -> None:
    assert text == usd(micros)


def test_an_untouched_tally_was_not_sent() -> None:
    tally = ImageOutcomes()
    tally.close()
    assert (RequestOutcome.NOT_SENT, False) == (tally.settlement, tally.reached_upstream)


def test_what_is_open_at_the_end_is_unconfirmed() -> None:
    tally = ImageOutcomes()
    tally.open("sim", "main", 3)
    tally.close()
    assert (RequestOutcome.UNCONFIRMED, True, 3) == (
        tally.settlement,
        tally.reached_upstream,
        tally.total("unconfirmed"),
    )


@pytest.mark.parametrize(
    "error_code", [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].outcome is not Outcome.DELIVERED]
)
def test_every_fault_of_a_call_is_free_or_withheld_or_unconfirmed(error_code: ErrorCode) -> None:
    tally, row = ImageOutcomes(), ERROR_SPECS[error_code]
    is_free = tally.open("sim", "main", 2).fail(2, row)
    tally.close()
    assert is_free == (tally.total("withheld") + tally.total("unconfirmed") == 0)
    assert (row.outcome is not Outcome.NOT_SENT) == tally.reached_upstream
    assert (2 if row.outcome is Outcome.UNKNOWN else 0) == tally.total("unconfirmed")
    assert (2 if error_code is ErrorCode.CONTENT_MODERATED else 0) == tally.total("withheld")
    assert 0 == tally.total("delivered") == tally.total("lost")


ENDS: dict[RequestOutcome, Callable[[ImageOutcomes], object]] = {
    RequestOutcome.DELIVERED: lambda tally: tally.open("a", "b", 3).deliver(3, 1, 1),
    RequestOutcome.UNCONFIRMED: lambda tally: tally.open("a", "b", 1).fail(1, ERROR_SPECS[ErrorCode.READ_TIMEOUT]),
    RequestOutcome.LOST: lambda tally: tally.open("a", "b", 2).deliver(2, 0, 1),
    RequestOutcome.WITHHELD: lambda tally: tally.open("a", "b", 1).fail(1, ERROR_SPECS[ErrorCode.CONTENT_MODERATED]),
    RequestOutcome.REFUSED: lambda tally: tally.open("a", "b", 1).fail(1, ERROR_SPECS[ErrorCode.CONTENT_INPUT]),
    RequestOutcome.NOT_SENT: lambda tally: tally.open("a", "b", 1).fail(1, ERROR_SPECS[ErrorCode.CONNECT_FAILED]),
}


@pytest.mark.parametrize("heavier", list(ENDS))
@pytest.mark.parametrize("lighter", list(ENDS))
def test_a_request_is_named_after_the_weightiest_thing_that_became_of_it(
    heavier: RequestOutcome, lighter: RequestOutcome
) -> None:
    order = list(ENDS)
    tally = ImageOutcomes()
    for end in (lighter, heavier):
        ENDS[end](tally)
    tally.close()
    assert min(heavier, lighter, key=order.index) is tally.settlement


def test_shares_are_kept_by_account() -> None:
    tally = ImageOutcomes()
    tally.open("sim", "a", 2).deliver(2, 2, 0)
    tally.open("sim", "b", 1).fail(1, ERROR_SPECS[ErrorCode.READ_TIMEOUT])
    assert {("sim", "a"): (2, 0), ("sim", "b"): (0, 1)} == {
        name: (share.delivered, share.unconfirmed) for name, share in tally.shares.items()
    }
