"""`/v1/batches`: batches of image requests, in OpenAI's format (reference/batch-files.md)."""

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api import openai, openai_edits, openai_responses
from gateway.api.admin.schemas import QueryFields
from gateway.api.attribution import HEADER, Attributor, SentTag
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits, context_of, json_response, read_json_body
from gateway.api.errors import unknown_route
from gateway.api.fields import Metadata, parse_fields
from gateway.api.identity import read_idempotency_key
from gateway.api.middleware import AsgiEndpoint
from gateway.api.public_url import base_url
from gateway.api.refusals import missing, refused_value, wrong_value
from gateway.api.shutdown import ShutdownState
from gateway.api.stored_files import NO_STORAGE
from gateway.domain.catalog import Catalog
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageResult, ResponseFormat
from gateway.domain.tenants import Principal, Tenant
from gateway.jobs.batch_forecast import BatchForecast
from gateway.jobs.batch_lines import ParsedLine
from gateway.jobs.batches import WINDOW_S, Batch, BatchStatus, BatchStore, new_batch_id
from gateway.jobs.files import Files

_GENERATIONS: Final = "/v1/images/generations"
_EDITS: Final = "/v1/images/edits"
ENDPOINTS: Final = (_GENERATIONS, _EDITS)
_INPUT_PURPOSE: Final = "batch"
_OUTPUT_KEPT_S: Final = 30 * 86_400
"""OpenAI's default life of output files, and the longest."""
_INPUT_LEFT_S: Final = 900
"""A window ends this long before its input file: the error file needs the custom IDs of lines that never ran."""
_METADATA_MAX_BYTES: Final = 16 * 1024
"""As JSON. 16 pairs of OpenAI's limits, 64 and 512 characters, have 9 KiB in ASCII."""
_PAGE_MAX, _PAGE_DEFAULT = 100, 20
_ETA_HEADER: Final = "x-imagegate-batch-eta-s"
_PAUSED_HEADER: Final = "x-imagegate-batch-paused"
_API_VERSION: Final = "api-version"
"""Azure's clients send it with every request."""
_METHODS: Final = {
    "/v1/batches": ("POST", "GET"),
    "/v1/batches/{id}": ("GET",),
    "/v1/batches/{id}/cancel": ("POST",),
}
Handler = Callable[[Request], Awaitable[Response]]


_KEPT_MIN_S: Final = 3600
_EXPIRY: Final = f"an object with 'anchor', which is 'created_at', and 'seconds' from {_KEPT_MIN_S} to {_OUTPUT_KEPT_S}"


class _Expiry(msgspec.Struct, forbid_unknown_fields=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=_KEPT_MIN_S, le=_OUTPUT_KEPT_S)]


