"""Processes that buy an image with each of many requests at once. They import little, as each starts anew."""

import asyncio
import multiprocessing
from collections import Counter
from functools import partial
from typing import Final

import msgspec

from gateway.domain.billing import BillingRule
from gateway.domain.errors import GatewayError
from gateway.domain.tenants import Principal
from gateway.metering.admission import Admission
from gateway.metering.reservations import ReservationOutcome
from gateway.redis import connect
from tests.support.admissions import buy
from tests.support.admitting import admitting, put_tenant

_SPAWN: Final = multiprocessing.get_context("spawn")
_PERCENTS: Final = (50, 80, 100)
_START_S: Final = 60


def buy_from_processes(
    redis_url: str, *, processes: int, requests: int, limits: dict[str, int], corrects: bool = False
) -> Counter[str]:
    """Returns how often requests were admitted, and error codes of refusals.

    With `corrects`, each charge is taken back and made again, as by late journals.
    """
    with _SPAWN.Pool(processes) as pool:
        run = partial(_run, redis_url, requests, limits, corrects)
        found = pool.map_async(run, range(processes), chunksize=1).get(timeout=_START_S)
    return sum(found, Counter[str]())


def _run(redis_url: str, requests: int, limits: dict[str, int], corrects: bool, _: int) -> Counter[str]:
    return asyncio.run(_buy(redis_url, requests, limits, corrects=corrects))


async def _buy(redis_url: str, requests: int, limits: dict[str, int], *, corrects: bool) -> Counter[str]:
    redis = connect(redis_url, 20.0)
    try:
        caller = await put_tenant(redis, limits=limits)
        admission = admitting(redis, alert_percents=_PERCENTS)
        return Counter(await asyncio.gather(*(_buy_one(admission, caller, corrects=corrects) for _ in range(requests))))
    finally:
        await redis.aclose()


async def _buy_one(admission: Admission, caller: Principal, *, corrects: bool) -> str:
    try:
        reservation = await buy(admission, caller)
    except GatewayError as error:
        return error.error_code.name
    if corrects:
        outcome = ReservationOutcome.of(reservation, BillingRule())
        lost = msgspec.structs.replace(outcome, settlement="lost", calls="sim/main:0,0,1,0")
        for late in (lost, outcome):
            await admission.replay(msgspec.Raw(msgspec.json.encode(late)))
    return "admitted"
