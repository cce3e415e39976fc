"""Settlements whose charge follows from the answers: every book has the same, and none has more than was reserved."""

import asyncio
import math
import random
import time
from datetime import date
from fractions import Fraction

import msgspec
import pytest

from gateway.domain.billing import AdmissionRequest, BillingRule
from gateway.domain.pricing import Basis, Bill, MadeImages, Offer, PerImage, PerToken, Price
from gateway.domain.usage import GroupBy, LedgerEntry, UsageFilter, UsageReport
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_record
from gateway.metering.reservations import ReservationOutcome
from gateway.metering.verification import LedgerVerifier
from gateway.redis import Client
from tests.support.admissions import connected, ledger
from tests.support.admitting import admitting, put_tenant

pytestmark = pytest.mark.anyio

EVER = UsageFilter(date(2020, 1, 1), date(2100, 1, 1))
PRICES = (Price(0, PerImage(1)), Price(1, PerToken(1_000_000, 10_000_000, 100, 1_000)))
RESERVED = 10_100
"""Micro-dollars of an image and its call, at the second price."""


def order(images: int) -> AdmissionRequest:
    return AdmissionRequest("req_1", "image-01", images, (Offer(PRICES, MadeImages(images, calls=images)),))


async def records(redis: Client) -> list[LedgerEntry]:
    return [read_record("acme", fields) for _, fields in await ledger(redis)]


async def assert_books_agree(redis: Client, charged: int) -> None:
    """The counters, the records, the sums and those by upstream have the same charge."""
    books, verifier = Ledger(redis), LedgerVerifier(Ledger(redis), 400, time.time)
    usage = await admitting(redis).usage("acme")
    found, _ = await verifier.verify(EVER)
    by_upstream = UsageReport((GroupBy.UPSTREAM,), 10)
    await books.fill(by_upstream, EVER)
    assert usage is not None
    assert [] == found.differences
    assert charged == usage.usd_micros_this_month == by_upstream.total.usd_micros
    assert charged == sum(entry.amounts.usd_micros for entry in await records(redis))
    assert charged == sum(amounts.usd_micros for _, amounts in by_upstream.rows())


async def test_the_charges_of_a_request_are_added_and_rounded_once(redis_url: str) -> None:
    third = Fraction(1000, 3)
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admission.admit(caller, order(5)) as reservation:
            assert 1 == reservation.price_since_s
            for upstream, bill in (("a", Bill(third, 7)), ("b", Bill(third)), ("b", Bill(third, 9))):
                (await reservation.mark_sent(upstream, "main", 1)).share.deliver(1, 1, 0, bill)
            (await reservation.mark_sent("c", "main", 1)).share.deliver(1, 1, 0, Bill(RESERVED, 8, Basis.RESERVATION))
        [entry] = await records(redis)
        assert 1000 + RESERVED == entry.amounts.usd_micros == reservation.charged_usd_micros
        assert (Basis.RESERVATION, RESERVED) == (entry.basis, entry.price_usd_micros)
        assert {"a": (334, 7), "b": (666, None), "c": (None, 8)} == {
            upstream: (share.charge, share.cost) for (upstream, _), share in entry.calls.items()
        }
        assert entry.cost_usd_micros is None
        await assert_books_agree(redis, 1000 + RESERVED)


async def test_an_unknown_outcome_costs_its_share_of_the_reservation_beside_what_was_answered(redis_url: str) -> None:
    """Together never more than was reserved."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis, rule=BillingRule(charges_withheld=True)), await put_tenant(redis)
        for charge, expected in ((500, 500 + 2 * RESERVED), (2 * RESERVED, 3 * RESERVED)):
            async with admission.admit(caller, order(3)) as reservation:
                (await reservation.mark_sent("a", "main", 2)).share.deliver(2, 1, 1, Bill(charge, 1))
                await reservation.mark_sent("a", "main", 1)
            assert expected == reservation.charged_usd_micros
        await assert_books_agree(redis, 500 + 5 * RESERVED)


async def test_a_process_that_dies_before_the_settlement_is_charged_by_its_journal_or_as_reserved(
    redis_url: str,
) -> None:
    async with connected(redis_url) as redis:
        dying, other, caller = admitting(redis, lease_s=0.001), admitting(redis), await put_tenant(redis)
        lost, kept = dying.admit(caller, order(2)), dying.admit(caller, order(2))
        for request in (lost, kept):
            reservation = await request.__aenter__()
            (await reservation.mark_sent("a", "main", 2)).share.deliver(2, 2, 0, Bill(777, 5))
            await asyncio.sleep(0.01)
            await other.settle_expired("acme", reservation.id)
        await assert_books_agree(redis, 4 * RESERVED)
        reservation.tally.close()
        journaled = ReservationOutcome.of(reservation, BillingRule())
        for _ in range(2):
            await other.replay(msgspec.Raw(msgspec.json.encode(journaled)))
        await assert_books_agree(redis, 2 * RESERVED + 777)
        assert 5 in [entry.cost_usd_micros for entry in await records(redis)]


async def test_two_gateways_charge_exactly_what_their_answers_say(redis_url: str) -> None:
    seed = random.randrange(10**6)
    chance, expected = random.Random(seed), []

    async with connected(redis_url) as redis, connected(redis_url) as more:
        caller = await put_tenant(redis)
        gateways = [admitting(redis), admitting(more)]

        async def buy(number: int) -> None:
            images = chance.randint(1, 4)
            charges = [Fraction(chance.randint(0, RESERVED * 60), 60) for _ in range(images)]
            expected.append(math.ceil(sum(charges)))
            async with gateways[number % 2].admit(caller, order(images)) as reservation:
                for charge in charges:
                    upstream = chance.choice("abc")
                    (await reservation.mark_sent(upstream, "main", 1)).share.deliver(1, 1, 0, Bill(charge, 1))

        await asyncio.gather(*map(buy, range(30)))
        assert sorted(expected) == sorted(entry.amounts.usd_micros for entry in await records(redis)), seed
        await assert_books_agree(redis, sum(expected))
