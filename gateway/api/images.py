"""Image generation endpoints in OpenAI and MiniMax format, and the list of models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import minimax, openai
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits, ChunksResponse, read_json_body
from gateway.api.fields import Generation
from gateway.api.request_context import context_of, read_max_wait
from gateway.api.sse import EventStream
from gateway.domain.catalog import Catalog
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageResult
from gateway.domain.tenants import Principal
from gateway.generation.service import GenerationService

_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Settings of the image endpoints."""

    openai_options: openai.OpenAIOptions
    limits: BodyLimits
    """Request bodies in OpenAI's format."""
    native_limits: BodyLimits
    """Request bodies in MiniMax's format."""
    keep_alive_s: float
    """Seconds between two comments of a stream."""


class ImageRoutes:
    """Request handlers. Each authenticates, reads and parses the body, generates, and renders the result."""

    def __init__(
        self,
        authenticator: TenantAuthenticator,
        service: GenerationService,
        catalog: Catalog,
        options: ImageOptions,
        clock: Callable[[], float],
    ) -> None:
        self._authenticator = authenticator
        self._service = service
        self._catalog = catalog
        self._options = options
        self._clock = clock

    async def generate(self, request: Request) -> Response:
        """Serves OpenAI's format."""
        caller, options = await self._authenticator.begin(request), self._options
        async with self._authenticator.counting_refusals(request, caller):
            parse = partial(
                openai.parse_generation, catalog=self._catalog, tenant=caller.tenant, options=options.openai_options
            )
            generation = await _read(request, options.limits, parse)
        context = context_of(request)
        context.is_stream, context.ignored = generation.is_stream, generation.ignored
        generate = partial(self._generate, request, caller, generation)
        if generation.is_stream:
            return EventStream(request, generate, generation.name, options.keep_alive_s, self._clock)
        return ChunksResponse(openai.render_generation(await generate(), int(self._clock())))

    async def generate_native(self, request: Request) -> Response:
        """Serves MiniMax's and 302.AI's format."""
        caller, options = await self._authenticator.begin(request), self._options
        async with self._authenticator.counting_refusals(request, caller):
            policy = options.openai_options.size_policy
            parse = partial(minimax.parse_native, catalog=self._catalog, tenant=caller.tenant, policy=policy)
            generation = await _read(request, options.native_limits, parse)
        return ChunksResponse(minimax.render_native(await self._generate(request, caller, generation)))

    async def list_models(self, request: Request) -> Response:
        caller = await self._authenticator.authenticate(request)
        await self._authenticator.load_rates(request, caller)
        names = [name for name, model in self._catalog.names() if caller.tenant.may_use(model.id)]
        return Response(openai.render_models(names), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        caller = await self._authenticator.authenticate(request)
        await self._authenticator.load_rates(request, caller)
        name = request.path_params["name"]
        model = self._catalog.find(name)
        if model is None or not caller.tenant.may_use(model.id):
            self._authenticator.count_refusal(caller)
            raise GatewayError(ErrorCode.MODEL_NOT_FOUND, f"The model '{name[:64]}' does not exist.")
        return Response(openai.render_model(name), media_type="application/json")

    async def _generate(self, request: Request, caller: Principal, generation: Generation) -> ImageResult:
        context = context_of(request)
        try:
            return await self._service.generate(caller, generation, context)
        except GatewayError as error:
            if error.row.status < _SERVER_ERROR and not context.trace.attempts:
                self._authenticator.count_refusal(caller)
            raise


async def _read(request: Request, limits: BodyLimits, parse: Callable[[bytes | bytearray], Generation]) -> Generation:
    """Reads and parses a body. Only the parsed job stays in memory and counts, because the wait may take minutes.

    Raises: those of `read_json_body`, `parse` and `read_max_wait`.
    """
    context, body = context_of(request), await read_json_body(request, limits)
    generation = parse(body)
    context.memory.note(generation.job.held_bytes - len(body))
    context.max_wait_s, context.model_name = read_max_wait(request), generation.name
    return generation
