"""One run, from the first process to the last record."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Final

from chaos.administration import Admin, Tenant, plan_tenants
from chaos.batches import BatchClients, plan_batch_tenants
from chaos.clients import ANSWER_S, Clients
from chaos.collection import collect
from chaos.configuration import CALL_TIMEOUT_S, CROWD, FAR, LEASE_S, LIVE, STEADY
from chaos.environment import World, running
from chaos.fault_injection import FaultInjector, InjectedFault
from chaos.observations import Observations, Process, Recovery
from chaos.orders import NATIVE, OPENAI, Order
from chaos.overload import Crowd, create_crowd, plan_crowd
from chaos.processes import memory_bytes
from chaos.reconciliation.leftovers import PICTURE_S, RECOVERY_S
from chaos.redis_keys import Keys
from chaos.repeats import Repeaters, plan_repeaters
from chaos.schedule import Fault, plan

CLIENTS_A_TENANT: Final = 3
LONGEST_S: Final = 135.0
"""Everything expires within this: leases and their settlement, delays of a slow machine, and the 90 s by which the
lease

of a dead process lasts longer after Redis's clock was set back.
"""
_LATE_S: Final = 30.0
"""How much later than planned a fault may begin: a run takes about a minute longer than its load."""
_PROGRESS_S: Final = 5.0
_LOOK_S: Final = 1.0
_EVERY_UPSTREAM: Final = (LIVE, FAR, CROWD.model, STEADY.model)
"""One model of each."""
_CANARY_PAUSE_S: Final = 0.5


Memory = dict[str, list[tuple[float, int]]]
"""Process -> (time, resident bytes)."""


@dataclass
class Outcome:
    """Result of a run."""

    seed: int
    observed: Observations
    without: tuple[str, ...] = ()
    """Features that were disabled, or that this machine lacks."""
    thrown: list[InjectedFault] = field(default_factory=list)
    left_out: list[Fault] = field(default_factory=list)
    load_s: float = 0.0
    total_s: float = 0.0


async def conduct(
    seconds: float, seed: int, without: Collection[str], folder: Path, tell: Callable[[str], None]
) -> Outcome:
    """Starts everything, applies load and the seed's faults, waits for expiry, and collects the records.

    Raises: RuntimeError if a part does not start, AdminError.
    """
    began_s, today = time.monotonic(), _today()
    async with running(folder, has_workers="workers" not in without) as world:
        without = _without(world, without, tell)
        tell(f"{time.monotonic() - began_s:.0f} s to start")
        admin = Admin(world.session, world.admin_urls)
        tenants = plan_tenants(Random(f"{seed}/tenants"))  # noqa: S311 - it is to be repeatable
        crowd = plan_crowd() if "overload" not in without else []
        repeaters, batching = plan_repeaters(), plan_batch_tenants()
        everybody = [*tenants, *crowd, *repeaters, *batching]
        await create_crowd(admin, everybody)
        clients = Clients(world.session, world.url, seed, seed % 1000)
        party = Crowd(world, clients, crowd, seed)
        injector = FaultInjector(world, admin, clients, tenants, party, seed, tell, time.monotonic(), seconds + _LATE_S)
        batches = BatchClients(world.session, clients, batching, seed)
        memory: Memory = {}
        beside = asyncio.ensure_future(_watch(world, clients, memory, tell))
        try:
            more = [Repeaters(clients, repeaters, seed).keep_asking(), batches.keep_sending()]
            recovery = await _load(world, clients, injector, plan(seed, seconds, without), seconds, more)
            load_s = time.monotonic() - injector.began_s
            tell("waiting until everything has expired")
            await _wait_until_over(world, clients, tenants[0])
        finally:
            beside.cancel()
        tell("reading the books")
        observed = await collect(world, admin, everybody, clients.asked, (today, _today()))
        observed.recovery, observed.batches = recovery, batches.sent
        observed.overloads, observed.outages = injector.overloads, injector.redis_faults.outages
        observed.clock_steps_s = injector.redis_faults.clock_steps_s
        _note_midnight(observed, today)
        observed.processes += _others(world, memory)
    outcome = Outcome(seed, observed, tuple(without), injector.thrown, injector.left_out, load_s)
    outcome.total_s = time.monotonic() - began_s
    return outcome


def _without(world: World, without: Collection[str], tell: Callable[[str], None]) -> Collection[str]:
    """Returns the features that this machine lacks, besides disabled ones."""
    if "clock" in without or world.redis.clock.is_available:
        return without
    tell("libfaketime is not installed: the run goes on without steps of the clock")
    return [*without, "clock"]


async def _load(
    world: World,
    clients: Clients,
    injector: FaultInjector,
    faults: Sequence[Fault],
    seconds: float,
    more: Sequence[Coroutine[None, None, None]],
) -> list[Recovery]:
    """Applies load until the last fault has ended; then single requests must be served. `more` are other clients."""
    asking = [
        asyncio.ensure_future(clients.keep_asking(tenant, number))
        for tenant in injector.tenants
        for number in range(CLIENTS_A_TENANT)
    ]
    asking += [asyncio.ensure_future(one) for one in more]
    try:
        await asyncio.gather(injector.inject_all(faults), asyncio.sleep(seconds))
        clients.stop()
        recovery = await _recover(world, clients, injector.tenants[0])
        async with asyncio.timeout(ANSWER_S + 30):
            await asyncio.gather(*asking)
        await world.fleet.wait_for_the_ending()
    finally:
        for task in asking:
            task.cancel()
    return recovery


async def _recover(world: World, clients: Clients, tenant: Tenant) -> list[Recovery]:
    """Measures how long after the last fault each gateway serves each API, and each provider's models."""
    places = sorted({one.place for one in world.fleet.everybody})
    orders = {
        "OpenAI's wire": Order(OPENAI, "/v1/images/generations", {"model": "image-01"}, "", 1),
        "MiniMax's wire": Order(NATIVE, "/v1/image_generation", {"model": LIVE}, "", 1),
        "302.AI's provider": Order(OPENAI, "/v1/images/generations", {"model": FAR}, "", 1),
    }
    return await asyncio.gather(
        *(_serve_again(world, clients, tenant, place, entry) for entry in orders.items() for place in places)
    )


