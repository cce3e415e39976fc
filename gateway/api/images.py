"""Image generation endpoints in OpenAI and MiniMax format, and the list of models."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.api import minimax, openai, openai_edits, openai_responses
from gateway.api.addresses import DEPLOYMENT
from gateway.api.attribution import Attributor
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits, ChunksResponse, context_of, read_json_body
from gateway.api.fields import Generation
from gateway.api.identity import identify
from gateway.api.keep_alive import BlanksResponse
from gateway.api.multipart import FormLimits, is_form, read_form
from gateway.api.public_url import base_url
from gateway.api.shutdown import ShutdownState
from gateway.api.sse import EventStream
from gateway.domain.catalog import Catalog
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageResult, LinkSource
from gateway.domain.tenants import Principal, Tenant
from gateway.generation.memory_budget import ByteBudget
from gateway.jobs.replays import Replays

_SERVER_ERROR: Final = 500
_MAX_WAIT_HEADER: Final = "x-imagegate-max-wait"
_SECONDS: Final = re.compile(r"\s*\d{1,6}(\.\d{1,6})?\s*", re.ASCII)
_Parse = Callable[[bytes | bytearray, Catalog, Tenant], Generation]
_ParseEdit = Callable[..., Generation]
"""As `_Parse`, and with `files` for a form."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Settings of the image endpoints."""

    openai_options: openai.OpenAIOptions
    limits: BodyLimits
    """Request bodies in OpenAI's format."""
    native_limits: BodyLimits
    """Request bodies in MiniMax's format."""
    edit_limits: BodyLimits
    """JSON bodies of edits."""
    form_limits: FormLimits
    """Forms of edits."""
    keep_alive_s: float
    """Seconds between two comments of a stream."""
    blanks_s: float
    """Seconds between two blanks before the JSON of another response; 0 sends none."""
    public_url: str
    """Base of links to stored images; empty for that of the request."""


