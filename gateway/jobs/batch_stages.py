"""The steps of a batch that read or write whole files: validation at its beginning, and the files at its end.

One process takes a step, with a lock that it renews, so that the work is not done twice. Correctness does not depend on
it: a step can be repeated, and two at one time have the outcome of the first. Redis keys, which expire soon:
`batch:ID:lock` and `batch:ID:failures:STATUS`, the count of this program's errors in the step of a status.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal, Tenant
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs.batch_input import BatchRequest, InputRules, Validation, entry_range, read_entry, read_lines, validate
from gateway.jobs.batch_output import OUTPUT, manifest_name, render_unsent, rendered_bytes
from gateway.jobs.batches import KEPT_S, WINDOW_S, Batch, BatchStatus, BatchStore, LineError
from gateway.jobs.files import Files
from gateway.redis import LeaderLock, execute
from gateway.storage.objects import STREAM_HELD_BYTES
from gateway.storage.quota import HOUR_S, StorageQuota

_LOG = structlog.get_logger("imagegate.batches")
_LOCK_S: Final = 30.0
_PAGE: Final = 200
"""Lines of a file per round trip to Redis."""
_UNSENT: Final = {
    BatchStatus.CANCELLING: ("batch_cancelled", "This request was not executed: the batch was cancelled."),
    BatchStatus.FINALIZING: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}
LINE_STORED_BYTES: Final = 1024
"""Counts for each line in the tenant's quota of storage: what it leaves in an output or error file besides images."""
_LINE_HELD_BYTES: Final = 192
"""Of a line's entry in the index, and of the hash of its custom ID, while a whole file is read."""
_MEMORY_WAIT_S: Final = 30.0
_VALIDATIONS_MAX: Final = 2
"""Limit on the files that a process validates at one time."""
_FAILURES_MAX: Final = 6
"""Limit on the times that a step of a batch ends with an error of this program, in all processes together."""
_FAILURE_PAUSE_S: Final = 10.0
"""Pause of all processes after the first such error; it doubles each time."""
_CHUNK_BYTES: Final = 256 * 1024
_CONTENT_TYPE: Final = "application/octet-stream"
PURPOSE: Final = "batch_output"
_NAMES: Final = ("waiting", "ended", "output", "errors", "tries", "index")
"""Keys of a batch that its files replace."""

FindModel = Callable[[str | None, Tenant], str | None]


