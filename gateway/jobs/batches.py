"""Batches: their records in Redis, and the states that they go through.

Redis keys of a batch have its tenant's hash tag: `batch:ID` (hash: the fields of `Batch`), `batch:ID:waiting`,
`:ended`, `:output`, `:errors`, `:tries` and `:index` (see lua/claim_lines.lua, lua/end_line.lua and batch_input.py).
Those of the tenant are `batches`, `batches_open`, `batches_failed`, `batches_bytes` and `batch_lines`. `ig3:batches`
lists the open ones of all tenants.

A record has at most 34 KiB: errors and metadata of 16 KiB each, and its other fields. A tenant keeps at most 16 MiB of
records, and 10,000: a create drops the oldest ended ones. A failed batch is dropped after 7 days. To these, each open
batch adds 8 bytes for every line, and for every ended line that of its file: at most 0.5 KiB of `custom_id` and its
response, which holds no image. With the default limits, 20 open batches of 5,000 lines, that is 16 MiB and 100 MB.
"""

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.jobs.batch_fields import first_encoded, read_fields, write_fields
from gateway.metering.reservations import redis_keys
from gateway.redis import Client, execute, load_script

KEPT_S: Final = 32 * 86_400
"""Retention of a batch's record: its window and the longest life of its files."""
_FAILED_KEPT_S: Final = 7 * 86_400
"""Retention of the record of a batch whose input file was invalid."""
WINDOW_S: Final = 86_400
"""OpenAI's only completion window, 24 hours."""
_KEY_KEPT_S: Final = 86_400
"""Retention of an Idempotency-Key."""
_REPEATED: Final = "idempotency:batches"
_ERRORS_MAX_BYTES: Final = 16 * 1024
"""Of the errors in a record; the first ones are kept."""
_PAGE_MAX_BYTES: Final = 512 * 1024
"""Limit on the records of a page, which stop the process while they are decoded and rendered."""
_PAGE_COPIES: Final = 4
"""Of a record: as it is received, decoded, described and rendered."""
_ID: Final = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)
_ALL_OPEN: Final = "Rate limit reached for open batches of this server. Try again later."


class BatchStatus(Enum):
    """The status of a batch, as OpenAI names it."""

    VALIDATING = "validating"
    FAILED = "failed"  # the input file is invalid, and no line ran; or the gateway failed to write the files
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  # no more lines begin; the files are written
    COMPLETED = "completed"
    EXPIRED = "expired"  # as completed, but the window ended before every line ran
    CANCELLING = "cancelling"  # no more lines begin; the files are written
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