@dataclass(frozen=True, slots=True, repr=False)
class ImageRoutes:
    """Request handlers. Each authenticates, reads and parses the body, generates, and renders the result."""

    authenticator: TenantAuthenticator
    service: Replays
    catalog: Catalog
    options: ImageOptions
    drain: ShutdownState
    spooled: ByteBudget
    """Bytes of uploaded files on disk."""
    attributor: Attributor

    async def generate(self, request: Request, edit: _ParseEdit | None = None) -> Response:
        """Serves generations, or the edits that `edit` parses."""
        options, deployment = self.options, request.path_params.get(DEPLOYMENT)
        generation_of = partial(openai.parse_generation, options=options.openai_options, deployment=deployment)
        parse, limits = edit or generation_of, options.edit_limits if edit else options.limits
        caller, generation = await self._read(request, limits, parse, edit)
        generate = partial(self._generate, request, caller, generation)
        if generation.is_stream:
            return EventStream(request, generate, options.keep_alive_s, generation.job.operation)
        if options.blanks_s:
            return BlanksResponse(request, generate, _render, options.blanks_s)
        return ChunksResponse(_render(await generate()))

    async def edit(self, request: Request) -> Response:
        """Serves edits, as a form or as JSON. A path parameter `deployment` names the model, as Azure's do."""
        options, deployment = self.options.openai_options, request.path_params.get(DEPLOYMENT)
        return await self.generate(request, partial(openai_edits.parse_edit, options=options, deployment=deployment))

    async def generate_native(self, request: Request) -> Response:
        """Serves MiniMax's and 302.AI's format."""
        options = self.options
        parse = partial(minimax.parse_native, policy=options.openai_options.size_policy)
        caller, generation = await self._read(request, options.native_limits, parse)
        generate = partial(self._generate, request, caller, generation)
        if options.blanks_s:
            return BlanksResponse(request, generate, minimax.render_native, options.blanks_s)
        return ChunksResponse(minimax.render_native(await generate()))

    async def list_models(self, request: Request) -> Response:
        caller = await self.authenticator.authenticate(request)
        await self.authenticator.load_rates(request, caller)
        models = caller.tenant.models
        named = self.catalog.names()
        names = [(name, model.owner) for name, model in named if models is None or model.id in models]
        return Response(openai_responses.render_models(names), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        caller = await self.authenticator.authenticate(request)
        await self.authenticator.load_rates(request, caller)
        name, models = request.path_params["name"], caller.tenant.models
        model = self.catalog.find(name) or self.catalog.find(name := name.strip("/"))  # an ID may end with a slash
        if model is None or (models is not None and model.id not in models):
            self.authenticator.count_refusal(caller)
            raise GatewayError(ErrorCode.MODEL_NOT_FOUND, f"The model '{name[:64]}' does not exist.")
        return Response(openai_responses.render_model(name, model.owner), media_type="application/json")

    async def _read(
        self, request: Request, limits: BodyLimits, parse: _Parse, edit: _ParseEdit | None = None
    ) -> tuple[Principal, Generation]:
        """Authenticates a request, then reads and parses its body. A request that fails before its admission counts.

        Only the parsed job stays in memory and counts, because the wait may take minutes. `edit` parses a form.
        Raises: GatewayError SHUTTING_DOWN, and those of `authenticate`, `read_json_body`, `read_form` and `parse`.
        """
        if self.drain.is_on:
            raise GatewayError(ErrorCode.SHUTTING_DOWN, "received during shutdown")
        caller, context = await self.authenticator.authenticate(request), context_of(request)
        try:
            if edit and is_form(request):
                generation = await self._read_form(request, caller.tenant, edit)
            else:
                body = await read_json_body(request, limits)
                generation = parse(body, self.catalog, caller.tenant)
                context.memory.note(generation.job.held_bytes - len(body))
            max_wait = request.headers.get(_MAX_WAIT_HEADER)
            context.max_wait_s = None if max_wait is None else _parse_seconds(max_wait)
            tags = self.attributor.read_headers(request.headers)
            context.attribution, ignored = await self.attributor.attribute(caller, generation, tags)
            context.identity = await identify(request, caller, generation, self.authenticator.authenticator.keyed_hash)
        except (GatewayError, ClientDisconnect):
            self.authenticator.count_refusal(caller)
            await self.authenticator.load_rates(request, caller, is_counted=True)
            raise
        if generation.model.links is not LinkSource.PROVIDER:
            context.base_url = base_url(request, self.options.public_url)
        context.model_name, context.is_stream = generation.name, generation.is_stream
        context.ignored, context.cut_prompt = (*generation.ignored, *ignored), generation.cut_prompt
        return caller, generation

    async def _read_form(self, request: Request, tenant: Tenant, parse: _ParseEdit) -> Generation:
        memory = context_of(request).memory
        async with read_form(request, self.options.form_limits, self.spooled) as form:
            files = [openai_edits.FileHead(file.name, file.size_bytes, file.start) for file in form.files]
            generation = parse(openai_edits.render_texts(form.texts), self.catalog, tenant, files=files)
            memory.note(generation.job.held_bytes)  # images that are texts; the files are counted as they are encoded
            inputs = list(generation.job.inputs)  # they begin with the files
            for index, file in enumerate(form.files):
                kind = inputs[index].format
                assert kind is not None  # of every file
                inputs[index] = replace(inputs[index], link=await file.to_data_url(kind, memory))
        return replace(generation, job=replace(generation.job, inputs=tuple(inputs)))

    async def _generate(self, request: Request, caller: Principal, generation: Generation) -> ImageResult:
        context = context_of(request)
        with self.authenticator.in_flight(caller):
            try:
                if context.disconnected.is_set():
                    raise GatewayError(ErrorCode.CLIENT_DISCONNECTED)  # noqa: TRY301 - counted like the others
                return await self.service.generate(caller, generation, context)
            except GatewayError as error:
                if error.row.status < _SERVER_ERROR and not context.trace.attempts:
                    self.authenticator.count_refusal(caller)
                raise


def _render(result: ImageResult) -> openai_responses.Chunks:
    return openai_responses.render_generation(result, result.created_s)


def _parse_seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"Invalid {_MAX_WAIT_HEADER}: expected a number of seconds, as 30 or 2.5, or 0 to not wait.",
            param=_MAX_WAIT_HEADER,
        )
    return float(text)
