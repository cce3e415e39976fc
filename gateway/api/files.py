"""OpenAI's files, of purpose `batch` (reference/batch-files.md 1)."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.schemas import QueryFields
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import context_of, json_response
from gateway.api.errors import unknown_route
from gateway.api.identity import read_idempotency_key
from gateway.api.middleware import AsgiEndpoint
from gateway.api.multipart import FormLimits, is_form, receive_form
from gateway.api.refusals import missing, refused_value, unknown_parameter, unknown_parameters, wrong_value
from gateway.api.shutdown import ShutdownState
from gateway.api.stored_content import respond_with
from gateway.api.stored_files import NO_STORAGE
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal
from gateway.jobs.batches import BatchStore
from gateway.jobs.file_records import FileRecord
from gateway.jobs.files import Files
from gateway.jobs.uploads import Upload

PATHS: Final = ("/v1/files", "/v1/files/{id}", "/v1/files/{id}/content")
_PURPOSE: Final = "batch"
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_FIELDS: Final = frozenset({"purpose", _ANCHOR, _SECONDS})
_KEEP_S: Final = 30 * 86_400
"""OpenAI's default for batches, and its limit."""
_KEEP_MIN_S: Final = 3600
_INTEGER: Final = re.compile(r"\d{1,9}", re.ASCII)
_PAGE_MAX: Final = 10_000
_NAME_MAX_CHARS: Final = 255
_API_VERSION: Final = "api-version"
"""Azure's clients send it with every request."""


_CONTENT_TYPE: Final = "application/octet-stream"
"""As OpenAI's. A browser saves it, whatever it holds."""
Handler = Callable[[Request, Files], Awaitable[Response]]


