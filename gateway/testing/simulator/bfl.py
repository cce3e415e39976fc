"""Black Forest Labs' API: a call begins a task, which ends with a link (reference/providers.md 4.1)."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.testing.simulator.accounts import Account, Accounts, account_of
from gateway.testing.simulator.call_log import CallLog, Rule
from gateway.testing.simulator.fault_injection import RATE_LIMITED, TOO_MANY_AT_ONCE, RefusedError, parse_script
from gateway.testing.simulator.pictures import Gallery, Sketch
from gateway.testing.simulator.responses import answer_json, answer_page
from gateway.testing.simulator.states import KeyStates

MODELS: Final = (
    *("flux-2-pro", "flux-2-pro-preview", "flux-2-max", "flux-2-flex", "flux-2-klein-4b", "flux-2-klein-9b"),
    *("flux-2-klein-9b-preview", "flux-pro-1.1", "flux-kontext-pro", "flux-kontext-max"),
)
_COST_CREDITS: Final = 3.0
"""Of every picture here."""
_TASKS_MAX: Final = 100_000
_STATUSES: Final = {1026: "Request Moderated", 1027: "Content Moderated", 1000: "Error", 1024: "Task not found"}
"""How a task ends whose prompt has this code."""
_NO_CREDITS: Final = 1008
_REFUSALS: Final = {_NO_CREDITS: 402, RATE_LIMITED: 429, TOO_MANY_AT_ONCE: 429, 2013: 422}
"""By code: the HTTP status of a submission that is refused; 401 for others."""
_TEXTS: Final = {
    401: "Not authenticated - Invalid Authentication",
    402: "Insufficient credits",
    429: "Too many active tasks",
}


class BflRequest(msgspec.Struct):
    """The documented fields that this twin reads."""

    prompt: str
    width: int = 1024
    height: int = 1024
    aspect_ratio: str | None = None
    seed: int | None = None
    output_format: str = "jpeg"


@dataclass(slots=True)
class _Task:
    prompt: str
    sketch: Sketch
    status: str = "Pending"


class BflRoutes:
    """Accepts tasks, and answers for them."""

    def __init__(
        self,
        accounts: Accounts,
        gallery: Gallery,
        states: KeyStates,
        call_log: CallLog,
        *,
        latency_s: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._accounts, self._gallery, self._states, self._call_log = accounts, gallery, states, call_log
        self._latency_s, self._sleep = latency_s, sleep
        self._tasks: dict[str, _Task] = {}
        self._running: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        return [
            *(Route(f"/v1/{model}", self.submit, methods=["POST"]) for model in MODELS),
            Route("/v1/get_result", self.poll, methods=["GET"]),
            Route("/v1/credits", self.credits, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Begins a task, which takes its account's place until it ends."""
        raw = await request.body()
        try:
            key = _key_of(request)
            account = self._accounts.open(account_of(key))
            account.requests += 1
            with self._call_log.call(request.url.path, key, msgspec.json.decode(raw)) as call:
                call.rule = Rule.KEY
                self._states.check(key)
                call.rule = Rule.FIELDS
                order = msgspec.json.decode(raw, type=BflRequest)
                script = parse_script(order.prompt)
                call.rule, call.asked = Rule.LIMITS, 1
                account.in_flight += 1
                try:
                    self._accounts.admit(account, 1)
                    call.rule = Rule.WORDS
                    if script.code is not None and script.code not in _STATUSES:
                        raise RefusedError(script.code)  # noqa: TRY301
                    if script.http is not None:
                        account.in_flight -= 1
                        call.page = script.http
                        return answer_page(script.http)
                except RefusedError as refusal:
                    account.in_flight -= 1
                    account.refusals[str(refusal.code)] = account.refusals.get(str(refusal.code), 0) + 1
                    raise
                account.peak_concurrency = max(account.peak_concurrency, account.in_flight)
                status = _STATUSES.get(script.code or 0, "Ready")
                if status == "Ready":
                    call.images = 1
                    self._accounts.charge(account, order.prompt, 1, 0)
                return self._begin(request, account, order, status)
        except RefusedError as refusal:
            http = _REFUSALS.get(refusal.code, 401)
            return answer_json({"detail": _TEXTS.get(http, refusal.text)}, status=http)
        except msgspec.MsgspecError as error:
            detail = [{"loc": ["body"], "msg": str(error), "type": "value_error"}]
            return answer_json({"detail": detail}, status=422)

    def _begin(self, request: Request, account: Account, order: BflRequest, status: str) -> Response:
        name, script = str(uuid.uuid4()), parse_script(order.prompt)
        if len(self._tasks) >= _TASKS_MAX:
            self._tasks.pop(next(iter(self._tasks)))
        task = self._tasks[name] = _Task(order.prompt, Sketch(order.prompt, order.width, order.height, 0, order.seed))

        async def run() -> None:
            try:
                if "hang" in script.flags:
                    await asyncio.Event().wait()
                await self._sleep(self._latency_s if script.delay_s is None else script.delay_s)
                task.status = status
            finally:
                account.in_flight -= 1

        running = asyncio.get_running_loop().create_task(run())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        poll = f"{request.url.scheme}://{request.headers['host']}/v1/get_result?id={name}"
        mp = order.width * order.height / 1_000_000
        return answer_json(
            {"id": name, "polling_url": poll, "cost": _COST_CREDITS, "input_mp": 0.0, "output_mp": round(mp, 2)}
        )

    async def poll(self, request: Request) -> Response:
        try:
            self._states.check(_key_of(request))
        except RefusedError:
            return answer_json({"detail": _TEXTS[401]}, status=401)
        name = request.query_params.get("id", "")
        task = self._tasks.get(name)
        answer: dict[str, object] = {
            "id": name,
            "status": task.status if task else "Task not found",
            "result": None,
            "progress": None,
        }
        if task and task.status == "Ready":
            self._gallery.hang(f"{name}.jpg", task.sketch)
            link = f"{request.url.scheme}://{request.headers['host']}/simulator/images/{name}.jpg"
            answer["result"] = {"sample": link, "prompt": task.prompt, "seed": task.sketch.seed or 0, "duration": 1.0}
        return answer_json(answer)

    async def credits(self, request: Request) -> Response:
        """The balance, which is free to ask for."""
        try:
            self._states.check(_key_of(request))
        except RefusedError as refusal:
            if refusal.code == _NO_CREDITS:
                return answer_json({"credits": 0.0})
            return answer_json({"detail": _TEXTS[401]}, status=401)
        return answer_json({"credits": 1000.0})


def _key_of(request: Request) -> str:
    """Raises: RefusedError without a key."""
    key = request.headers.get("x-key", "")
    if not key:
        raise RefusedError(2049)
    return key
