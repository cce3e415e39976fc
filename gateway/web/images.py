"""`POST /v1/images/generations` and the list of models."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.domain.billing import Durations, Purchase
from gateway.domain.faults import Fault, GatewayError
from gateway.domain.images import ImageResult
from gateway.domain.models import Catalog
from gateway.domain.tenants import Caller
from gateway.domain.trace import Passage
from gateway.stores.admission import Admission
from gateway.stores.credentials import Credentials
from gateway.stores.transfers import Transfers
from gateway.upstream import Upstreams
from gateway.web.bodies import BodyLimits, ChunksResponse, read_json_body
from gateway.web.clients import Client, read_max_wait
from gateway.web.draining import Drain
from gateway.web.guesses import Guesses, address_of
from gateway.web.record import RequestRecord, record_of
from gateway.web.refusals import Refusals
from gateway.web.stream import EventStream
from gateway.wire import native, openai

_SENT_AT_ONCE_BYTES: Final = 64 * 1024
"""The connection buffers as much: no client can make the request wait with less."""

Generation = openai.Generation | native.NativeGeneration
_G = TypeVar("_G", openai.Generation, native.NativeGeneration)
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


class Images:
    """The image routes of both client wires: they differ in the format and in nothing else."""

    def __init__(
        self,
        drain: Drain,
        credentials: Credentials,
        guesses: Guesses,
        refusals: Refusals,
        admission: Admission,
        transfers: Transfers,
        upstreams: Upstreams,
        catalog: Catalog,
        manners: openai.Manners,
        limits: BodyLimits,
        native_limits: BodyLimits,
        keep_alive_s: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._drain = drain
        self._credentials = credentials
        self._guesses = guesses
        self._refusals = refusals
        self._admission = admission
        self._transfers = transfers
        self._upstreams = upstreams
        self._catalog = catalog
        self._manners = manners
        self._limits = limits
        self._native_limits = native_limits
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._monotonic = monotonic

    async def generate(self, request: Request) -> Response:
        """OpenAI's format."""
        self._drain.refuse()
        caller = await self._identify(request)
        async with self._counting_refusals(request, caller):
            parse = partial(openai.parse_generation, catalog=self._catalog, tenant=caller.tenant, manners=self._manners)
            generation = await _read(request, self._limits, parse)
            max_wait_s = read_max_wait(request)
        if generation.is_stream:
            make = partial(self._make, request, caller, generation, max_wait_s)
            return EventStream(request, make, generation.name, self._keep_alive_s, self._clock)
        result = await self._make(request, caller, generation, max_wait_s)
        return ChunksResponse(openai.render_generation(result, int(self._clock())))

    async def generate_native(self, request: Request) -> Response:
        """MiniMax's and 302.AI's own format."""
        self._drain.refuse()
        caller = await self._identify(request)
        async with self._counting_refusals(request, caller):
            policy = self._manners.size_policy
            parse = partial(native.parse_native, catalog=self._catalog, tenant=caller.tenant, policy=policy)
            generation = await _read(request, self._native_limits, parse)
            max_wait_s = read_max_wait(request)
        return ChunksResponse(native.render_native(await self._make(request, caller, generation, max_wait_s)))

    async def list_models(self, request: Request) -> Response:
        caller = await self._identify(request)
        await self._tell_rates(request, caller)
        names = [name for name, model in self._catalog.names() if caller.tenant.may_use(model.id)]
        return Response(openai.render_models(names), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        caller = await self._identify(request)
        await self._tell_rates(request, caller)
        name = request.path_params["name"]
        model = self._catalog.find(name)
        if model is None or not caller.tenant.may_use(model.id):
            self._refusals.count(caller)
            raise GatewayError(Fault.MODEL_NOT_FOUND, f"The model '{name[:64]}' does not exist.")
        return Response(openai.render_model(name), media_type="application/json")

    async def _identify(self, request: Request) -> Caller:
        given = request.headers.get("authorization", "")
        check = partial(self._credentials.identify, given)
        caller = await self._guesses.check_tenant(address_of(request), given, check)
        record = record_of(request)
        record.tenant, record.key_id = caller.tenant.name, caller.key.id
        record.memory.tenant = record.tenant
        record.transfer = self._transfers.of(caller)
        await self._refusals.check(caller)
        return caller

    @asynccontextmanager
    async def _counting_refusals(self, request: Request, caller: Caller) -> AsyncIterator[None]:
        """Counts a request that fails before its admission. Raises: GatewayError RATE_LIMITED."""
        try:
            yield
        except (GatewayError, ClientDisconnect):
            self._refusals.count(caller)
            await self._tell_rates(request, caller, is_refused=True)
            raise

    async def _tell_rates(self, request: Request, caller: Caller, *, is_refused: bool = False) -> None:
        if not caller.has_rates:
            return
        try:
            record_of(request).rates = await self._admission.look(caller, is_refused=is_refused)
        except GatewayError as error:
            if error.row.status == _TOO_MANY:
                raise  # every other answer needs no Redis

    async def _make(
        self, request: Request, caller: Caller, generation: Generation, max_wait_s: float | None
    ) -> ImageResult:
        record, job, model = record_of(request), generation.job, generation.model
        record.model, record.model_name, record.asked = model.id, generation.name, job.count
        record.prompt = job.prompt
        record.is_stream = isinstance(generation, openai.Generation) and generation.is_stream
        if isinstance(generation, openai.Generation) and generation.ignored:
            record.headers.append(("x-imagegate-ignored", ", ".join(generation.ignored)))
        purchase = Purchase(record.id, model.id, job.count, model.prices)
        early = self._upstreams.foresee(job, model, caller.tenant)
        passage = record.trace.admit = Passage.begin(self._monotonic())
        try:
            transfer_id = record.transfer.hand_over() if record.transfer else ""
            admitted = self._admission.admit(caller, purchase, lambda: self._durations(record), transfer_id)
            async with admitted as ticket:
                passage.ended_s = self._monotonic()
                record.ticket, record.rates = ticket, ticket.rates
                client = Client(request)
                try:
                    result = await self._upstreams.generate(
                        job, model, ticket, record.trace, client, max_wait_s, early, record.memory
                    )
                finally:
                    passage = record.trace.settle = Passage.begin(self._monotonic())
        except GatewayError as error:
            if error.row.status < _SERVER_ERROR and not record.trace.attempts:
                self._refusals.count(caller)
            raise
        finally:
            passage.ended_s = self._monotonic()
            if early:
                early.drop()
        if record.transfer and result.held_bytes > _SENT_AT_ONCE_BYTES:
            await record.transfer.go_on()
        record.delivered = len(result.pictures)
        if result.missing:
            record.headers.append(("x-imagegate-missing", str(result.missing)))
        return result

    def _durations(self, record: RequestRecord) -> Durations:
        seconds = (record.trace.queue_s, record.trace.upstream_s, self._monotonic() - record.started_s)
        return Durations(*(round(1000 * spent_s) for spent_s in seconds))


async def _read(request: Request, limits: BodyLimits, parse: Callable[[bytes | bytearray], _G]) -> _G:
    """Of a body, which may be megabytes, no more is held and counted than its job: the wait may be minutes.

    Raises: what `read_json_body` and `parse` do.
    """
    body = await read_json_body(request, limits)
    generation = parse(body)
    record_of(request).memory.note(generation.job.held_bytes - len(body))
    return generation
