"""Admitted and settled requests, and their ledger records."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.domain.billing import AdmissionRequest
from gateway.domain.pricing import MadeImages, Offer, PerImage, Price
from gateway.domain.tenants import Principal
from gateway.metering.admission import Admission
from gateway.metering.reservations import Reservation
from gateway.redis import Client, connect, execute


async def ledger(redis: Client, tenant: str = "acme") -> list[tuple[str, dict[str, str]]]:
    days = await execute(redis, redis.zrange(f"ig3:{{{tenant}}}:days", 0, -1), list[str])
    found: list[tuple[str, dict[str, str]]] = []
    for day in days:
        found += await execute(redis, redis.xrange(f"ig3:{{{tenant}}}:ledger:{day}"), list[tuple[str, dict[str, str]]])
    return found


async def not_sent(redis: Client, tenant: str = "acme") -> int:
    """Returns the number of requests that were never sent, of all days: a count in the sums."""
    days = await execute(redis, redis.zrange(f"ig3:{{{tenant}}}:days", 0, -1), list[str])
    sums = [await execute(redis, redis.hgetall(f"ig3:{{{tenant}}}:sums:{day}"), dict[str, str]) for day in days]
    return sum(int(value) for day in sums for name, value in day.items() if "|not_sent|" in name)


PRICES = (Price(0, PerImage(3500)),)


@asynccontextmanager
async def connected(url: str, timeout_s: float = 5.0) -> AsyncIterator[Client]:
    redis = connect(url, timeout_s)
    try:
        yield redis
    finally:
        await redis.aclose()


def purchase(images: int = 1, request_id: str = "req_1") -> AdmissionRequest:
    return AdmissionRequest(request_id, "image-01", images, (Offer(PRICES, MadeImages(images)),))


def admitted(admission: Admission, caller: Principal, images: int = 1) -> Any:
    return admission.admit(caller, purchase(images))


async def buy(admission: Admission, caller: Principal, images: int = 1, **became: int) -> Reservation:
    """Runs a request from admission to settlement; by default all its images are delivered."""
    async with admitted(admission, caller, images) as reservation:
        share = (await reservation.mark_sent("sim", "main", images)).share
        delivered = became.get("delivered", 0 if became else images)
        share.deliver(images - became.get("unconfirmed", 0), delivered, became.get("withheld", 0))
        share.open = 0
        share.unconfirmed += became.get("unconfirmed", 0)
        assert isinstance(reservation, Reservation)
        return reservation