class _NewBatch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: Metadata | None = None
    output_expires_after: Annotated[_Expiry, Meta(description=_EXPIRY)] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class BatchRoutes:
    """Request handlers."""

    authenticator: TenantAuthenticator
    store: BatchStore
    files: Files
    forecast: BatchForecast
    limits: BodyLimits
    drain: ShutdownState
    wake: Callable[[], None]
    """Called when there is something to do for a worker."""
    attributor: Attributor
    public_url: str = ""
    clock: Callable[[], float] = time.time

    async def create(self, request: Request) -> Response:
        """Creates a batch. What needs the file's content is validated later, and reported by the batch itself."""
        if self.drain.is_on:
            raise GatewayError(ErrorCode.SHUTTING_DOWN, "received during shutdown")
        caller = await self.authenticator.authenticate(request)
        await self.authenticator.load_rates(request, caller, is_counted=True)
        with self._counting_refusals(caller):
            new, key = _parse(await read_json_body(request, self.limits)), read_idempotency_key(request.headers)
            tags = self.attributor.read_headers(request.headers)
            _, _, context_of(request).ignored = self.attributor.check(caller, tags)
            identity, keyed_hash = None, self.authenticator.authenticator.keyed_hash
            if key is not None:
                identity = await keyed_hash(f"batch {key}"), await keyed_hash(msgspec.json.encode(new).decode())
            batch = await self.store.find_repeated(caller.tenant.name, identity) if identity else None
            if batch is None:
                batch = await self.store.create(await self._build(request, caller, new, tags), identity)
        self.wake()
        return await self._respond(batch)

    async def get(self, request: Request) -> Response:
        caller = await self.authenticator.authenticate_reader(request)
        with self._counting_refusals(caller):
            batch = await self.store.get(caller.tenant.name, request.path_params["id"])
        return await self._respond(batch)

    async def list_batches(self, request: Request) -> Response:
        caller = await self.authenticator.authenticate_reader(request)
        with self._counting_refusals(caller):
            return await list_page(request, self.store, caller.tenant.name, describe_batch)

    async def cancel(self, request: Request) -> Response:
        """Cancels a batch; lines that were sent are finished. A cancelled batch is returned as it is."""
        caller = await self.authenticator.authenticate_reader(request)
        with self._counting_refusals(caller):
            name = caller.tenant.name
            batch = await cancel_batch(self.store, name, request.path_params["id"], self.clock())
        self.wake()
        return await self._respond(batch)

    async def _build(self, request: Request, caller: Principal, new: _NewBatch, tags: Sequence[SentTag]) -> Batch:
        """Raises: GatewayError for an input file that does not exist, or that no batch may use; for too many files."""
        param = "input_file_id"
        record = await self.files.get(caller.tenant.name, str(new.input_file_id), param)
        if record.purpose != _INPUT_PURPOSE:
            text = f"Invalid file '{record.id}': expected the purpose 'batch', but got '{record.purpose}'."
            raise GatewayError(ErrorCode.INVALID_VALUE, text, param=param)
        await self.files.check_room(caller.tenant.name)
        now_s = int(self.clock())
        expires_at = min(now_s + WINDOW_S, record.expires_at - _INPUT_LEFT_S)
        if expires_at <= now_s:
            text = f"Invalid file '{record.id}': it expires in less than {_INPUT_LEFT_S} s. Upload it again."
            raise GatewayError(ErrorCode.INVALID_VALUE, text, param=param)
        return Batch(
            id=new_batch_id(),
            tenant=caller.tenant.name,
            key_id=caller.key.id,
            endpoint=str(new.endpoint),
            input_file_id=record.id,
            created_at=now_s,
            expires_at=expires_at,
            output_kept_s=new.output_expires_after.seconds if new.output_expires_after else _OUTPUT_KEPT_S,
            base_url=base_url(request, self.public_url),
            metadata=new.metadata,
            tags={key: value for _, key, value in tags},
        )

    async def _respond(self, batch: Batch) -> Response:
        response = json_response(describe_batch(batch))
        eta_s, pause_s = await self.forecast.eta_s(batch), batch.paused_until_ms / 1000 - self.clock()
        is_paused = batch.status is BatchStatus.IN_PROGRESS and pause_s > 0
        if is_paused:
            response.headers[_PAUSED_HEADER] = batch.pause_reason
        if eta_s is not None:
            response.headers[_ETA_HEADER] = str(eta_s + (math.ceil(pause_s) if is_paused else 0))
        return response

    @contextmanager
    def _counting_refusals(self, caller: Principal) -> Iterator[None]:
        """Counts a refused request, which may be one of many."""
        try:
            yield
        except GatewayError:
            self.authenticator.count_refusal(caller)
            raise


def batch_routes(batches: BatchRoutes | None) -> list[Route]:
    """Returns the routes, which refuse every request without a storage."""

    async def refuse(request: Request) -> Response:
        raise unknown_route(request.scope, NO_STORAGE)

    if batches is None:
        return [Route(path, refuse, methods=list(methods)) for path, methods in _METHODS.items()]
    handlers = ({"POST": batches.create, "GET": batches.list_batches}, {"GET": batches.get}, {"POST": batches.cancel})
    return [
        Route(path, AsgiEndpoint(partial(_serve, by_method)), methods=list(methods))
        for (path, methods), by_method in zip(_METHODS.items(), handlers, strict=True)
    ]


