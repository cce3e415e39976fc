"""`POST /v1/images/generations` and the list of models."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.images import ImageResult
from gateway.domain.models import Catalog
from gateway.domain.tenants import Caller
from gateway.stores.tenants import TenantStore
from gateway.upstream import Upstreams
from gateway.web.bodies import BodyLimits, ChunksResponse, read_json_body
from gateway.web.record import record_of
from gateway.web.stream import EventStream
from gateway.wire import native, openai


class Images:
    """The image routes of both client wires: they differ in the format and in nothing else."""

    def __init__(
        self,
        tenants: TenantStore,
        upstreams: Upstreams,
        catalog: Catalog,
        manners: openai.Manners,
        limits: BodyLimits,
        native_limits: BodyLimits,
        keep_alive_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._tenants = tenants
        self._upstreams = upstreams
        self._catalog = catalog
        self._manners = manners
        self._limits = limits
        self._native_limits = native_limits
        self._keep_alive_s = keep_alive_s
        self._clock = clock

    async def generate(self, request: Request) -> Response:
        """OpenAI's format."""
        caller = await self._identify(request)
        body = await read_json_body(request, self._limits)
        generation = openai.parse_generation(body, self._catalog, caller.tenant, self._manners)
        if generation.is_stream:
            return EventStream(
                request, lambda: self._make(request, generation), generation.name, self._keep_alive_s, self._clock
            )
        result = await self._make(request, generation)
        return ChunksResponse(openai.render_generation(result, int(self._clock())))

    async def generate_native(self, request: Request) -> Response:
        """MiniMax's and 302.AI's own format."""
        caller = await self._identify(request)
        body = await read_json_body(request, self._native_limits)
        generation = native.parse_native(body, self._catalog, caller.tenant, self._manners.size_policy)
        result = await self._make(request, generation)
        return ChunksResponse(native.render_native(result))

    async def list_models(self, request: Request) -> Response:
        caller = await self._identify(request)
        names = [name for name, model in self._catalog.names() if caller.tenant.may_use(model.id)]
        return Response(openai.render_models(names), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        caller = await self._identify(request)
        name = request.path_params["name"]
        model = self._catalog.find(name)
        if model is None or not caller.tenant.may_use(model.id):
            raise GatewayError(Fault.MODEL_NOT_FOUND, f"The model '{name[:64]}' does not exist.")
        return Response(openai.render_model(name), media_type="application/json")

    async def _identify(self, request: Request) -> Caller:
        caller = await self._tenants.identify(request.headers.get("authorization"))
        record = record_of(request)
        record.tenant, record.key_id = caller.tenant.name, caller.key_id
        return caller

    async def _make(self, request: Request, generation: openai.Generation | native.NativeGeneration) -> ImageResult:
        record = record_of(request)
        record.model, record.model_name, record.asked = generation.model.id, generation.name, generation.job.count
        if isinstance(generation, openai.Generation) and generation.ignored:
            record.headers.append(("x-imagegate-ignored", ", ".join(generation.ignored)))
        result = await self._upstreams.generate(generation.job, generation.model, record.tenant, record.trace)
        record.delivered = len(result.pictures)
        if result.missing:
            record.headers.append(("x-imagegate-missing", str(result.missing)))
        return result