@dataclass(frozen=True, slots=True, repr=False)
class FileRoutes:
    """Request handlers of files."""

    authenticator: TenantAuthenticator
    files: Files | None
    """None without a storage."""
    batches: BatchStore
    limits: FormLimits
    drain: ShutdownState

    def routes(self) -> list[Route]:
        handlers: tuple[Mapping[str, Handler], ...] = (
            {"GET": self.list_files, "POST": self.create},
            {"GET": self.get, "DELETE": self.delete},
            {"GET": self.read},
        )
        return [
            Route(path, AsgiEndpoint(partial(self._serve, by_method)), methods=list(by_method))
            for path, by_method in zip(PATHS, handlers, strict=True)
        ]

    async def create(self, request: Request, files: Files) -> Response:
        """Receives a file into the storage while it arrives. The order of its form's parts is free."""
        if self.drain.is_on:
            raise GatewayError(ErrorCode.SHUTTING_DOWN, "received during shutdown")
        caller = await self.authenticator.authenticate(request)
        await self.authenticator.load_rates(request, caller, is_counted=True)
        with self._counting_refusals(caller):
            key = read_idempotency_key(request.headers)
            if not is_form(request):
                raise GatewayError(
                    ErrorCode.UNSUPPORTED_CONTENT_TYPE, "This API method only accepts 'multipart/form-data'."
                )
            upload = files.begin_upload(caller.tenant.name, context_of(request).memory, is_hashed=key is not None)
            try:
                record = await self._receive(request, files, upload, key)
            except BaseException:
                await upload.discard()
                raise
        return _render(record)

    async def list_files(self, request: Request, files: Files) -> Response:
        caller = await self.authenticator.authenticate_reader(request)
        with self._counting_refusals(caller):
            query = QueryFields(request)
            purpose, after, order = query.text("purpose"), query.text("after"), query.text("order") or "desc"
            limit = query.integer("limit", 1, _PAGE_MAX, _PAGE_MAX)
            query.text(_API_VERSION)
            query.reject_unknown()
            if order not in {"asc", "desc"}:
                raise wrong_value("order", order, ("asc", "desc"))
            records, has_more = await files.list_page(
                caller.tenant.name,
                purpose=purpose,
                limit=limit,
                after=after,
                is_ascending=order == "asc",
                take=context_of(request).memory.take,
            )
        return json_response(
            {
                "object": "list",
                "data": [describe_file(record) for record in records],
                "first_id": records[0].id if records else None,
                "last_id": records[-1].id if records else None,
                "has_more": has_more,
            }
        )

    async def get(self, request: Request, files: Files) -> Response:
        return _render(await self._find(request, files))

    async def read(self, request: Request, files: Files) -> Response:
        record = await self._find(request, files)
        name = quote(record.filename, safe="")
        quoted = f'filename="{name}"' if name == record.filename else f"filename*=utf-8''{name}"
        headers = {"content-disposition": f"attachment; {quoted}"}
        return await respond_with(request, record.etag, _CONTENT_TYPE, headers, partial(files.open, record))

    async def delete(self, request: Request, files: Files) -> Response:
        """Deletes a file. The input of a batch is kept until the batch has ended, which needs it for each line."""
        record = await self._find(request, files)
        if batch_id := await self.batches.find_open_by_input(record.tenant, record.id):
            text = f"Cannot delete file '{record.id}': batch '{batch_id}', which has not ended, reads it."
            raise GatewayError(
                ErrorCode.INVALID_VALUE, f"{text} Cancel the batch first, or wait for its end.", param="id"
            )
        await files.delete(record)
        return json_response({"id": record.id, "object": "file", "deleted": True})

    async def _serve(self, handlers: Mapping[str, Handler], request: Request) -> Response:
        """Raises: GatewayError UNKNOWN_ROUTE without a storage."""
        if self.files is None:
            raise unknown_route(request.scope, NO_STORAGE)
        return await handlers["GET" if request.method == "HEAD" else request.method](request, self.files)

    async def _find(self, request: Request, files: Files) -> FileRecord:
        caller = await self.authenticator.authenticate_reader(request)
        with self._counting_refusals(caller):
            record = await files.get(caller.tenant.name, request.path_params["id"])
        context_of(request).file_id = record.id
        return record

    async def _receive(self, request: Request, files: Files, upload: Upload, key: str | None) -> FileRecord:
        """Raises: what `receive_form`, `Upload` and `Files.add_upload` raise."""
        names: list[str] = []

        def open_file(name: str, file_name: str, texts: Mapping[str, str]) -> Upload:
            if name != "file":
                raise unknown_parameter(name)
            if len(file_name) > _NAME_MAX_CHARS or not (file_name or "upload").isprintable():
                raise refused_value(
                    "file", f"its name has more than {_NAME_MAX_CHARS} characters, or unprintable ones."
                )
            _check_purpose(texts.get("purpose", _PURPOSE))
            names.append(file_name or "upload")
            return upload

        async with receive_form(request, self.limits, open_file) as texts:
            keep_s = _read_texts(texts)
        if not names:
            raise missing("file")
        identity = ("", "")
        if key is not None:
            keyed_hash = self.authenticator.authenticator.keyed_hash
            assert upload.digest
            fingerprint = f"file {upload.digest.hexdigest()} {keep_s} {names[0]}"
            identity = (await keyed_hash(f"file idempotency-key {key}"), await keyed_hash(fingerprint))
        record = await files.add_upload(upload, names[0], _PURPOSE, keep_s, identity)
        context = context_of(request)
        context.file_id = record.id
        if record.id != upload.file_id:
            context.replayed = "idempotency_key"
        return record

    @contextmanager
    def _counting_refusals(self, caller: Principal) -> Iterator[None]:
        """A request that is refused for its content counts as such."""
        try:
            yield
        except (GatewayError, ClientDisconnect):
            self.authenticator.count_refusal(caller)
            raise


def describe_file(record: FileRecord) -> dict[str, object]:
    """Renders OpenAI's file object."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def _check_purpose(purpose: str) -> None:
    if purpose != _PURPOSE:
        raise wrong_value("purpose", purpose, (_PURPOSE,))


def _read_texts(texts: Mapping[str, str]) -> int:
    """Returns the seconds for which a file is kept. Raises: GatewayError."""
    if unknown := sorted(texts.keys() - _FIELDS):
        raise unknown_parameters(unknown)
    if "purpose" not in texts:
        raise missing("purpose")
    _check_purpose(texts["purpose"])
    anchor, seconds = texts.get(_ANCHOR), texts.get(_SECONDS)
    if anchor is None and seconds is None:
        return _KEEP_S
    if anchor is None or seconds is None:
        raise missing(_ANCHOR if anchor is None else _SECONDS)
    if anchor != "created_at":
        raise wrong_value(_ANCHOR, anchor, ("created_at",))
    if not _INTEGER.fullmatch(seconds) or not _KEEP_MIN_S <= int(seconds) <= _KEEP_S:
        raise refused_value(_SECONDS, f"expected an integer from {_KEEP_MIN_S} to {_KEEP_S}.")
    return int(seconds)


def _render(record: FileRecord) -> Response:
    return json_response(describe_file(record))
