"""Runs one line of a batch: an ordinary request of its tenant, whose pictures are stored.

Invariant: a line is bought once. Its order has the line as its identity (metering/lua/repeats.lua), so that two
processes never buy it twice. If a process dies, the state of its order decides: free, running, or of unknown outcome.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from gateway.domain.attribution import Attribution
from gateway.domain.billing import BatchLine, OrderIdentity, Repetition
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, ImageResult, ImageUrl, Picture, ResponseFormat, sniff_base64
from gateway.domain.tenants import Principal
from gateway.generation.context import GenerationRequest, RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.generation.service import GenerationService
from gateway.jobs.batch_input import BatchRequest, entry_range, read_entry
from gateway.jobs.batch_output import refer, render_line
from gateway.jobs.batches import Batch, BatchStore
from gateway.jobs.files import Files
from gateway.jobs.line_files import embed_files
from gateway.metering.decisions import RepeatedRequestError, UnclaimedLineError
from gateway.redis import execute
from gateway.storage.pictures import PictureStore, StoredPicture

_LOG = structlog.get_logger("imagegate.batches")
_SAVE_AGAIN_S: Final = (1.0, 5.0, 20.0)
"""Pauses between attempts to store a picture that was paid for."""
_WAIT_S: Final = 5.0
"""Pause of a line for which there is no capacity, memory or storage; it waited in the queue already."""
_DOUBT_S: Final = 5.0
_FAILURES_MAX: Final = 3
"""Limit on the attempts of a line that the image service or this program failed to process, for free."""
_BUG_S: Final = 30.0
"""Pause of a line at which this program failed."""
_QUOTA_PAUSE_MAX_S: Final = 300.0
"""An operator may raise a quota at any time."""
_PAUSE_S: Final = 60.0
"""Pause of a batch whose key cannot be used, whose images cannot be stored, or whose input cannot be read."""
_PAUSES: Final = {
    ErrorCode.INVALID_API_KEY: "api_key",
    ErrorCode.STORAGE_UNAVAILABLE: "storage",
    ErrorCode.STORAGE_QUOTA_EXHAUSTED: "storage_quota",
}
"""Why a batch pauses after an error, before anything was bought."""
_INPUT_UNREADABLE: Final = frozenset({ErrorCode.STORAGE_UNAVAILABLE, ErrorCode.NOT_FOUND})
"""The storage does not respond, or has lost the input file."""
_IMAGE_BYTES: Final = 1024 * 1024
"""Size of an image before this process has stored one of its model. A JPEG of 1024 x 1024 has less, a PNG more."""

Chunks = list[bytes | memoryview]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """The request of a line."""

    request: GenerationRequest
    """Its images are wanted in base64."""
    asked: ResponseFormat
    model_name: str
    attribution: Attribution


class LineFormat(Protocol):
    """The client format of lines: parses their bodies and renders their responses."""

    async def parse(self, batch: Batch, body: bytes, caller: Principal) -> ParsedLine:
        """Raises: GatewayError for an invalid request."""

    def render(self, result: ImageResult) -> Chunks: ...
    def render_error(self, error: GatewayError, model_name: str) -> bytes: ...


@dataclass(slots=True, eq=False)
class ClaimedLine:
    """A line that this process has claimed."""

    batch: Batch
    number: int
    state: str
    """Of the order of a process that died: it decides, and the line does not run. "" if the line is to run."""
    claim: str
    """See lua/claim_lines.lua. Replaced if this process claims the line again."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set if the line is to end unless it was sent."""
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class LineEnd:
    """What became of a claimed line; see lua/end_line.lua."""

    result: str
    text: bytes = b""
    """The line of the output or error file."""
    delay_s: float = 0.0
    failures_max: int = 0
    pause_s: float = 0.0
    """Pause before the next line of the batch begins; longer if images of this one were lost."""
    pause_reason: str = ""


Record = Callable[[LineEnd], Awaitable[bool]]
"""Records what became of a line; False if Redis did not confirm it."""


