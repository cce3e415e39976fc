"""`/admin/v1/usage/export` and `/admin/v1/usage/closings`: usage as files, and months that stay as they were billed.

A file is complete before it is sent, so its headers state its length, lines and digest. Memory: 1 MiB, the rest is on
disk.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import Annotated, Final

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.api.admin import Handlers
from gateway.api.admin.periods import parse_month
from gateway.api.admin.schemas import QueryFields, Schema, read_document
from gateway.api.admin.usage import UsageSection
from gateway.api.admin.usage_columns import check_hours, parse_by
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.refusals import refused_value, wrong_value
from gateway.api.usage_amounts import describe_record
from gateway.domain.attribution import RequestFilter
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import GroupBy, UsageFilter
from gateway.metering.closing import MonthCloser
from gateway.metering.exports import Exports

LINES_HEADER: Final = "x-imagegate-lines"
_FORMATS: Final = ("csv", "jsonl", "focus")
_IN_MEMORY_BYTES: Final = 1024 * 1024
_BLOCK_BYTES: Final = 256 * 1024
_CONCURRENCY: Final = 2
"""Exports that a process renders at once; the others wait."""
_RENDER_TIMEOUT_S: Final = 600.0
"""For waiting and rendering. The command waits longer."""


class _CloseBody(Schema):
    month: Annotated[str, Meta(max_length=16)]
    dry_run: bool = False


@dataclass(slots=True, eq=False)
class ExportDisk:
    """The bytes of all export files of a process, until they are sent, and their limit."""

    limit_bytes: int
    held_bytes: int = 0


@dataclass(slots=True, eq=False, repr=False)
class _Spool:
    """A file of an export, in memory or on disk."""

    disk: ExportDisk
    file: SpooledTemporaryFile[bytes] = field(default_factory=partial(SpooledTemporaryFile, _IN_MEMORY_BYTES))
    size_bytes: int = 0
    lines: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def write(self, block: bytes) -> None:
        """Raises: GatewayError INVALID_VALUE beyond the limit of all export files, MEMORY_FULL if the disk is full."""
        self.size_bytes += len(block)
        self.disk.held_bytes += len(block)
        if self.disk.held_bytes > self.disk.limit_bytes:
            why = f"with this file, exports exceed [server] max_spooled_bytes, {self.disk.limit_bytes} bytes."
            raise refused_value("from", f"{why} Select fewer days, or one tenant.")
        self.lines += block.count(b"\n")
        self.digest.update(block)
        try:
            await asyncio.to_thread(self.file.write, block)
        except OSError as error:
            raise GatewayError(ErrorCode.MEMORY_FULL, f"a temporary file: {error.strerror}") from error

    def close(self) -> None:
        self.disk.held_bytes -= self.size_bytes
        self.file.close()

    async def blocks(self) -> AsyncIterator[bytes]:
        self.file.seek(0)
        while block := await asyncio.to_thread(self.file.read, _BLOCK_BYTES):
            yield block


class _FileResponse(StreamingResponse):
    """Sends a file, or the status alone if the client has it, and closes it."""

    def __init__(self, spool: _Spool, known: str, name: str, media_type: str) -> None:
        headers = {"etag": f'"{spool.digest.hexdigest()}"', LINES_HEADER: str(spool.lines)}
        self._spool = spool
        if headers["etag"] in known:
            super().__init__(iter(()), 304, headers)
        else:
            headers["content-length"] = str(spool.size_bytes)
            headers["content-disposition"] = f'attachment; filename="{name}"'
            super().__init__(spool.blocks(), 200, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._spool):
            await super().__call__(scope, receive, send)


@dataclass(frozen=True, slots=True, repr=False)
class ExportSection:
    """Exports of usage, and month closes."""

    usage: UsageSection
    exports: Exports
    closer: MonthCloser
    limits: BodyLimits
    disk: ExportDisk
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CONCURRENCY))

    def handlers(self) -> Handlers:
        return {
            "/usage/export": {"GET": self.export},
            "/usage/closings": {"GET": self.list_closings, "POST": self.close},
        }

    async def export(self, request: Request, _: Actor) -> Response:
        query = QueryFields(request)
        form = query.text("format") or "csv"
        if form not in _FORMATS:
            raise wrong_value("format", form, _FORMATS)
        selection = UsageFilter(*self.usage.parse_days(query), query.text("tenant"))
        columns = query.text("by")
        if columns is not None and form != "csv":
            raise refused_value("by", f"format={form} has every request's own. Use it with format=csv.")
        by = parse_by(columns)
        check_hours(by, selection)
        wanted = self.usage.parse_wanted(query, by)
        if wanted.tag and wanted.tag.value is None and form != "csv":
            raise refused_value("tag", f"format={form} has every request's own. Use KEY=VALUE, or format=csv.")
        has_bom = query.text("bom")
        if has_bom not in {None, "true", "false"}:
            raise refused_value("bom", "expected true or false.")
        if has_bom == "true" and form == "jsonl":
            raise refused_value("bom", "JSON Lines have no byte order mark. Use it with format=csv or format=focus.")
        query.reject_unknown()
        lines = {
            "csv": self.exports.csv(selection, by, wanted),
            "focus": self.exports.focus(selection, wanted),
            "jsonl": self._records(selection, wanted),
        }[form]
        start = b"\xef\xbb\xbf" if has_bom == "true" else b""
        spool = await self._render(lines, start)
        kind = "application/jsonl" if form == "jsonl" else "text/csv; charset=utf-8; header=present"
        known = request.headers.get("if-none-match", "")
        return _FileResponse(spool, known, _file_name(form, selection, by), kind)

    async def list_closings(self, request: Request, _: Actor) -> Response:
        QueryFields(request).reject_unknown()
        return json_response({"data": [asdict(one) for one in await self.closer.closings()]})

    async def close(self, request: Request, actor: Actor) -> Response:
        QueryFields(request).reject_unknown()
        body = await read_document(request, self.limits, _CloseBody)
        first, _ = parse_month(body.month, self.usage.today())
        closed = await self.closer.close(first, actor, is_dry_run=body.dry_run)
        return json_response(asdict(closed), 200 if body.dry_run else 201)

    async def _render(self, lines: AsyncIterator[str], start: bytes) -> _Spool:
        spool, block = _Spool(self.disk), bytearray(start)
        try:
            async with asyncio.timeout(_RENDER_TIMEOUT_S), self.slots:
                async for line in lines:
                    block += line.encode()
                    if len(block) >= _BLOCK_BYTES:
                        await spool.write(bytes(block))
                        block.clear()
                await spool.write(bytes(block))
        except BaseException as error:
            spool.close()
            if not isinstance(error, TimeoutError):
                raise
            why = f"the export takes more than {_RENDER_TIMEOUT_S:.0f} s. Select fewer days, or one tenant."
            raise refused_value("from", why) from None
        return spool

    async def _records(self, selection: UsageFilter, wanted: RequestFilter) -> AsyncIterator[str]:
        async for record in self.exports.records(selection, wanted):
            yield json.dumps(describe_record(record), default=str, separators=(",", ":")) + "\n"


def _file_name(form: str, selection: UsageFilter, by: tuple[GroupBy, ...]) -> str:
    days = f"{selection.first}_{selection.last}"
    if form == "csv":
        return f"imagegate_usage_{days}_by-{'-'.join(group.value for group in by)}.csv"
    return f"imagegate_focus_{days}.csv" if form == "focus" else f"imagegate_records_{days}.jsonl"
