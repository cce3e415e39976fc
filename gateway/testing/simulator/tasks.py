"""What every provider does whose calls begin tasks, whatever its format: it accepts a task, and answers for it."""

import asyncio
import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.testing.simulator.accounts import Account, account_of
from gateway.testing.simulator.api import CapturedRequest
from gateway.testing.simulator.call_log import Call, Rule
from gateway.testing.simulator.fault_injection import (
    INVALID_PARAMS,
    NOT_AUTHORISED,
    FaultScript,
    RefusedError,
    parse_script,
    require_key,
)
from gateway.testing.simulator.own_formats import Order, Workshop
from gateway.testing.simulator.parsing import parse
from gateway.testing.simulator.pictures import Sketch
from gateway.testing.simulator.responses import answer_page

_TASKS_MAX: Final = 100_000
_KEY_HEADERS: Final = ("authorization", "mj-api-secret")
FAILED: Final = 1000
LOST: Final = 1024
"""The task is forgotten when it ends."""


@dataclass(slots=True)
class SimulatedTask:
    """A task that was accepted."""

    id: str
    order: Order
    code: int = 0
    """With which it ends; 0 is a success."""
    is_over: bool = False
    links: list[str] = field(default_factory=list)
    base: str = ""
    """The origin at which the client reached the twin."""


class TaskFormat(Protocol):
    """One provider's format. It raises RefusedError with INVALID_PARAMS and its own text for an invalid request."""

    paths: tuple[str, ...]
    poll_path: str
    """With `{id}`."""
    ends: frozenset[int]
    """Codes with which a task ends; with others it does not begin."""

    def key(self, request: Request) -> str | None: ...
    def parse(self, request: Request, body: dict[str, object]) -> Order: ...
    def refuse(self, refusal: RefusedError) -> Response: ...
    def accept(self, task: SimulatedTask) -> Response: ...
    def show(self, task: SimulatedTask | None) -> Response:
        """Renders the state of a task, or that there is none."""

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        """Returns the free pages by path: each renders the code of the key, which is 0 if it works."""


class TaskEndpoint:
    """Serves one format: the submission, the state of a task, and the free pages."""

    def __init__(self, shop: Workshop, form: TaskFormat) -> None:
        self._shop, self._form = shop, form
        self._tasks: dict[str, SimulatedTask] = {}
        self._running: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        pages = [Route(path, self._page(render), methods=["GET"]) for path, render in self._form.pages().items()]
        submissions = [Route(path, self.submit, methods=["POST"]) for path in self._form.paths]
        return [*submissions, *pages, Route(self._form.poll_path, self.poll, methods=["GET"])]

    async def submit(self, request: Request) -> Response:
        """Begins a task, which takes its account's place until it ends."""
        body, key = parse(await request.body()), self._form.key(request)
        headers = dict(request.headers)
        headers |= {name: account_of(key or "") for name in _KEY_HEADERS if name in headers}
        self._shop.captured.append(CapturedRequest(request.url.path, headers, body))
        try:
            known_key = require_key(key)
            account = self._shop.accounts.open(account_of(known_key))
            with account.request(), self._shop.call_log.call(request.url.path, known_key, body) as call:
                order, script = self._check(request, account, body, call)
            if script.http is not None:
                return answer_page(script.http)
            return self._form.accept(self._begin(request, account, order, script))
        except RefusedError as refusal:
            return self._form.refuse(refusal)

    def _check(self, request: Request, account: Account, body: object, call: Call) -> tuple[Order, FaultScript]:
        """Raises: RefusedError of the first check that fails."""
        call.rule = Rule.KEY
        self._shop.states.check(call.key)
        call.rule = Rule.FIELDS
        if not isinstance(body, dict):
            raise RefusedError(INVALID_PARAMS, "the body can not be read")
        order = self._form.parse(request, body)
        call.asked, call.model, call.prompt = order.n, order.model, order.prompt[:200]
        call.rule = Rule.LIMITS
        self._shop.accounts.admit(account, order.n)
        call.rule = Rule.WORDS
        script = parse_script(order.prompt)
        if script.code is not None and script.code not in self._form.ends:
            raise RefusedError(script.code)
        call.page = script.http or 0
        if script.code is None and script.http is None:
            call.images = order.n
            self._shop.accounts.charge(account, order.prompt, order.n, 0)
        return order, script

    def _begin(self, request: Request, account: Account, order: Order, script: FaultScript) -> SimulatedTask:
        base = f"{request.url.scheme}://{request.headers['host']}"
        task = SimulatedTask(str(uuid.uuid4()), order, script.code or 0, base=base)
        if len(self._tasks) >= _TASKS_MAX:
            self._tasks.pop(next(iter(self._tasks)))
        self._tasks[task.id] = task
        account.in_flight += 1
        account.peak_concurrency = max(account.peak_concurrency, account.in_flight)

        async def run() -> None:
            try:
                if "hang" in script.flags:
                    await asyncio.Event().wait()
                await self._shop.sleep(self._shop.latency_s if script.delay_s is None else script.delay_s)
                if not task.code and "empty" not in script.flags:
                    for index in range(order.n):
                        name = f"{task.id}-{index}.{order.form}"
                        self._shop.gallery.hang(name, await self._sketch(order, index))
                        task.links.append(f"{base}/simulator/images/{name}")
                task.is_over = True
                if task.code == LOST:
                    self._tasks.pop(task.id, None)
            finally:
                account.in_flight -= 1

        running = asyncio.get_running_loop().create_task(run())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return task

    async def _sketch(self, order: Order, index: int) -> Sketch:
        link = "data:application/octet-stream;base64," + base64.b64encode(order.reference).decode("ascii")
        colours = await self._shop.gallery.reduce_reference(link) if order.reference else b""
        return Sketch(order.prompt, order.width, order.height, index, order.seed, colours, order.is_grid)

    async def poll(self, request: Request) -> Response:
        try:
            self._shop.states.check(require_key(self._form.key(request)))
        except RefusedError as refusal:
            return self._form.refuse(refusal)
        return self._form.show(self._tasks.get(request.path_params["id"]))

    def _page(self, render: Callable[[int], Response]) -> Callable[[Request], object]:
        async def respond(request: Request) -> Response:
            key = self._form.key(request)
            return render(self._shop.states.standing(key).code if key else NOT_AUTHORISED)

        return respond
