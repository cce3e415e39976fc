"""Requests admitted and settled, and the ledger lines that they leave."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.domain.billing import Durations, Purchase
from gateway.domain.pricing import PerImage, Price
from gateway.domain.tenants import Caller
from gateway.metering.admission import Admission
from gateway.metering.reservations import Ticket
from gateway.redis import Client, answer, connect


async def ledger(redis: Client, tenant: str = "acme") -> list[tuple[str, dict[str, str]]]:
    days = await answer(redis, redis.zrange(f"ig2:{{{tenant}}}:days", 0, -1), list[str])
    found: list[tuple[str, dict[str, str]]] = []
    for day in days:
        found += await answer(redis, redis.xrange(f"ig2:{{{tenant}}}:ledger:{day}"), list[tuple[str, dict[str, str]]])
    return found


async def not_sent(redis: Client, tenant: str = "acme") -> int:
    """Requests of all days that were never sent: a count in the sums."""
    days = await answer(redis, redis.zrange(f"ig2:{{{tenant}}}:days", 0, -1), list[str])
    sums = [await answer(redis, redis.hgetall(f"ig2:{{{tenant}}}:sums:{day}"), dict[str, str]) for day in days]
    return sum(int(value) for day in sums for name, value in day.items() if "|not_sent|" in name)


PRICES = (Price(0, PerImage(3500)),)


@asynccontextmanager
async def connected(url: str, timeout_s: float = 5.0) -> AsyncIterator[Client]:
    redis = connect(url, timeout_s)
    try:
        yield redis
    finally:
        await redis.aclose()


def purchase(images: int = 1, request_id: str = "req_1") -> Purchase:
    return Purchase(request_id, "image-01", images, PRICES)


def admitted(admission: Admission, caller: Caller, images: int = 1) -> Any:
    return admission.admit(caller, purchase(images), Durations)


async def buy(admission: Admission, caller: Caller, images: int = 1, **became: int) -> Ticket:
    """A request from its admission to its settlement; by default all its images are delivered."""
    async with admitted(admission, caller, images) as ticket:
        share = (await ticket.mark_sent("sim", "main", images)).share
        delivered = became.get("delivered", 0 if became else images)
        share.deliver(images - became.get("unconfirmed", 0), delivered, became.get("withheld", 0))
        share.open = 0
        share.unconfirmed += became.get("unconfirmed", 0)
        assert isinstance(ticket, Ticket)
        return ticket