@dataclass(slots=True, eq=False)
class BatchStages:
    """Validates input files and writes output files."""

    _store: BatchStore
    _files: Files
    _find_principal: Callable[[str], Awaitable[Principal | None]]
    _find_model: FindModel
    _lines_max: int
    _line_max_bytes: Mapping[str, int]
    """By endpoint."""
    _images_max: int
    """Limit on the images of one request."""
    _quota: StorageQuota
    _budget: ByteBudget
    _clock: Callable[[], float]
    _validating: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_VALIDATIONS_MAX))

    async def validate(self, batch: Batch) -> None:
        """Reads the whole input file, and lets the lines begin or fails the batch. Raises: GatewayError."""
        if batch.expires_at <= self._clock():
            text = f"The input file '{batch.input_file_id}' could not be read before the completion window expired."
            await self._fail(batch, [LineError("batch_expired", text)])
            return
        principal = await self._find_principal(batch.key_id)
        if principal is None:
            text = "The API key that created this batch cannot be used any more."
            await self._fail(batch, [LineError("invalid_api_key", text)])
            return
        tenant = principal.tenant
        rules = InputRules(
            *(batch.endpoint, self._lines_max, self._line_max_bytes[batch.endpoint], self._images_max),
            lambda name: self._find_model(name, tenant),
        )
        holder, kept_s, expires_s = f"batch:{batch.id}", batch.expires_at + batch.output_kept_s - int(self._clock()), 0
        try:
            found = await self._read_input(batch, rules)
            stored_bytes = found.total * LINE_STORED_BYTES
            if not found.errors:
                expires_s = await self._quota.take(batch.tenant, stored_bytes, kept_s, holder=holder)
        except GatewayError as error:
            if error.error_code is ErrorCode.NOT_FOUND:
                text = f"The input file '{batch.input_file_id}' does not exist any more."
                await self._fail(batch, [LineError("file_not_found", text, param="input_file_id")])
                return
            if error.error_code is ErrorCode.STORAGE_QUOTA_EXHAUSTED:
                await self._fail(batch, [LineError(error.error_code.value, str(error))])
                return
            raise
        if found.errors:
            await self._fail(batch, found.errors)
            return
        [key] = self._store.keys(batch.tenant, f"batch:{batch.id}:index")
        redis = self._store.redis
        await execute(redis, redis.set(key, bytes(found.index), ex=KEPT_S), object)
        fields = {"total": found.total, "images": found.images, "model": found.model}
        if await self._store.advance(batch, BatchStatus.IN_PROGRESS, self._clock(), **fields):
            return
        current = await self._store.find(batch.tenant, batch.id)
        if current and not current.total:  # it was cancelled meanwhile, and no line will run
            await execute(redis, redis.unlink(key), object)
            await self._quota.give_back(batch.tenant, stored_bytes, expires_s, holder)

    async def finalize(self, batch: Batch) -> Batch | None:
        """Writes the files of a batch none of whose lines runs, and ends it.

        Returns: the batch as it ended; None if another process ended it. Raises: GatewayError.
        """
        unsent = batch.total - batch.completed - batch.failed
        output_id = await self._write(batch, "output", self._page("output", batch)) if batch.completed else None
        error_id = None
        if batch.failed or unsent:
            error_id = await self._write(batch, "errors", self._errors(batch, has_unsent=bool(unsent)))
        ending = BatchStatus.EXPIRED if unsent else BatchStatus.COMPLETED
        if batch.status is BatchStatus.CANCELLING:
            ending = BatchStatus.CANCELLED
        fields = {"output_file_id": output_id, "error_file_id": error_id, "failed": batch.failed + unsent}
        if not await self._store.advance(batch, ending, self._clock(), **fields):
            return None
        redis = self._store.redis
        keys = self._store.keys(batch.tenant, *(f"batch:{batch.id}:{name}" for name in _NAMES))
        await execute(redis, redis.unlink(*keys), object)
        return await self._store.find(batch.tenant, batch.id)

    @asynccontextmanager
    async def alone(self, batch: Batch) -> AsyncIterator[bool]:
        """Holds the lock of a batch; False if another process holds it, or this one validates two others.

        Cancels the caller if the lock is lost. After an error of this program the lock is kept for a growing pause.
        """
        lock = LeaderLock(self._store.redis, f"{{{batch.tenant}}}:batch:{batch.id}:lock", uuid.uuid4().hex, _LOCK_S)
        is_validation = batch.status is BatchStatus.VALIDATING
        if is_validation and self._validating.locked():
            yield False
            return
        async with self._validating if is_validation else nullcontext():
            if not await lock.acquire():
                yield False
                return
            is_free, renewing = True, asyncio.create_task(_keep(lock, asyncio.current_task()))
            try:
                yield True
            except GatewayError:
                raise
            except Exception:
                renewing.cancel()
                is_free = await self._note_failure(batch)
                raise
            finally:
                renewing.cancel()
                if is_free:
                    await lock.release()

    async def _note_failure(self, batch: Batch) -> bool:
        """Counts an error of this program, and extends the lock or fails the batch. Returns: True if it failed."""
        redis, prefix = self._store.redis, f"batch:{batch.id}"
        counter, lock = self._store.keys(batch.tenant, f"{prefix}:failures:{batch.status.value}", f"{prefix}:lock")
        pipeline = redis.pipeline(transaction=False)
        pipeline.incr(counter)
        pipeline.expire(counter, WINDOW_S)
        failures = int((await execute(redis, pipeline.execute(), list[int]))[0])
        if failures < _FAILURES_MAX:
            pause_s = _FAILURE_PAUSE_S * 2 ** (failures - 1)
            await execute(redis, redis.pexpire(lock, round(pause_s * 1000)), object)
            return False
        what = "read the input file" if batch.status is BatchStatus.VALIDATING else "write the files"
        text = f"The gateway failed to {what} of this batch {failures} times. Report it to the operator of this server."
        await self._fail(batch, [LineError("server_error", text)])
        return True

    async def _fail(self, batch: Batch, errors: list[LineError]) -> None:
        await self._store.advance(batch, BatchStatus.FAILED, self._clock(), errors=errors)

    async def _content(self, batch: Batch) -> AsyncIterator[bytes]:
        record = await self._files.get(batch.tenant, batch.input_file_id)
        return aiter(await self._files.open(record, 0, None))

    async def _read_input(self, batch: Batch, rules: InputRules) -> Validation:
        """Validates the input file while its memory is counted. Raises: GatewayError."""
        memory = ByteAccount(self._budget, batch.tenant)
        try:
            await memory.wait_within(2 * rules.line_max_bytes + self._lines_max * _LINE_HELD_BYTES, _MEMORY_WAIT_S)
            return await validate(await self._content(batch), rules)
        finally:
            memory.close()

    async def _page(self, kind: str, batch: Batch) -> AsyncIterator[bytes]:
        """Yields the lines of a file that ended lines left in Redis."""
        [key], start, redis = self._store.keys(batch.tenant, f"batch:{batch.id}:{kind}"), 0, self._store.redis
        while page := await execute(redis, redis.lrange(key, start, start + _PAGE - 1), list[str]):
            for line in page:
                yield line.encode()
            start += _PAGE

    async def _errors(self, batch: Batch, *, has_unsent: bool) -> AsyncIterator[bytes]:
        async for line in self._page("errors", batch):
            yield line
        if not has_unsent:
            return
        code, message = _UNSENT[batch.status]
        ended, redis = await self._ended(batch), self._store.redis
        [index_key] = self._store.keys(batch.tenant, f"batch:{batch.id}:index")
        call = redis.execute_command("GET", index_key, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        index = await execute(redis, call, bytes)
        starts = {}
        for number in range(1, batch.total + 1):
            if not ended[number // 8] >> (7 - number % 8) & 1:
                first, last = entry_range(number)
                starts[read_entry(index[first : last + 1])[0]] = number
        try:
            content = await self._content(batch)
        except GatewayError as error:
            if error.error_code is not ErrorCode.NOT_FOUND:
                raise
            _LOG.error("batch_input_lost", tenant=batch.tenant, batch=batch.id, lines=len(starts))
            return  # a client cannot match lines without their custom IDs; the counts include them
        async for offset, _, text in read_lines(content, self._line_max_bytes[batch.endpoint]):
            if (number := starts.get(offset, 0)) and text is not None:
                custom_id = msgspec.json.decode(text, type=BatchRequest).custom_id
                yield render_unsent(batch.id, number, custom_id, code, message)

    async def _ended(self, batch: Batch) -> bytes:
        """Returns the bitmap of the lines that ended."""
        [key], redis = self._store.keys(batch.tenant, f"batch:{batch.id}:ended"), self._store.redis
        call = redis.execute_command("GET", key, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        found = await execute(redis, call, bytes) or b""
        return found.ljust(batch.total // 8 + 1, b"\0")

    async def _write(self, batch: Batch, kind: str, lines: AsyncIterator[bytes]) -> str:
        """Stores a file, and returns its ID.

        The ID is always the same and the manifest always another one: the first record remains, with its own manifest.
        So a repeated step makes no second file, and one that is late changes nothing.
        """
        digest = hashlib.blake2b(f"{batch.id} {kind}".encode(), digest_size=16).hexdigest()
        expires_at = int(self._clock()) + batch.output_kept_s
        stored_until, size = -(-expires_at // HOUR_S) * HOUR_S, 0

        async def measured() -> AsyncIterator[bytes]:
            nonlocal size
            held = bytearray()
            async for line in lines:
                size += rendered_bytes(line)
                held += line
                if len(held) >= _CHUNK_BYTES:
                    yield bytes(held)
                    held.clear()
            yield bytes(held)

        memory = ByteAccount(self._budget, batch.tenant)
        try:
            held_bytes = STREAM_HELD_BYTES + batch.total * _LINE_HELD_BYTES + self._line_max_bytes[batch.endpoint]
            await memory.wait_within(held_bytes, _MEMORY_WAIT_S)
            name = manifest_name(batch.tenant, stored_until, uuid.uuid4().hex)
            await self._files.objects.put(name, measured(), _CONTENT_TYPE)
        finally:
            memory.close()
        filename = f"{batch.id}_{'output' if kind == 'output' else 'error'}.jsonl"
        file_id = f"file-{digest}"
        await self._files.add_rendered(
            file_id, batch.tenant, filename, PURPOSE, size, expires_at, f"{OUTPUT}:", objects=[name]
        )
        return file_id


async def _keep(lock: LeaderLock, caller: "asyncio.Task[object] | None") -> None:
    """Renews a lock until cancelled, or cancels its holder."""
    while True:
        await asyncio.sleep(_LOCK_S / 3)
        try:
            is_held = await lock.renew()
        except GatewayError:
            is_held = False
        if not is_held and caller:
            caller.cancel()
            return