async def _serve(handlers: Mapping[str, Handler], request: Request) -> Response:
    return await handlers["GET" if request.method == "HEAD" else request.method](request)


async def list_page(
    request: Request, store: BatchStore, tenant: str, describe: Callable[[Batch], dict[str, object]]
) -> Response:
    """Renders the page of a tenant's batches that a query asks for."""
    query = QueryFields(request)
    limit, after = query.integer("limit", 1, _PAGE_MAX, _PAGE_DEFAULT), query.text("after")
    query.text(_API_VERSION)
    query.reject_unknown()
    found, has_more = await store.list_page(tenant, limit, after, context_of(request).memory.take)
    data = [describe(batch) for batch in found]
    ends = {"first_id": found[0].id if found else None, "last_id": found[-1].id if found else None}
    return json_response({"object": "list", "data": data, **ends, "has_more": has_more})


async def cancel_batch(store: BatchStore, tenant: str, batch_id: str, now_s: float) -> Batch:
    """Raises: GatewayError NOT_FOUND, INVALID_VALUE if the batch has ended otherwise."""
    batch = await store.get(tenant, batch_id)
    if await store.advance(batch, BatchStatus.CANCELLING, now_s):
        return await store.get(tenant, batch_id)
    batch = await store.get(tenant, batch_id)
    if batch.status not in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}:
        raise GatewayError(
            ErrorCode.INVALID_VALUE, f"Cannot cancel a batch with status '{batch.status.value}'.", param="status"
        )
    return batch


def describe_batch(batch: Batch) -> dict[str, object]:
    """Renders OpenAI's batch object, with null for what is not known yet."""
    stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    errors = {"object": "list", "data": [msgspec.to_builtins(error) for error in batch.errors]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{name}_at": getattr(batch, f"{name}_at") for name in stamps},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
    }


def _parse(body: bytes | bytearray) -> _NewBatch:
    new = parse_fields(body, _NewBatch)
    for name in ("input_file_id", "endpoint", "completion_window"):
        if getattr(new, name) is None:
            raise missing(name)
    if new.endpoint not in ENDPOINTS:
        raise wrong_value("endpoint", str(new.endpoint), ENDPOINTS)
    if new.completion_window != "24h":
        raise wrong_value("completion_window", str(new.completion_window), ("24h",))
    if len(msgspec.json.encode(new.metadata)) > _METADATA_MAX_BYTES:
        raise refused_value("metadata", f"expected at most {_METADATA_MAX_BYTES} bytes as JSON.")
    return new


@dataclass(frozen=True, slots=True)
class LineParser:
    """Parses and renders lines as the routes of their endpoints do."""

    catalog: Catalog
    options: openai.OpenAIOptions
    attributor: Attributor

    async def parse(self, batch: Batch, body: bytes, caller: Principal) -> ParsedLine:
        """Parses a line's body. Its images are wanted in base64, because they are stored.

        Raises: GatewayError for an invalid request, or if its tags are.
        """
        endpoint, tenant = batch.endpoint, caller.tenant
        if endpoint == _EDITS:
            found = openai_edits.parse_edit(body, self.catalog, tenant, self.options, is_batch_line=True)
        else:
            found = openai.parse_generation(body, self.catalog, tenant, self.options)
        job = replace(found.job, delivery=ResponseFormat.BASE64)
        targets = found.model.plan(job, self.options.size_policy)
        tags = [(HEADER, key, value) for key, value in batch.tags.items()]
        attribution, _ = await self.attributor.attribute(caller, found, tags)
        return ParsedLine(replace(found, job=job, targets=targets), found.job.delivery, found.name, attribution)

    def render(self, result: ImageResult) -> openai_responses.Chunks:
        return openai_responses.render_generation(result, result.created_s)

    def render_error(self, error: GatewayError, model_name: str) -> bytes:
        return openai_responses.render_error(error, model_name)

    def find_model(self, name: str | None, tenant: Tenant) -> str | None:
        """Returns the ID of a model that the tenant may use."""
        model = self.catalog.default if name is None else self.catalog.find(name)
        return model.id if model and (tenant.models is None or model.id in tenant.models) else None
