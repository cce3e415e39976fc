"""The routes, and the order in which a request meets the rules: key, key word, fields, rate limit, prompt words."""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.simulator.accounts import Account, Accounts, account_of
from gateway.simulator.answers import (
    answer,
    answer_cut,
    answer_page,
    answer_refusal,
    render_base64,
    render_success,
)
from gateway.simulator.faults import RefusedError, Script, check_key, read_script, require_key
from gateway.simulator.orders import MODELS_BY_PATH, Order, read_order
from gateway.simulator.pictures import Gallery, Sketch

HANG_S: Final = 600.0
KEPT_REQUESTS: Final = 100
REMAINS: Final = {
    "base_resp": {"status_code": 0, "status_msg": "success"},
    "model_remains": [
        {
            "model_name": "image-01",
            "current_interval_total_count": 100,
            "current_interval_usage_count": 100,
            "remains_time": 3_600_000,
        }
    ],
}


def create_simulator(
    *,
    latency_s: float = 0.3,
    requests_per_minute: int = 600,
    image_bytes: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Starlette:
    """A simulator with accounts, images and captured requests of its own.

    `image_bytes` pads every image to that size; `clock` and `sleep` are replaced by tests that do not wait.
    """
    accounts = Accounts(requests_per_minute=requests_per_minute, clock=clock)
    gallery = Gallery(image_bytes=image_bytes)
    studio = Studio(accounts, gallery, latency_s=latency_s, sleep=sleep)
    office = Office(accounts, gallery, studio.captured)
    return Starlette(
        routes=[
            *(Route(path, studio.generate, methods=["POST"]) for path in MODELS_BY_PATH),
            Route("/v1/token_plan/remains", office.remains, methods=["GET"]),
            Route("/simulator/invoice", office.invoice, methods=["GET"]),
            Route("/simulator/invoice", office.reset, methods=["DELETE"]),
            Route("/simulator/receipts", office.receipts, methods=["GET"]),
            Route("/simulator/requests", office.requests, methods=["GET"]),
            Route("/simulator/images/{name}", office.image, methods=["GET"]),
        ],
        exception_handlers={ClientDisconnect: _say_nothing},
    )


class Captured(msgspec.Struct, frozen=True):
    """A request as it arrived, less its key."""

    path: str
    headers: dict[str, str]
    body: object


class Studio:
    """Takes orders for images and answers them, well or as badly as the prompt asks for."""

    def __init__(
        self, accounts: Accounts, gallery: Gallery, *, latency_s: float, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self.captured: deque[Captured] = deque(maxlen=KEPT_REQUESTS)
        self._accounts = accounts
        self._gallery = gallery
        self._latency_s = latency_s
        self._sleep = sleep

    async def generate(self, request: Request) -> Response:
        raw = await request.body()
        body = _parse(raw)
        trace_id = _trace_id(raw, body)
        key = _bearer(request)
        self._capture(request, key, body)
        try:
            known_key = require_key(key)
            account = self._accounts.open(account_of(known_key))
            with account.request():
                check_key(known_key)
                order = read_order(body, request.url.path)
                self._accounts.admit(account)
                repeated = account.take(trace_id)
                trace_id = _repeated(trace_id, repeated)
                return await self._serve(request, account, order, trace_id, repeated)
        except RefusedError as refusal:
            return answer_refusal(refusal, trace_id)

    async def _serve(self, request: Request, account: Account, order: Order, trace_id: str, repeated: int) -> Response:
        script = read_script(order.prompt)
        withheld = min(script.withheld, order.n)
        if not script.spoils_order:
            self._accounts.charge(account, order.prompt, order.n - withheld, withheld)
        if "hang" in script.flags:
            return await _hang(request)
        await self._sleep(self._latency_s if script.delay_s is None else script.delay_s)
        if script.spoils_order:
            return _spoil(script, trace_id, order)
        body = await self._deliver(request, order, trace_id, withheld, repeated)
        return answer_cut(body, trace_id) if "cut" in script.flags else answer(body, trace_id)

    async def _deliver(self, request: Request, order: Order, trace_id: str, withheld: int, repeated: int) -> bytes:
        width, height = order.pixels
        seed = repeated or None if order.seed is None else order.seed
        sketches = {
            f"{trace_id}-{index}.jpg": Sketch(order.prompt, width, height, index, seed)
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
        self.captured.append(Captured(request.url.path, headers, body))


class Office:
    """Everything beside the images' making: the quota page, the bill, the captured requests, the images' files."""

    def __init__(self, accounts: Accounts, gallery: Gallery, captured: deque[Captured]) -> None:
        self._accounts = accounts
        self._gallery = gallery
        self._captured = captured

    async def remains(self, request: Request) -> Response:
        """MiniMax's quota page: asks nothing of the account and appears on no bill."""
        trace_id = _trace_id(request.url.path.encode(), None)
        try:
            check_key(require_key(_bearer(request)))
        except RefusedError as refusal:
            return answer_refusal(refusal, trace_id)
        return answer(msgspec.json.encode(REMAINS), trace_id)

    async def invoice(self, _: Request) -> Response:
        return _json(self._accounts.invoice())

    async def reset(self, _: Request) -> Response:
        """Forget the bill, the rate limit's windows and the captured requests; links stay alive."""
        self._accounts.reset()
        self._captured.clear()
        return _json(self._accounts.invoice())

    async def receipts(self, _: Request) -> Response:
        return _json(list(self._accounts.receipts))

    async def requests(self, _: Request) -> Response:
        return _json(list(self._captured))

    async def image(self, request: Request) -> Response:
        picture = await self._gallery.find(request.path_params["name"])
        if picture is None:
            return _json({"detail": "no such image"}, status=404)
        return Response(picture, media_type="image/jpeg")


async def _hang(request: Request) -> Response:
    """Wait until the client leaves; after ten minutes answer as a proxy would that has lost patience."""
    try:
        async with asyncio.timeout(HANG_S):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass
    return answer_page(504)


def _spoil(script: Script, trace_id: str, order: Order) -> Response:
    """The answers that hold no image; of several words the transport's comes before the API's."""
    if script.http is not None:
        return answer_page(script.http)
    if script.code is not None:
        raise RefusedError(script.code)
    if "garbage" in script.flags:
        return answer_page(200)
    spelling = "image_base64" if order.response_format == "base64" else "image_urls"
    return answer(render_success(trace_id, [], spelling=spelling, failed=0), trace_id)


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _parse(raw: bytes) -> object:
    """The body's JSON, or None for what is none (or null, which is no order either)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _trace_id(raw: bytes, body: object) -> str:
    """32 hex digits, the same for the same content, whatever the order of its keys."""
    canonical = raw if body is None else msgspec.json.encode(body, order="sorted")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def _repeated(trace_id: str, repeated: int) -> str:
    """The id of an order that came before: another one each time, and always the same ones."""
    if not repeated:
        return trace_id
    return hashlib.blake2b(f"{trace_id} {repeated}".encode(), digest_size=16).hexdigest()


def _json(content: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _say_nothing(_: Request, __: Exception) -> Response:
    """For a client that has left before its request was complete."""
    return Response(status_code=400)