_S = BatchStatus
TRANSITIONS: Final[Mapping[BatchStatus, frozenset[BatchStatus]]] = MappingProxyType(
    {
        _S.VALIDATING: frozenset({_S.IN_PROGRESS, _S.FAILED, _S.CANCELLING}),
        _S.IN_PROGRESS: frozenset({_S.FINALIZING, _S.CANCELLING}),
        _S.FINALIZING: frozenset({_S.COMPLETED, _S.EXPIRED, _S.FAILED}),
        _S.CANCELLING: frozenset({_S.CANCELLED, _S.FAILED}),
        _S.FAILED: frozenset(),
        _S.COMPLETED: frozenset(),
        _S.EXPIRED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
"""The statuses that may follow each status."""


class LineError(msgspec.Struct, frozen=True):
    """A problem of an input file; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Times are Unix seconds, and absent before they are known."""

    id: str
    tenant: str
    key_id: str
    """Of the API key that created it: its limits apply to every line."""
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    output_kept_s: int
    """How long its files are kept once they exist."""
    base_url: str = ""
    """Of links in its output, without a slash at the end."""
    metadata: dict[str, str] | None = None
    tags: dict[str, str] = {}
    """Of the headers that created it, for every line."""
    status: BatchStatus = BatchStatus.VALIDATING
    model: str | None = None
    total: int = 0
    images: int = 0
    """Requested by all lines."""
    completed: int = 0
    failed: int = 0
    next: int = 0
    """The last line that ever began."""
    paused_until_ms: int = 0
    pause_reason: str = ""
    errors: tuple[LineError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits on the batches of one tenant."""

    open_max: int
    """Batches that have not ended."""
    all_open_max: int = 1000
    """Batches of all tenants that have not ended, which bounds what they keep in Redis."""
    kept_max: int = 10_000
    """Batches in the list, ended ones included."""
    kept_bytes: int = 16 * 1024**2
    """Of the records of these batches."""


class BatchStore:
    """The batches of all tenants. Each call raises GatewayError REDIS_UNAVAILABLE."""

    def __init__(self, redis: Client, limits: BatchLimits) -> None:
        self.redis = redis
        self._limits = limits
        self._create, self._advance = load_script(redis, "jobs/create_batch"), load_script(redis, "jobs/advance_batch")

    def keys(self, tenant: str, *names: str) -> list[str]:
        return redis_keys(self.redis.prefix, tenant, *names)

    async def create(self, batch: Batch, idempotency: tuple[str, str] | None = None) -> Batch:
        """Creates a batch, or returns the one that a request with the same Idempotency-Key created.

        `idempotency` is the key and the fingerprint of the request, as keyed hashes.
        Raises: GatewayError RATE_LIMITED if the tenant has too many batches, IDEMPOTENCY_KEY_REUSED.
        Redis: two round trips, three for a repeated request.
        """
        name, fingerprint = idempotency or ("", "")
        names = (
            "batches",
            "batches_open",
            f"batch:{batch.id}",
            f"{_REPEATED}:{name}",
            "batches_bytes",
            "batches_failed",
        )
        keys = self.keys(batch.tenant, *names)
        fields = write_fields({name: getattr(batch, name) for name in Batch.__struct_fields__})
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.zadd(self._all, {f"{batch.tenant} {batch.id}": time.time()})  # finer than `created_at`
        pipeline.zcard(self._all)
        if (await execute(self.redis, pipeline.execute(), list[int]))[1] > self._limits.all_open_max:
            await self.drop(batch.tenant, batch.id)
            raise GatewayError(ErrorCode.RATE_LIMITED, _ALL_OPEN, retry_after_s=30)
        limits = (self._limits.open_max, self._limits.kept_max, self._limits.kept_bytes)
        terms = (KEPT_S, _FAILED_KEPT_S, _KEY_KEPT_S)
        reply = str(await self._create(keys, [batch.id, *limits, *terms, name, fingerprint, fields]))
        if reply == batch.id:
            return batch
        await self.drop(batch.tenant, batch.id)
        if reply == "reused":
            raise GatewayError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
        if reply == "open":
            text = (
                f"Rate limit reached for open batches of tenant '{batch.tenant}': limit {limits[0]}. Try again later."
            )
            raise GatewayError(ErrorCode.RATE_LIMITED, text, retry_after_s=30)
        return await self.get(batch.tenant, reply)

    async def find_repeated(self, tenant: str, idempotency: tuple[str, str]) -> Batch | None:
        """Returns the batch that an earlier request with the same Idempotency-Key created.

        Raises: GatewayError IDEMPOTENCY_KEY_REUSED. Redis: one round trip, two for a repeated request.
        """
        name, fingerprint = idempotency
        [key] = self.keys(tenant, f"{_REPEATED}:{name}")
        call = self.redis.hmget(key, ["fingerprint", "batch"])
        known, batch_id = await execute(self.redis, call, list[str | None])
        if known is None or batch_id is None:
            return None
        if known != fingerprint:
            raise GatewayError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
        return await self.get(tenant, batch_id)

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises: GatewayError NOT_FOUND, also for a batch of another tenant."""
        if found := await self.find(tenant, batch_id):
            return found
        raise GatewayError(ErrorCode.NOT_FOUND, f"No batch found with id '{batch_id[:64]}'.")

    async def find(self, tenant: str, batch_id: str) -> Batch | None:
        if not _ID.fullmatch(batch_id):
            return None  # it would be another Redis key
        [key] = self.keys(tenant, f"batch:{batch_id}")
        fields = await execute(self.redis, self.redis.hgetall(key), dict[str, str])
        return read_fields(fields, Batch) if fields else None

    async def list_page(
        self, tenant: str, limit: int, after: str | None, take: Callable[[int], None]
    ) -> tuple[list[Batch], bool]:
        """Returns up to `limit` batches, the newest first, and whether there are more.

        A page of large records is shorter. `take` counts the bytes that it needs before they are received.
        Raises: GatewayError INVALID_VALUE if `after` is no batch of the tenant, and those of `take`.
        Redis: up to four round trips.
        """
        (key, bytes_key), start = self.keys(tenant, "batches", "batches_bytes"), 0
        if after is not None:
            rank = await execute(self.redis, self.redis.zrevrank(key, after), object)
            if not isinstance(rank, int):
                raise GatewayError(ErrorCode.INVALID_VALUE, f"'after': no batch '{after[:64]}'.", param="after")
            start = rank + 1
        ids = await execute(self.redis, self.redis.zrevrange(key, start, start + limit), list[str])
        if not ids:
            return [], False
        texts = await execute(self.redis, self.redis.hmget(bytes_key, ids[:limit]), list[str | None])
        totals = [size for size in accumulate(int(text or 0) for text in texts) if size <= _PAGE_MAX_BYTES]
        take(_PAGE_COPIES * max(totals, default=_PAGE_MAX_BYTES))
        count = max(1, len(totals))
        pipeline = self.redis.pipeline(transaction=False)
        for name in ids[:count]:
            pipeline.hgetall(*self.keys(tenant, f"batch:{name}"))
        records = await execute(self.redis, pipeline.execute(), list[dict[str, str]])
        return [read_fields(fields, Batch) for fields in records if fields], len(ids) > count

    async def advance(self, batch: Batch, to: BatchStatus, now_s: float, **fields: object) -> bool:
        """Gives a batch a new status; False if it has another one than `TRANSITIONS` allows. Redis: one round trip.

        `errors` are cut to what a record has room for.
        """
        before = [status.value for status, following in TRANSITIONS.items() if to in following]
        keys = self.keys(batch.tenant, f"batch:{batch.id}", "batches_open", "batches_bytes", "batches_failed")
        if isinstance(errors := fields.get("errors"), Sequence):
            fields["errors"] = first_encoded(errors, _ERRORS_MAX_BYTES)
        written = write_fields({"status": to, f"{to.value}_at": int(now_s)} | fields)
        ending = ("failed" if to is BatchStatus.FAILED else "ended") if to.is_final else ""
        return bool(await self._advance(keys, [batch.id, msgspec.json.encode(before), ending, written]))

    async def find_open_by_input(self, tenant: str, file_id: str) -> str | None:
        """Returns a batch of the tenant that has not ended and reads this file. Redis: one or two round trips."""
        [key] = self.keys(tenant, "batches_open")
        ids = sorted(await execute(self.redis, self.redis.smembers(key), set[str]))
        pipeline = self.redis.pipeline(transaction=False)
        for name in ids:
            pipeline.hget(self.keys(tenant, f"batch:{name}")[0], "input_file_id")
        inputs = await execute(self.redis, pipeline.execute(), list[str]) if ids else []
        return next((name for name, found in zip(ids, inputs, strict=True) if found == file_id), None)

    async def open_batches(self) -> list[tuple[str, str]]:
        """Returns tenant and ID of all batches until `drop`, the oldest first. Redis: one round trip."""
        members = await execute(self.redis, self.redis.zrange(self._all, 0, self._limits.all_open_max - 1), list[str])
        return [(tenant, batch_id) for tenant, _, batch_id in (member.partition(" ") for member in members)]

    async def drop(self, tenant: str, batch_id: str) -> bool:
        """Removes a batch that has ended from the open ones of all tenants; False if another process has."""
        return bool(await execute(self.redis, self.redis.zrem(self._all, f"{tenant} {batch_id}"), int))

    @property
    def _all(self) -> str:
        return f"{self.redis.prefix}:batches"


def new_batch_id() -> str:
    return f"batch_{uuid.uuid4().hex}"
