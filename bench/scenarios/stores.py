"""Costs that must not grow with tenants, accounts or queue length: the stores themselves, on a real Redis.

Two sizes are measured in turn, each with its own Redis. Redis time is its own script statistics; CPU is that of
this process, which runs the gateway's stores. Figures are medians per call. In the table the larger size is the
gateway's figure, the smaller one the baseline.
"""

import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import uvloop

from bench.processes import redis
from bench.results import Of, Row, at_most
from bench.run import Run
from gateway.domain.accounts import AccountLimits, PoolConfig
from gateway.domain.billing import AdmissionRequest
from gateway.domain.pricing import MadeImages, Offer, PerImage, Price
from gateway.domain.tenants import Principal
from gateway.redis import Client, execute
from gateway.scheduler import NOT_SENT, Lease, NoCapacity
from gateway.scheduler.scripts import record
from tests.support.admitting import admitting, put_tenant
from tests.support.asking import connected
from tests.support.pooling import Process, account, pooling

_PURCHASE = AdmissionRequest("bench", "image-01", 1, (Offer((Price(0, PerImage(3500)),), MadeImages(1)),))
_MANY = 1_000_000_000
_LIMITS = {"requests_per_minute": _MANY, "images_per_minute": _MANY, "concurrency": _MANY}
_QUOTAS = {"images_per_day": _MANY, "images_per_month": _MANY, "usd_micros_per_month": _MANY}
_ACTIVE_TENANTS = 1000
"""Random subset of tenants that send requests, each at least twice: the first one costs more."""
_COPY = """
for number = ARGV[1], ARGV[2] do
  local name = string.format('tenant-%d', number)
  redis.call('SADD', 'ig3:tenants', name)
  for _, part in ipairs({'tenant', 'keys'}) do
    redis.call('COPY', 'ig3:{tenant-0}:' .. part, 'ig3:{' .. name .. '}:' .. part)
  end
end
"""
_WAITING = record("sim", "queue")
_GRANTS = 10
"""Per turn: it shortens a queue of a hundred by a tenth, which is refilled before the next turn."""


@dataclass(frozen=True)
class Case:
    """A repeatable operation."""

    redis: Client
    act: Callable[[], Awaitable[object]]
    prepare: Callable[[], Awaitable[object]]
    """Runs before each turn, unmeasured."""


Prepare = Callable[[Client, int], AbstractAsyncContextManager[Case]]


@dataclass(frozen=True)
class Cost:
    """Per operation, in microseconds."""

    redis_us: float
    cpu_us: float


def measure(run: Run) -> list[Row]:
    compare = partial(_compare, run, run.count(41, 11))
    calls = run.count(100, 50)
    return [
        *_rows("a grant, 100 to 1,000 wait", *compare(_granting, (100, 1000), _GRANTS)),
        *_rows("joining them", *compare(_joining, (100, 1000), _GRANTS), is_promised=False)[:1],
        *_rows("admission, 10 to 100,000 tenants", *compare(_admitting, (10, 100_000), calls)),
        *_rows("lease, 1 to 1,000 accounts", *compare(_leasing, (1, 1000), calls)),
    ]


def _rows(what: str, small: Cost, large: Cost, *, is_promised: bool = True) -> list[Row]:
    goal = at_most(1.2, Of.RATIO) if is_promised else None
    return [
        Row(measure=f"{what}, us", gateway=large.redis_us, baseline=small.redis_us, goal=goal),
        Row(measure="  CPU of the gateway, us", gateway=large.cpu_us, baseline=small.cpu_us, goal=goal),
    ]


def _compare(run: Run, turns: int, prepare: Prepare, sizes: tuple[int, int], calls: int) -> tuple[Cost, Cost]:
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=run.folder))) for _ in sizes]
        ports = [stack.enter_context(redis(folder)) for folder in folders]
        small, large = uvloop.run(_take_turns(ports, prepare, sizes, turns, calls))
    name = prepare.__name__.strip("_")
    run.report(f"{name}: {small.redis_us:.0f} us of Redis at {sizes[0]:,}, {large.redis_us:.0f} at {sizes[1]:,}")
    return small, large


async def _take_turns(
    ports: list[int], prepare: Prepare, sizes: tuple[int, int], turns: int, calls: int
) -> tuple[Cost, Cost]:
    async with AsyncExitStack() as stack:
        cases = []
        for port, size in zip(ports, sizes, strict=True):
            client = await stack.enter_async_context(connected(f"redis://127.0.0.1:{port}/0", timeout_s=60))
            cases.append(await stack.enter_async_context(prepare(client, size)))
        found: list[list[Cost]] = [[], []]
        for _, (index, case) in itertools.product(range(turns), enumerate(cases)):
            found[index].append(await _take_turn(case, calls))
        small, large = (
            Cost(statistics.median(one.redis_us for one in costs), statistics.median(one.cpu_us for one in costs))
            for costs in found
        )
        return small, large