@dataclass(slots=True, eq=False)
class LineRunner:
    """Runs lines of batches."""

    _store: BatchStore
    _files: Files
    _pictures: PictureStore
    _service: GenerationService
    _format: LineFormat
    _find_principal: Callable[[str], Awaitable[Principal | None]]
    """Returns the principal of a key ID; None if the key or its tenant cannot be used."""
    _sign: Callable[[StoredPicture], Awaitable[str]]
    """Returns path and query of a link to a picture."""
    _budget: ByteBudget
    _files_max_bytes: int
    """Limit on the files that a line names."""
    _image_bytes: dict[str, int] = field(default_factory=dict)
    """By model ID, the size of the largest of the last images."""

    async def run(self, claimed: ClaimedLine, record: Record) -> LineEnd:
        """Runs a claimed line.

        A result is stored and recorded before it is settled. So a process that dies leaves either a line that ended, or
        an unknown outcome, and never images that are charged and lost.
        """
        batch, number = claimed.batch, claimed.number
        account, line = ByteAccount(self._budget, batch.tenant), None
        context = RequestContext(f"req_{uuid.uuid4().hex}", time.monotonic(), account, claimed.left)
        context.tenant, context.key_id = batch.tenant, batch.key_id
        try:
            line = await self._read(batch, number, account)
            if claimed.state:
                return self._failed(batch, number, line, context, GatewayError(ErrorCode.UPSTREAM_TIMEOUT))
            return await self._generate(claimed, line, context, record)
        except GatewayError as error:  # the input or Redis is unavailable, or there is no memory: nothing was sent
            if error.error_code in _INPUT_UNREADABLE:
                return LineEnd("waiting", pause_s=_PAUSE_S, pause_reason="storage")
            return LineEnd("waiting", delay_s=_WAIT_S)
        except Exception:  # noqa: BLE001 - a bug must not lose the line: its order decides whether it runs again
            _LOG.exception("batch_line_failed", tenant=batch.tenant, batch=batch.id, line=number)
            end = LineEnd("doubtful", delay_s=_BUG_S)
            if line is None:
                return end
            failed = self._failed(batch, number, line, context, GatewayError(ErrorCode.INTERNAL))
            return replace(end, text=failed.text, failures_max=_FAILURES_MAX)
        finally:
            account.close()

    async def _read(self, batch: Batch, number: int, account: ByteAccount) -> BatchRequest:
        """Reads a line of the input file. Raises: GatewayError."""
        [key] = self._store.keys(batch.tenant, f"batch:{batch.id}:index")
        redis = self._store.redis
        call = redis.execute_command("GETRANGE", key, *entry_range(number), NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        offset, length = read_entry(await execute(redis, call, bytes))
        account.take(2 * length)  # the line, and its body once more
        record = await self._files.get(batch.tenant, batch.input_file_id)
        stored = await self._files.open(record, offset, offset + length)
        content = b"".join([bytes(chunk) async for chunk in stored])
        return msgspec.json.decode(content, type=BatchRequest)

    async def _generate(
        self, claimed: ClaimedLine, line: BatchRequest, context: RequestContext, record: Record
    ) -> LineEnd:
        batch, number = claimed.batch, claimed.number
        principal = await self._find_principal(batch.key_id)
        if principal is None:
            return LineEnd("waiting", pause_s=_PAUSE_S, pause_reason="api_key")
        context.tenant = principal.tenant.current_name
        name = f"{batch.id}:{number}"
        context.identity = OrderIdentity(Repetition.LINE, name, name)
        kept = b""
        try:
            body = bytes(line.body)
            body = await embed_files(self._files, batch.tenant, body, context.memory, self._files_max_bytes)
            parsed = await self._format.parse(batch, body, principal)
            request, context.model_name, context.attribution = parsed.request, parsed.model_name, parsed.attribution
            context.memory.take(request.job.held_bytes)
            model_id = request.model.id
            size_bytes = self._image_bytes.get(model_id, _IMAGE_BYTES) * request.job.count
            async with self._pictures.hold_room(batch.tenant, size_bytes) as give_back:

                async def keep(result: ImageResult) -> None:
                    nonlocal kept
                    await give_back()
                    response = await self._store_images(batch, model_id, result, parsed.asked)
                    kept = render_line(batch.id, number, line.custom_id, (200, context.id, response))
                    await record(LineEnd("stored", kept))

                context.keep_result = keep
                context.batch = BatchLine(batch.id, line.custom_id, claimed.claim)
                await self._service.generate(principal, request, context)
        except UnclaimedLineError:
            return LineEnd("waiting")
        except RepeatedRequestError:
            return LineEnd("doubtful", delay_s=_DOUBT_S)
        except GatewayError as error:
            return self._refused(batch, number, line, context, error)
        return LineEnd("completed", kept)

    def _refused(
        self, batch: Batch, number: int, line: BatchRequest, context: RequestContext, error: GatewayError
    ) -> LineEnd:
        """Decides whether a line waits, pauses its batch, or ends with its error."""
        code, failed = error.error_code, self._failed(batch, number, line, context, error)
        if code is ErrorCode.QUOTA_EXHAUSTED and error.retry_after_s is not None:
            return LineEnd("waiting", pause_s=min(error.retry_after_s, _QUOTA_PAUSE_MAX_S), pause_reason="quota")
        if code in _PAUSES:
            return LineEnd("waiting", pause_s=_PAUSE_S, pause_reason=_PAUSES[code])
        if code is ErrorCode.CLIENT_DISCONNECTED:
            return LineEnd("waiting")
        if code is ErrorCode.RESULT_NOT_KEPT:
            return replace(failed, pause_s=_PAUSE_S, pause_reason="storage")
        if not error.row.may_client_retry:
            return failed
        is_failure = error.row.status == 502
        return replace(failed, result="waiting", delay_s=_WAIT_S, failures_max=_FAILURES_MAX if is_failure else 0)

    def _failed(
        self, batch: Batch, number: int, line: BatchRequest, context: RequestContext, error: GatewayError
    ) -> LineEnd:
        body = self._format.render_error(error, context.model_name)
        response = (error.row.status, context.id, [body])
        return LineEnd("failed", render_line(batch.id, number, line.custom_id, response))

    async def _store_images(
        self, batch: Batch, model_id: str, result: ImageResult, asked: ResponseFormat
    ) -> Iterator[bytes]:
        """Stores the images until the output file expires.

        Returns: the response's body, with links and references to the images as the client asked for them.
        Raises: GatewayError RESULT_NOT_KEPT.
        """
        keep_s = max(0, batch.expires_at - int(time.time())) + batch.output_kept_s
        pictures, references = list[Picture](), list[bytes]()
        for image in result.pictures:
            picture: Picture = image
            if isinstance(image, Base64Image):
                form = sniff_base64(image.base64) or Format.JPEG
                stored = await _insist(partial(self._pictures.save, batch.tenant, image, form, keep_s))
                references.append(refer(stored))
                known_bytes = self._image_bytes.get(model_id, 0)
                self._image_bytes[model_id] = max(stored.size_bytes, known_bytes - known_bytes // 8)
                if asked is not ResponseFormat.BASE64:
                    url = batch.base_url + await _insist(partial(self._sign, stored))
                    picture = ImageUrl(url) if asked is ResponseFormat.URL else replace(image, url=url)
            pictures.append(picture)
        left = iter(references)
        chunks = self._format.render(replace(result, pictures=tuple(pictures)))
        return (next(left) if isinstance(chunk, memoryview) else chunk for chunk in chunks)


async def _insist(call: Callable[[], Awaitable[_T | None]]) -> _T:
    """Repeats a call for an image that was paid for. Raises: GatewayError RESULT_NOT_KEPT after half a minute."""
    for pause_s in (*_SAVE_AGAIN_S, 0.0):
        with suppress(GatewayError):
            if (found := await call()) is not None:
                return found
        await asyncio.sleep(pause_s)
    raise GatewayError(ErrorCode.RESULT_NOT_KEPT, "The images were made and charged, but could not be stored.")
