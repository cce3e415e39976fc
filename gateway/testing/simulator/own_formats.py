"""The order in which a provider with a format of its own checks a request, whatever the format.

Front-end errors, key and state, fields, limits, a back-end outage, the words of the prompt. Faults are named by
MiniMax's codes in every format; each format renders them as its own errors.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.testing.simulator.accounts import Account, Accounts, account_of
from gateway.testing.simulator.api import CapturedRequest
from gateway.testing.simulator.call_log import Call, CallLog, Rule
from gateway.testing.simulator.fault_injection import (
    INVALID_PARAMS,
    NOT_AUTHORISED,
    FaultScript,
    RefusedError,
    parse_script,
    require_key,
)
from gateway.testing.simulator.parsing import parse, trace_id_of
from gateway.testing.simulator.pictures import Gallery, Sketch, convert
from gateway.testing.simulator.responses import CutResponse, answer_page
from gateway.testing.simulator.states import KeyStates, Outages
from gateway.testing.simulator.waiting import HANG_S, TURNS, while_connected

_KEY_HEADERS: Final = ("authorization", "api-key", "x-goog-api-key")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request, in any format."""

    model: str
    prompt: str
    width: int
    height: int
    n: int = 1
    form: str = "jpeg"
    seed: int | None = None
    reference: bytes = field(default=b"", repr=False)
    """An image file to edit."""
    is_grid: bool = False
    """Its images are one picture."""
    is_linked: bool | None = None
    """The images are fetched by link; None: as the format has it."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a request makes: files, and links to the same files."""

    id: str
    files: list[bytes]
    links: list[str]
    withheld: int
    """The last ones of them, which the safety check withholds."""


class OwnFormat(Protocol):
    """One provider's format. It raises RefusedError with INVALID_PARAMS and its own text for an invalid request."""

    paths: tuple[str, ...]
    has_links: bool
    """Its images are fetched by link."""

    def key(self, request: Request) -> str | None: ...
    def parse(self, request: Request, body: dict[str, object]) -> Order: ...
    def refuse(self, refusal: RefusedError) -> Response: ...
    def render(self, order: Order, made: Made) -> bytes:
        """Renders a success, without images if nothing was made. Runs in a thread."""

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        """Returns the free pages by path: each renders the code of the key, which is 0 if it works."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all formats of a simulator share."""

    accounts: Accounts
    gallery: Gallery
    states: KeyStates
    outages: Outages
    call_log: CallLog
    captured: deque[CapturedRequest]
    latency_s: float
    sleep: Callable[[float], Awaitable[None]]

    def routes(self, form: OwnFormat) -> list[Route]:
        endpoint = OwnFormatEndpoint(self, form)
        pages = [Route(path, endpoint.page(render), methods=["GET"]) for path, render in form.pages().items()]
        return [*(Route(path, endpoint.generate, methods=["POST"]) for path in form.paths), *pages]


