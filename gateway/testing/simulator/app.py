"""Routes, and the order in which a request is checked.

Front-end errors, key and state, fields, limits, a back-end outage, the words of the prompt.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.testing.simulator.accounts import Account, Accounts, account_of
from gateway.testing.simulator.ai302_tasks import Ai302TaskFormat
from gateway.testing.simulator.api import ApiRoutes, CapturedRequest
from gateway.testing.simulator.bfl import BflRoutes
from gateway.testing.simulator.call_log import Call, CallLog, Rule
from gateway.testing.simulator.edge import Edge
from gateway.testing.simulator.fal import FalEndpoint, FalFormat
from gateway.testing.simulator.fault_injection import FaultScript, RefusedError, parse_script, require_key
from gateway.testing.simulator.fault_rules import FaultSwitches, InvalidSwitchError, render_invalid_switch
from gateway.testing.simulator.glif import GlifFormat
from gateway.testing.simulator.google import GoogleFormat
from gateway.testing.simulator.ideogram import IdeogramFormat
from gateway.testing.simulator.limits import Limits, Minute
from gateway.testing.simulator.luma import LumaFormat, PhotonFormat
from gateway.testing.simulator.midjourney import MidjourneyFormat
from gateway.testing.simulator.openai_format import OpenAIFormat
from gateway.testing.simulator.openai_wires import WIRES
from gateway.testing.simulator.own_formats import OwnFormat, Workshop
from gateway.testing.simulator.parsing import bearer, parse, repeated_trace_id, trace_id_of
from gateway.testing.simulator.pictures import Gallery, Sketch
from gateway.testing.simulator.replicate import ReplicateFormat
from gateway.testing.simulator.requests import MODELS_BY_PATH, ImageRequest, parse_request
from gateway.testing.simulator.responses import (
    answer,
    answer_cut,
    answer_page,
    answer_refusal,
    render_base64,
    render_success,
)
from gateway.testing.simulator.stability import StabilityFormat
from gateway.testing.simulator.states import KeyStates, Outages
from gateway.testing.simulator.tasks import TaskEndpoint
from gateway.testing.simulator.waiting import HANG_S, TURNS, while_connected

KEPT_REQUESTS: Final = 100
_OWN_FORMATS: Final[tuple[OwnFormat, ...]] = (
    GlifFormat(),
    GoogleFormat(),
    IdeogramFormat(),
    StabilityFormat(),
    *map(OpenAIFormat, WIRES),
)
_TASK_FORMATS: Final = (Ai302TaskFormat(), LumaFormat(), MidjourneyFormat(), PhotonFormat())


def create_simulator(
    *,
    latency_s: float = 0.3,
    requests_per_minute: int = 600,
    images_per_minute: int | None = None,
    max_concurrency: int | None = None,
    minute: Minute = Minute.SLIDING,
    image_bytes: int | None = None,
    calls_kept: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Starlette:
    """Creates a simulator with its own accounts, images and captured requests.

    Limits apply per account. `image_bytes` pads every image to that size; `calls_kept` is the size of the call log.
    Tests replace `clock` and `sleep`.
    """
    limits = Limits(requests_per_minute, images_per_minute, max_concurrency, minute)
    accounts, gallery = Accounts(limits, clock=clock), Gallery(image_bytes=image_bytes)
    states, outages, call_log, edge = KeyStates(clock), Outages(clock), CallLog(calls_kept, clock), Edge()
    endpoint = GenerationEndpoint(accounts, gallery, states, outages, edge, call_log, latency_s=latency_s, sleep=sleep)
    api = ApiRoutes(accounts, gallery, endpoint.captured, states, call_log)
    bfl = BflRoutes(accounts, gallery, states, call_log, latency_s=latency_s, sleep=sleep)
    shop = Workshop(accounts, gallery, states, outages, call_log, endpoint.captured, latency_s, sleep)
    own = [route for form in _OWN_FORMATS for route in shop.routes(form)]
    own += [route for form in _TASK_FORMATS for route in TaskEndpoint(shop, form).routes()]
    own += FalEndpoint(shop, FalFormat()).routes() + TaskEndpoint(shop, ReplicateFormat()).routes()
    return Starlette(
        routes=[*own, *bfl.routes(), *_routes(endpoint, api, FaultSwitches(states, outages, edge))],
        exception_handlers={ClientDisconnect: _ignore_disconnect, InvalidSwitchError: render_invalid_switch},
    )


def _routes(endpoint: "GenerationEndpoint", api: ApiRoutes, switches: FaultSwitches) -> list[Route]:
    return [
        *(Route(path, endpoint.generate, methods=["POST"]) for path in MODELS_BY_PATH),
        Route("/v1/token_plan/remains", api.remains, methods=["GET"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/simulator/invoice", api.invoice, methods=["GET"]),
        Route("/simulator/invoice", api.reset, methods=["DELETE"]),
        Route("/simulator/receipts", api.receipts, methods=["GET"]),
        Route("/simulator/calls", api.calls, methods=["GET"]),
        Route("/simulator/requests", api.requests, methods=["GET"]),
        Route("/simulator/images/{name}", api.image, methods=["GET"]),
        Route("/simulator/keys/{key}", switches.key, methods=["PUT"]),
        Route("/simulator/accounts/{account}", switches.account, methods=["PUT"]),
        Route("/simulator/outage", switches.begin_outage, methods=["PUT"]),
        Route("/simulator/outage", switches.end_outage, methods=["DELETE"]),
        Route("/simulator/edge", switches.edge, methods=["PUT"]),
    ]


class GenerationEndpoint:
    """Accepts image requests, and responds normally or with the fault that the prompt names."""

    def __init__(
        self,
        accounts: Accounts,
        gallery: Gallery,
        states: KeyStates,
        outages: Outages,
        edge: Edge,
        call_log: CallLog,
        *,
        latency_s: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.captured: deque[CapturedRequest] = deque(maxlen=KEPT_REQUESTS)
        self._accounts = accounts
        self._gallery = gallery
        self._states = states
        self._outages = outages
        self._edge = edge
        self._call_log = call_log
        self._latency_s = latency_s
        self._sleep = sleep

    async def generate(self, request: Request) -> Response:
        raw = await request.body()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        body = parse(raw)
        trace_id = trace_id_of(raw, body)
        key = bearer(request)
        self._capture(request, key, body)
        try:
            known_key = require_key(key)
            account = self._accounts.open(account_of(known_key))
            with account.request(), self._call_log.call(request.url.path, known_key, body) as call:
                return await self._check(request, account, body, trace_id, call)
        except RefusedError as refusal:
            return answer_refusal(refusal, trace_id)

    async def _check(self, request: Request, account: Account, body: object, trace_id: str, call: Call) -> Response:
        """Raises: RefusedError of the first check that fails."""
        if (status := self._outages.status() or self._edge.status(await request.body())) is not None:
            call.page = status
            await self._sleep(self._latency_s)
            return answer_page(status)
        call.rule = Rule.KEY
        self._states.check(call.key)
        call.rule = Rule.FIELDS
        order = parse_request(body, request.url.path)
        self._edge.check_references(body)
        call.asked = order.n
        call.rule = Rule.LIMITS
        self._accounts.admit(account, order.n)
        call.rule = Rule.WORDS
        return await self._serve(request, account, order, trace_id, call)

    async def _serve(
        self, request: Request, account: Account, order: ImageRequest, trace_id: str, call: Call
    ) -> Response:
        repeated = account.take(trace_id)
        trace_id = repeated_trace_id(trace_id, repeated)
        script = self._outages.script() or parse_script(order.prompt)
        withheld = min(script.withheld, order.n)
        call.faults = tuple(sorted(script.flags))
        if not script.prevents_images:
            call.images, call.withheld = order.n - withheld, withheld
            self._accounts.charge(account, order.prompt, order.n - withheld, withheld)

        async def respond() -> Response:
            if "hang" in script.flags:
                await asyncio.sleep(HANG_S)
                return answer_page(504)
            await self._sleep(self._latency_s if script.delay_s is None else script.delay_s)
            if script.prevents_images:
                call.page = 0 if script.code is not None else script.http or 0
                return _render_fault(script, trace_id, order)
            body = await self._deliver(request, order, trace_id, withheld, repeated)
            return answer_cut(body, trace_id) if "cut" in script.flags else answer(body, trace_id)

        return await while_connected(request, respond())

    async def _deliver(
        self, request: Request, order: ImageRequest, trace_id: str, withheld: int, repeated: int
    ) -> bytes:
        width, height = order.pixels
        seed = repeated or None if order.seed is None else order.seed
        references = order.subject_reference or ()
        colours = await self._gallery.reduce_reference(references[0].image_file) if references else b""
        sketches = {
            f"{trace_id}-{index}.jpg": Sketch(order.prompt, width, height, index, seed, colours)
            for index in range(order.n - withheld)
        }
        if order.response_format == "base64":
            pictures = [await self._gallery.picture(sketch) for sketch in sketches.values()]
            return await asyncio.to_thread(render_base64, trace_id, pictures, failed=withheld)
        for name, sketch in sketches.items():
            self._gallery.hang(name, sketch)
        base = f"{request.url.scheme}://{request.headers['host']}/simulator/images"
        urls = [f"{base}/{name}" for name in sketches]
        return render_success(trace_id, urls, spelling="image_urls", failed=withheld)

    def _capture(self, request: Request, key: str | None, body: object) -> None:
        headers = dict(request.headers)
        if "authorization" in headers:
            headers["authorization"] = "" if key is None else account_of(key)
        self.captured.append(CapturedRequest(request.url.path, headers, body))


def _render_fault(script: FaultScript, trace_id: str, order: ImageRequest) -> Response:
    """Returns a response without images: a code is the API's own error, an HTTP status alone is a proxy's page."""
    if script.code is not None:
        raise RefusedError(script.code, status=script.http)
    if script.http is not None:
        return answer_page(script.http)
    if "garbage" in script.flags:
        return answer_page(200)
    spelling = "image_base64" if order.response_format == "base64" else "image_urls"
    return answer(render_success(trace_id, [], spelling=spelling, failed=0), trace_id)


async def _ignore_disconnect(_: Request, __: Exception) -> Response:
    """For a client that disconnected before its request was complete."""
    return Response(status_code=400)
