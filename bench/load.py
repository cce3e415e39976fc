"""Load generator: cheap clients that do not distort the measurement.

Each is one keep-alive connection that sends a prepared request and counts the bytes of the response. `python -m
bench.load PLAN` runs a `Plan`, as JSON, and prints its `Outcome`.
"""

import asyncio
import itertools
import math
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import uvloop
from msgspec.structs import replace

from bench.traffic import SERIAL, Outcome, Plan

_STATUS_AND_LENGTH: Final = re.compile(
    rb"HTTP/1\.1 (\d{3}) .*?\r\ncontent-length: (\d+)\r\n", re.DOTALL | re.IGNORECASE
)
_SHARED: Final = bytearray(256 * 1024)
"""Body bytes are counted and dropped: one buffer serves all connections."""


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least this share of the values does not exceed; 0 without values."""
    if not sorted_values:
        return 0.0
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]


class _Client(asyncio.BufferedProtocol):
    """One connection. Calls `done` with the status of every response, 0 if there was none."""

    def __init__(self, requests: Iterator[bytes], done: Callable[["_Client", int, float], None]) -> None:
        self._requests = requests
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left_bytes = 0
        self._status = 0
        self._began_s = 0.0
        self.body_bytes = 0
        self.is_busy = False
        self.is_open = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one
        self._transport = transport
        self.is_open = True

    def ask(self) -> None:
        assert self._transport
        self.is_busy, self._head, self._left_bytes = True, b"", 0
        self._began_s = time.monotonic()
        self._transport.write(next(self._requests))

    def get_buffer(self, _: int) -> bytearray:
        return _SHARED

    def buffer_updated(self, count: int) -> None:
        if self._left_bytes:
            self._left_bytes -= count
        else:
            self._head += _SHARED[:count]
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _STATUS_AND_LENGTH.match(self._head[: end + 2])
            if not found:
                raise ValueError(f"an answer without content-length: {self._head[:200]!r}")
            self._status, self.body_bytes = int(found[1]), int(found[2])
            self._left_bytes = self.body_bytes - (len(self._head) - end - 4)
        if self._left_bytes <= 0:
            self.is_busy = False
            self._done(self, self._status, time.monotonic() - self._began_s)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_open = False
        if self.is_busy:
            self.is_busy = False
            self._done(self, 0, 0.0)

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


class _Load:
    """A plan in progress."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        rendered = zip(itertools.cycle(render_requests(plan)), itertools.count(), strict=False)
        self._requests = (request.replace(SERIAL.encode(), b"%d" % number) for request, number in rendered)
        self._idle: list[_Client] = []
        self._clients: list[_Client] = []
        self._latencies: list[float] = []
        self._failed = Counter[str]()
        self._sent = self._answered = self._body_bytes = 0
        self._began_s = self._ended_s = time.monotonic()
        self._finished = asyncio.Event()
        self._is_sending = True

    async def run(self) -> Outcome:
        """Runs the plan. SIGTERM ends it early: no more requests are sent."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        if self._plan.rate is None:
            await self._keep_busy()
        else:
            await self._keep_pace(self._plan.rate)
        self._is_sending = False
        try:
            async with asyncio.timeout(self._plan.patience_s):
                while self._answered < self._sent:
                    self._finished.clear()
                    await self._finished.wait()
        except TimeoutError:
            self._failed["unanswered"] = self._sent - self._answered
        latencies = sorted(self._latencies)
        return Outcome(
            served=len(latencies),
            failed=dict(self._failed),
            seconds=self._ended_s - self._began_s,
            in_time=sum(latency <= self._plan.in_time_s for latency in latencies),
            body_bytes=self._body_bytes,
            p50_s=percentile(latencies, 0.5),
            p99_s=percentile(latencies, 0.99),
            max_s=latencies[-1] if latencies else 0.0,
        )

    def _stop(self) -> None:
        self._is_sending = False

    async def _keep_busy(self) -> None:
        clients = [await self._connect() for _ in range(self._plan.concurrency)]
        self._began_s = time.monotonic()
        for client in clients:
            self._ask(client)
        while self._may_ask() and any(client.is_open for client in self._clients):  # noqa: ASYNC110 - time is the event
            await asyncio.sleep(0.02)

    async def _keep_pace(self, rate: float) -> None:
        """Opens connections on demand, each in its own task, so that a slow accept delays no other."""
        self._began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while self._may_ask():
                due = math.floor((time.monotonic() - self._began_s) * rate) + 1
                for _ in range(min(due, self._plan.count or due) - self._sent):
                    self._sent += 1
                    idle = self._pop_idle()
                    if idle:
                        idle.ask()
                    else:
                        group.create_task(self._ask_anew())
                await asyncio.sleep(0.001)

    def _pop_idle(self) -> _Client | None:
        while self._idle:
            client = self._idle.pop()
            if client.is_open:
                return client
        return None

    async def _ask_anew(self) -> None:
        try:
            client = await self._connect()
        except OSError:
            self._failed["broken"] += 1
            self._answered += 1
        else:
            client.ask()

    def _may_ask(self) -> bool:
        plan = self._plan
        is_early = time.monotonic() < self._began_s + plan.seconds
        return self._is_sending and is_early and (plan.count is None or self._sent < plan.count)

    async def _connect(self) -> _Client:
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: _Client(self._requests, self._note), "127.0.0.1", self._plan.port
        )
        self._clients.append(client)
        return client

    def _ask(self, client: _Client) -> None:
        if client.is_open and self._may_ask():
            self._sent += 1
            client.ask()

    def _note(self, client: _Client, status: int, latency_s: float) -> None:
        self._answered += 1
        self._ended_s = time.monotonic()
        self._body_bytes = client.body_bytes
        if status == 200:
            self._latencies.append(latency_s)
        else:
            self._failed[str(status) if status else "broken"] += 1
        if self._plan.rate is not None:
            if client.is_open:
                self._idle.append(client)
        elif self._plan.pause_s:
            asyncio.get_running_loop().call_later(self._plan.pause_s, self._ask, client)
        else:
            self._ask(client)
        self._finished.set()


def render_requests(plan: Plan) -> list[bytes]:
    """Returns one request per key."""
    bearers = [{"authorization": f"Bearer {key}"} for key in plan.keys]
    return [render_request(replace(plan, headers={**plan.headers, **bearer})) for bearer in bearers or [{}]]


def render_request(plan: Plan) -> bytes:
    body = plan.body.encode()
    headers = {"host": f"127.0.0.1:{plan.port}", **plan.headers}
    if body:
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{plan.method} {plan.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    outcome = uvloop.run(_Load(msgspec.json.decode(sys.argv[1], type=Plan)).run())
    sys.stdout.write(msgspec.json.encode(outcome).decode())