async def _serve_again(
    world: World, clients: Clients, tenant: Tenant, place: int, entry: tuple[str, Order]
) -> Recovery:
    """Retries until an image arrives, and records the first response that is not a failure."""
    began_s, (name, order) = time.monotonic(), entry
    found = Recovery(f"place {place}, {name}")
    while time.monotonic() < began_s + PICTURE_S + RECOVERY_S:
        gateway = world.fleet.at(place)
        if gateway:
            asked = await clients.ask(order, tenant, gateway.url)
            if found.served_s is None and (asked.is_success or asked.is_busy):
                found.served_s = time.monotonic() - began_s
            if asked.is_success:
                found.picture_s = time.monotonic() - began_s
                break
        await asyncio.sleep(_CANARY_PAUSE_S)
    return found


async def _wait_until_over(world: World, clients: Clients, tenant: Tenant) -> None:
    """Waits until Redis has no leftovers, for at least the life of a lease and a call, and at most LONGEST_S."""
    began_s = time.monotonic()
    await asyncio.sleep(LEASE_S + CALL_TIMEOUT_S)
    while time.monotonic() < began_s + LONGEST_S:
        with Keys(world.redis.socket) as keys:
            if not keys.leftovers():
                return
        orders = [Order(OPENAI, "/v1/images/generations", {"model": model}, "", 1) for model in _EVERY_UPSTREAM]
        await asyncio.gather(*(clients.ask(order, tenant) for order in orders))
        await asyncio.sleep(_LOOK_S)


async def _watch(world: World, clients: Clients, memory: Memory, tell: Callable[[str], None]) -> None:
    """Reports progress and samples memory of Redis and the provider until cancelled."""
    while True:
        for name, process in (("redis", world.redis.process), ("the provider", world.provider.process)):
            if resident := memory_bytes(process.pid):
                memory.setdefault(f"{name}, process {process.pid}", []).append((time.monotonic(), resident))
        done = sum(one.ended_s > 0 for one in clients.asked)
        served = sum(one.is_success for one in clients.asked)
        ready = sum(one.is_ready for one in world.fleet.serving())
        tell(f"{len(clients.asked)} asked, {done} ended, {served} with pictures; {ready} gateways ready")
        await asyncio.sleep(_PROGRESS_S)


def _others(world: World, memory: Memory) -> Iterator[Process]:
    """Yields each Redis process, and the provider, whose call log is not a leak: about 1 KB per call."""
    ended = {one.pid for one in (world.redis.process, world.provider.process) if one.poll() is not None}
    for name, looks in memory.items():
        has_died = int(name.rpartition(" ")[2]) in ended
        yield Process(name, died=has_died, memory=tuple(looks))


def _note_midnight(observed: Observations, began: date) -> None:
    """Records a midnight during the run."""
    today = _today()
    if today != began:
        midnight = datetime.combine(today, datetime.min.time(), UTC).timestamp()
        observed.new_day_s = time.monotonic() - (time.time() - midnight)
        observed.new_month_s = observed.new_day_s if today.month != began.month else None


def _today() -> date:
    return datetime.now(UTC).date()
