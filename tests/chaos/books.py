"""Books that agree, and what a test changes of them."""

from dataclasses import replace
from typing import Any

import msgspec

from chaos.ledger_records import Counters, Line, Share, Sums
from chaos.observations import Asked, Batch, Bill, Call, Caps, Ending, LimitPeriod, Observations, Process, Recovery
from chaos.reconciliation import reconcile

ID = "cb-1-acme-1"
OTHER = "cb-1-acme-2"
MINIMAX_PATH = "/v1/image_generation"


def asked(name: str = ID, **given: Any) -> Asked:
    """A client that asked for two images and got them."""
    usual = Asked(name, "acme", "key", "openai", 2, 100.0, 101.0, Ending.ANSWERED, 200)
    usual.pictures, usual.is_success, usual.gateway, usual.gateways = 2, True, 0, frozenset({0})
    return replace(usual, **given)


def call(name: str = ID, **given: Any) -> Call:
    """The provider made both."""
    usual = Call(
        100.1, "north", "north-1", MINIMAX_PATH, "image-01", f"{name} a cat", "words", 2, 2, 0, 0, 0, (), 100.9
    )
    return msgspec.structs.replace(usual, **given)


def line(name: str = ID, **given: Any) -> Line:
    """The ledger has both."""
    usual = Line(name, "", name, "acme", "key", "image-01", 2, 2, 0, 0, 0, "0.007", "delivered", (share(),))
    return msgspec.structs.replace(usual, **given)


def share(**given: Any) -> Share:
    return msgspec.structs.replace(Share("minimax", "north", 2, 0, 0, 0), **given)


def process(**given: Any) -> Process:
    return replace(Process("gateway 0", 0, memory=tuple((second, 80_000_000) for second in range(60))), **given)


def observed(**given: Any) -> Observations:
    """One request of two images, in every book."""
    found = Observations(
        asked=[asked()],
        calls=[call()],
        invoice={"north": Bill(1, 2, 0, {}, 1, 1)},
        lines=[line()],
        sums={"acme": Sums(delivered=2, usd_micros=7000, requests=1)},
        days={"acme": Counters(2, 7000)},
        months={"acme": Counters(2, 7000)},
        limit_periods={"acme": [LimitPeriod(Caps(), 0.0, 1e12)]},
        processes=[process()],
        recovery=[Recovery("place 0", 3.0, 3.0)],
    )
    return replace(found, **given)


def found(**given: Any) -> set[str]:
    """Returns the discrepancies of records that differ from the good ones in the given fields."""
    return {one.what for one in reconcile(observed(**given))[1]}


def unconfirmed(**given: Any) -> dict[str, Any]:
    """Both images are in the ledger as unconfirmed."""
    parts = (share(delivered=0, unconfirmed=2),)
    return {
        "lines": [line(delivered=0, unconfirmed=2, outcome="unconfirmed", calls=parts)],
        "sums": {"acme": Sums(unconfirmed=2, usd_micros=7000, requests=1)},
        **given,
    }


def broken(killed_s: float | None) -> dict[str, Any]:
    """Its client lost the connection, and nothing ever reached the provider."""
    lost = asked(ending=Ending.BROKEN, status=0, pictures=0, is_success=False)
    return unconfirmed(asked=[lost], calls=[], invoice={}, processes=[process(killed_s=killed_s)])


def batched(**given: Any) -> dict[str, Any]:
    """A batch of two lines: one was delivered, and one was refused for its own fault."""
    usual = Batch("acme-0", "acme", (ID, OTHER), "batch_1", "completed", counts=(2, 1, 1), output=[ID], errors=[OTHER])
    refused = asked(OTHER, batch="batch_1", status=400, pictures=0, is_success=False, may_have_cost=False)
    return {
        "asked": [asked(batch="batch_1"), refused],
        "lines": [line(batch_id="batch_1", custom_id=ID)],
        "batches": [replace(usual, **given)],
        "batch_sums": {"": Sums(requests=3), "batch_1": Sums(delivered=2, usd_micros=7000, requests=1)},
    }


def two(first_s: float, second_s: float) -> dict[str, Any]:
    """Two requests of two images each, one after the other."""
    both = [(ID, first_s), (OTHER, second_s)]
    return {
        "asked": [asked(name, sent_s=at_s, ended_s=at_s + 1) for name, at_s in both],
        "calls": [call(name, at=at_s + 0.1, ended=at_s + 0.9) for name, at_s in both],
        "invoice": {"north": Bill(2, 4, 0, {}, 1, 2)},
        "lines": [line(name) for name, _ in both],
        "sums": {"acme": Sums(delivered=4, usd_micros=14000, requests=2)},
        "days": {"acme": Counters(4, 14000)},
        "months": {"acme": Counters(4, 14000)},
    }
