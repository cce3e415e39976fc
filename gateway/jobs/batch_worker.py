"""The worker of batches: every process claims lines of all open batches, oldest first, and tenants take turns.

A claim expires, and is renewed while its line runs. So the lines of a process that died are claimed by another one,
which first looks at their orders (lua/claim_lines.lua).
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import GatewayError
from gateway.domain.events import EventType
from gateway.events.outbox import Outbox
from gateway.jobs.batch_lines import ClaimedLine, LineEnd, LineRunner
from gateway.jobs.batch_stages import BatchStages
from gateway.jobs.batch_turns import BatchTurns
from gateway.jobs.batches import Batch, BatchStatus, BatchStore
from gateway.metering.reservations import PARTS
from gateway.observability.metrics import Metrics
from gateway.redis import Value, load_script

_LOG = structlog.get_logger("imagegate.batches")
_TICK_S: Final = 1.0
_TICK_MIN_S: Final = 0.05
"""Lines that end within it are replaced together."""
_BATCHES_PER_TICK: Final = 50
_LINES_MAX: Final = 256
"""Limit on the lines that this process runs; the byte budget limits their memory."""
_MISSING_S: Final = 10.0
"""A listed batch without a record for this long was never created."""
_STEP_PAUSE_S: Final = 5.0
"""Pause after a step that failed."""
_CLOSE_S: Final = 5.0


class _Claimed(msgspec.Struct, frozen=True):
    """The reply of claim_lines.lua."""

    status: str
    expires_at: int
    in_flight: int
    waiting: int
    is_done: bool
    is_over: bool
    is_paused: bool
    lines: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OpenBatches:
    """The batches that have not ended."""

    by_status: Mapping[str, int]
    lines_waiting: int
    next_expires_at: int
    """Unix seconds at which the first window ends of those with waiting lines; 0 without one."""


class BatchWorker:
    """Runs the open batches of all tenants, together with the workers of other processes."""

    def __init__(
        self,
        store: BatchStore,
        lines: LineRunner,
        stages: BatchStages,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        tenant_lines_max: int,
        outbox: Outbox,
        lease_s: float,
    ) -> None:
        """A claim expires after `lease_s` without a renewal."""
        self._store, self._lines, self._stages, self._metrics = store, lines, stages, metrics
        self._is_draining, self._tenant_lines_max, self._outbox = is_draining, tenant_lines_max, outbox
        self._claim_s = lease_s
        self._claim = load_script(store.redis, "jobs/claim_lines", PARTS["admit"])
        self._end, self._renew = (load_script(store.redis, f"jobs/{name}") for name in ("end_line", "renew_claims"))
        self._running: dict[tuple[str, int], ClaimedLine] = {}
        self._stage_tasks: dict[str, asyncio.Task[None]] = {}
        self._missing: dict[str, float] = {}
        self._turns = BatchTurns()
        self._seen: dict[str, _Claimed] = {}
        """By batch ID, the last replies of the open batches."""
        self.wake = asyncio.Event()
        """Set when there may be lines to claim."""

    async def run(self) -> None:
        """Claims and runs lines; runs until cancelled."""
        was_well = True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self.wake.wait()
            self.wake.clear()
            try:
                if not self._is_draining():
                    await self._tick()
                was_well = True
            except GatewayError as error:
                if was_well:
                    _LOG.warning("batches_delayed", detail=error.detail)
                was_well = False
            await asyncio.sleep(_TICK_MIN_S)

    async def keep_claims(self) -> None:
        """Renews the claims of running lines; runs until cancelled."""
        while True:
            await asyncio.sleep(self._claim_s / 4)
            by_tenant: dict[str, list[Value]] = {}
            for running in self._running.values():
                by_tenant.setdefault(running.batch.tenant, []).append(running.claim)
            for tenant, members in by_tenant.items():
                with suppress(GatewayError):  # a claim that expires makes another process look at the line's order
                    await self._renew(self._store.keys(tenant, "batch_lines"), [round(self._claim_s * 1000), *members])

    async def close(self, left_s: Callable[[], float]) -> None:
        """Finishes the lines that were sent, and gives back the others. Others' processes go on with those."""
        began_s = time.monotonic()
        for stage in self._stage_tasks.values():
            stage.cancel()
        for running in self._running.values():
            running.left.set()
        while self._running and (left_s() or time.monotonic() - began_s < _CLOSE_S):
            await asyncio.wait([one.task for one in self._running.values() if one.task], timeout=_TICK_MIN_S)
        tasks = [one.task for one in self._running.values() if one.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._stage_tasks.values(), return_exceptions=True)

    def count_open(self) -> OpenBatches:
        """Counts the open batches of all tenants, as every process sees them."""
        seen = [one for one in self._seen.values() if one.status and not BatchStatus(one.status).is_final]
        expiries = [one.expires_at for one in seen if one.waiting or one.status == BatchStatus.VALIDATING.value]
        by_status = Counter(one.status for one in seen)
        return OpenBatches(by_status, sum(one.waiting for one in seen), min(expiries, default=0))

    async def _tick(self) -> None:
        """Looks at up to 50 open batches. Tenants take turns, and so do the batches of each."""
        batches = await self._store.open_batches()
        listed = {batch_id for _, batch_id in batches}
        self._seen = {batch_id: seen for batch_id, seen in self._seen.items() if batch_id in listed}
        for tenant, batch_id in self._turns.take(batches, _BATCHES_PER_TICK):
            await self._tend(tenant, batch_id)

    async def _tend(self, tenant: str, batch_id: str) -> None:
        """Claims lines of a batch, or takes its next step."""
        token = uuid.uuid4().hex
        claimed = self._seen[batch_id] = await self._claim_lines(tenant, batch_id, token)
        if not claimed.status:
            await self._miss(tenant, batch_id)
            return
        status = BatchStatus(claimed.status)
        if status.is_final:
            await self._conclude(tenant, batch_id)
            return
        is_ending = status in {BatchStatus.FINALIZING, BatchStatus.CANCELLING}
        if is_ending:
            self._leave(batch_id)
        is_due = status is BatchStatus.IN_PROGRESS and (claimed.is_done or claimed.is_over)
        has_step = status is BatchStatus.VALIDATING or (is_ending and not claimed.in_flight)
        if (claimed.lines or is_due or has_step) and (batch := await self._store.find(tenant, batch_id)):
            for number, state in claimed.lines:
                self._start(ClaimedLine(batch, number, state, f"{batch.id} {number} {token}"))
            if is_due and await self._store.advance(batch, BatchStatus.FINALIZING, time.time()):
                self.wake.set()
            if has_step:
                self._take_step(batch, status)

    async def _claim_lines(self, tenant: str, batch_id: str, token: str) -> _Claimed:
        """Redis: one round trip, lua/claim_lines.lua."""
        names = (f"batch:{batch_id}", "batch_lines", f"batch:{batch_id}:waiting")
        wanted = min(self._tenant_lines_max, _LINES_MAX - len(self._running))
        args: list[Value] = [batch_id, round(self._claim_s * 1000), wanted, self._tenant_lines_max, token]
        return msgspec.json.decode(str(await self._claim(self._store.keys(tenant, *names), args)), type=_Claimed)

    def _leave(self, batch_id: str) -> None:
        """Ends the lines of a batch that were not sent."""
        for running in self._running.values():
            if running.batch.id == batch_id:
                running.left.set()

    async def _conclude(self, tenant: str, batch_id: str) -> None:
        """Appends the event of a batch that has ended, and drops the batch from the list."""
        batch = await self._store.find(tenant, batch_id)
        if batch:
            kind, ended_at = f"batch.{batch.status.value}", getattr(batch, f"{batch.status.value}_at")
            data = {"id": batch.id, "tenant": tenant}
            await self._outbox.append(EventType(kind), data, tenant, at_s=ended_at or 0, name=f"{batch.id} {kind}")
        if await self._store.drop(tenant, batch_id) and batch:
            self._metrics.batches_ended.labels(batch.status.value).inc()

    async def _miss(self, tenant: str, batch_id: str) -> None:
        """Drops a listed batch without a record, unless it is about to be created."""
        now_s = time.monotonic()
        if now_s - self._missing.setdefault(batch_id, now_s) > _MISSING_S:
            del self._missing[batch_id]
            await self._store.drop(tenant, batch_id)

    def _take_step(self, batch: Batch, status: BatchStatus) -> None:
        if batch.id not in self._stage_tasks:
            task = self._stage_tasks[batch.id] = asyncio.create_task(self._step(batch, status))
            task.add_done_callback(lambda _: self._stage_tasks.pop(batch.id, None))

    async def _step(self, batch: Batch, status: BatchStatus) -> None:
        """Takes the step of a status, unless the batch has another one by now."""
        try:
            async with self._stages.alone(batch) as is_alone:
                if not is_alone:
                    return
                current = await self._store.find(batch.tenant, batch.id)
                if current is None or current.status is not status:
                    return
                if current.status is BatchStatus.VALIDATING:
                    await self._stages.validate(current)
                elif ended := await self._stages.finalize(current):
                    _LOG.info("batch_ended", tenant=ended.tenant, batch=ended.id, status=ended.status.value)
        except GatewayError as error:
            _LOG.warning("batch_step_failed", tenant=batch.tenant, batch=batch.id, detail=str(error))
            await asyncio.sleep(_STEP_PAUSE_S)
        except Exception:  # noqa: BLE001 - a bug in one batch must not end the others' worker
            _LOG.exception("batch_step_failed", tenant=batch.tenant, batch=batch.id)
            await asyncio.sleep(_STEP_PAUSE_S)
        self.wake.set()

    def _start(self, line: ClaimedLine) -> None:
        if running := self._running.get((line.batch.id, line.number)):
            running.claim = line.claim  # the former one expired while this process hung
            return
        self._running[line.batch.id, line.number] = line
        line.task = asyncio.create_task(self._work(line))

    async def _work(self, line: ClaimedLine) -> None:
        try:
            end = await self._lines.run(line, partial(self._record, line))
            while not await self._record(line, end):  # noqa: ASYNC110 - Redis has no event
                await asyncio.sleep(_TICK_S)
        finally:
            del self._running[line.batch.id, line.number]
            self.wake.set()

    async def _record(self, line: ClaimedLine, end: LineEnd) -> bool:
        """Records what became of a line; False if Redis did not confirm it."""
        batch, is_complete = line.batch, end.result in {"stored", "completed"}
        named = ("waiting", "ended", "output" if is_complete else "errors", "tries")
        names = (f"batch:{batch.id}", "batch_lines", *(f"batch:{batch.id}:{name}" for name in named))
        keys = self._store.keys(batch.tenant, *names)
        is_final = is_complete or end.result == "failed"
        rest = end.text if is_final else round(end.delay_s * 1000)
        pause: list[Value] = [round(end.pause_s * 1000), end.pause_reason]
        try:
            reply = await self._end(keys, [line.claim, line.number, end.result, rest, end.failures_max, *pause])
            if reply == 2:
                args: list[Value] = [line.claim, line.number, "failed", end.text, 0, 0, ""]
                reply, is_final = await self._end(keys, args), True
        except GatewayError:
            return False
        if reply and is_final:
            self._metrics.batch_lines.labels("completed" if is_complete else "failed").inc()
        return True