@dataclass(frozen=True, slots=True)
class OwnFormatEndpoint:
    """Accepts requests in one format, and responds normally or with the fault that the prompt names."""

    shop: Workshop
    form: OwnFormat

    def page(self, render: Callable[[int], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            key = self.form.key(request)
            return render(self.shop.states.standing(key).code if key else NOT_AUTHORISED)

        return respond

    async def generate(self, request: Request) -> Response:
        raw = await request.body()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        body, key, trace_id = await _read(request, raw), self.form.key(request), trace_id_of(raw, None)
        self._capture(request, key, body)
        try:
            known_key = require_key(key)
            account = self.shop.accounts.open(account_of(known_key))
            with account.request(), self.shop.call_log.call(request.url.path, known_key, body) as call:
                return await self._check(request, account, body, trace_id, call)
        except RefusedError as refusal:
            return self.form.refuse(refusal)

    async def _check(
        self, request: Request, account: Account, body: dict[str, object] | None, trace_id: str, call: Call
    ) -> Response:
        """Raises: RefusedError of the first check that fails."""
        if (status := self.shop.outages.status()) is not None:
            call.page = status
            await self.shop.sleep(self.shop.latency_s)
            return answer_page(status)
        call.rule = Rule.KEY
        self.shop.states.check(call.key)
        call.rule = Rule.FIELDS
        if body is None:
            raise RefusedError(INVALID_PARAMS, "the body can not be read")
        order = self.form.parse(request, body)
        call.asked, call.model, call.prompt = order.n, order.model, order.prompt[:200]
        call.rule = Rule.LIMITS
        self.shop.accounts.admit(account, order.n)
        call.rule = Rule.WORDS
        return await self._serve(request, account, order, trace_id, call)

    async def _serve(self, request: Request, account: Account, order: Order, trace_id: str, call: Call) -> Response:
        trace_id = f"{trace_id}{account.take(trace_id) or ''}"
        script = self.shop.outages.script() or parse_script(order.prompt)
        withheld = min(script.withheld, order.n)
        call.faults = tuple(sorted(script.flags))
        if not script.prevents_images:
            call.images, call.withheld = order.n - withheld, withheld
            self.shop.accounts.charge(account, order.prompt, order.n - withheld, withheld)

        async def respond() -> Response:
            if "hang" in script.flags:
                await asyncio.sleep(HANG_S)
                return answer_page(504)
            await self.shop.sleep(self.shop.latency_s if script.delay_s is None else script.delay_s)
            if (fault := self._fault(script, call)) is not None:
                return fault
            made = Made(trace_id, [], [], 0) if "empty" in script.flags else await self._make(request, order, trace_id)
            made = Made(made.id, made.files, made.links, withheld)
            content = await asyncio.to_thread(self.form.render, order, made)
            kind = CutResponse if "cut" in script.flags else Response
            return kind(content, media_type="application/json")

        return await while_connected(request, respond())

    def _fault(self, script: FaultScript, call: Call) -> Response | None:
        """Returns a proxy's page, or None. Raises: RefusedError for a code."""
        if script.code is not None:
            raise RefusedError(script.code, status=script.http)
        if script.http is None and "garbage" not in script.flags:
            return None
        call.page = script.http or 200
        return answer_page(call.page)

    async def _make(self, request: Request, order: Order, trace_id: str) -> Made:
        colours = await self.shop.gallery.reduce_reference(_data_url(order.reference)) if order.reference else b""
        sketches = [
            Sketch(order.prompt, order.width, order.height, index, order.seed, colours) for index in range(order.n)
        ]
        if self.form.has_links if order.is_linked is None else order.is_linked:
            names = [f"{trace_id}-{index}.{order.form}" for index in range(order.n)]
            for name, sketch in zip(names, sketches, strict=True):
                self.shop.gallery.hang(name, sketch)
            base = f"{request.url.scheme}://{request.headers['host']}/simulator/images"
            return Made(trace_id, [], [f"{base}/{name}" for name in names], 0)
        drawn = [await self.shop.gallery.picture(sketch) for sketch in sketches]
        return Made(trace_id, [await asyncio.to_thread(convert, file, order.form) for file in drawn], [], 0)

    def _capture(self, request: Request, key: str | None, body: object) -> None:
        headers = dict(request.headers)
        headers |= {name: account_of(key) if key else "" for name in _KEY_HEADERS if name in headers}
        self.shop.captured.append(CapturedRequest(request.url.path, headers, body))


async def _read(request: Request, raw: bytes) -> dict[str, object] | None:
    """Reads an object, or the fields of a form; a file is its content in base64, as a data URL."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = parse(raw)
        return body if isinstance(body, dict) else None
    async with request.form() as form:
        return {
            name: _data_url(await value.read()) if isinstance(value, UploadFile) else value
            for name, value in form.multi_items()
        }


def _data_url(file: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(file).decode("ascii")