async def _take_turn(case: Case, calls: int) -> Cost:
    await case.prepare()
    before_us, began_s = await _scripts_us(case.redis), time.process_time()
    for _ in range(calls):
        await case.act()
    spent_s = time.process_time() - began_s
    return Cost((await _scripts_us(case.redis) - before_us) / calls, 1e6 * spent_s / calls)


async def _scripts_us(client: Client) -> int:
    """Returns the time that Redis has spent in scripts."""
    counts = await execute(client, client.info("commandstats"), dict[str, dict[str, int]])
    return sum(counts.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("evalsha", "eval"))


async def _nothing() -> None:
    """Prepares nothing."""


@asynccontextmanager
async def _admitting(client: Client, tenants: int) -> AsyncIterator[Case]:
    """Admission and settlement of tenants in turn, with every limit and quota."""
    admission, template = admitting(client), await put_tenant(client, "tenant-0", _LIMITS | _QUOTAS, _LIMITS | _QUOTAS)
    for first in range(1, tenants, 1000):
        await execute(client, client.eval(_COPY, 0, first, min(first + 999, tenants - 1)), object)
    numbers = random.Random(1).sample(range(tenants), min(tenants, _ACTIVE_TENANTS))  # noqa: S311 - no secret
    callers = [_named(template, f"tenant-{number}") for number in numbers]
    turn = itertools.cycle(callers)

    async def act() -> None:
        async with admission.admit(next(turn), _PURCHASE):
            pass

    for _ in callers:
        await act()
    yield Case(client, act, _nothing)


def _named(template: Principal, name: str) -> Principal:
    return Principal(replace(template.tenant, name=name), replace(template.key, tenant=name))


@asynccontextmanager
async def _leasing(client: Client, accounts: int) -> AsyncIterator[Case]:
    """A lease and its release, unsent: otherwise a single account's minute would be longer."""
    async with pooling(client, *(account(f"account-{number}") for number in range(accounts))) as process:

        async def act() -> None:
            await process.pool.release(await process.take(), NOT_SENT)

        yield Case(client, act, _nothing)


@asynccontextmanager
async def _granting(client: Client, length: int) -> AsyncIterator[Case]:
    """A served request ends, and the next in the queue is served."""
    async with _line(client, length) as line:
        yield Case(client, line.grant, line.fill)


@asynccontextmanager
async def _joining(client: Client, length: int) -> AsyncIterator[Case]:
    """A request joins the queue."""
    async with _line(client, length) as line:
        yield Case(client, line.join, line.make_room)


class _Line:
    """Requests of ten tenants that wait for one account with a concurrency of 1."""

    def __init__(self, client: Client, process: Process, length: int) -> None:
        self._client = client
        self._process = process
        self._length = length
        self._numbers = itertools.count()
        self._waiting: set[asyncio.Task[Lease | NoCapacity]] = set()
        self._served: asyncio.Queue[asyncio.Task[Lease | NoCapacity]] = asyncio.Queue()
        """`asyncio.wait` inspects all waiters, which would count as the gateway's cost."""
        self._lease: Lease | None = None

    async def fill(self) -> None:
        """Fills the queue while the account is occupied."""
        if self._lease is None:
            self._lease = await self._process.take()
        while len(self._waiting) < self._length:
            await self.join()

    async def make_room(self) -> None:
        """Shortens a full queue so that joining fills it."""
        await self.fill()
        for _ in range(_GRANTS):
            await self.grant()

    async def join(self) -> None:
        tenant = f"tenant-{next(self._numbers) % 10}"
        task = asyncio.ensure_future(self._process.ask(tenant=tenant, patience_s=3600.0))
        task.add_done_callback(self._served.put_nowait)
        self._waiting.add(task)
        while await execute(self._client, self._client.zcard(_WAITING), int) < len(self._waiting):
            pass

    async def grant(self) -> None:
        assert self._lease
        await self._process.pool.release(self._lease, NOT_SENT)
        served = await self._served.get()
        self._waiting.remove(served)
        given = served.result()
        assert isinstance(given, Lease), given
        self._lease = given

    async def leave(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)


@asynccontextmanager
async def _line(client: Client, length: int) -> AsyncIterator[_Line]:
    limits, terms = AccountLimits(1_000_000, 1_000_000, 1), PoolConfig(max_queue_length=2 * length, paced_percent=0)
    async with pooling(client, account("main", limits=limits), terms=terms) as process:
        line = _Line(client, process, length)
        try:
            yield line
        finally:
            await line.leave()
