"""The gateways: four slots, in each of which one process after another serves."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from chaos.configuration import DRAIN_TIMEOUT_S, Configuration, secrets
from chaos.processes import children, memory_bytes, start, wait_for_end, wait_for_line

PLACES: Final = 4
WORKERS_PLACE: Final = 3
"""The gateway in this slot runs `--workers 2`: a supervisor with two workers."""
_LISTENING: Final = r'(?m)^(?=.*"event": ?"listening").*"url": ?"http://[^"]*:(\d+)"'
_PROBE_S: Final = 0.25
_PROBE_TIMEOUT_S: Final = 2.0
_READY_S: Final = 60.0
_SETTLE_S: Final = 10.0
_BREAKER_S: Final = 1.5
"""A circuit breaker retries Redis within a second."""
_END_S: Final = DRAIN_TIMEOUT_S + 30.0
"""The drain time, plus a margin for a slow machine."""


@dataclass(eq=False)
class Gateway:
    """One process."""

    number: int
    """Sequence number across all processes, from 0."""
    place: int
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started_s: float
    is_ready: bool = False
    killed_s: float | None = None
    worker_kills_s: list[float] = field(default_factory=list)
    """When one of its workers was killed while the supervisor ran."""
    told_to_end_s: float | None = None
    exit_code: int | None = None
    memory: list[tuple[float, int]] = field(default_factory=list)
    """(time, resident bytes)."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


class Fleet:
    """All gateways, including ended ones."""

    def __init__(self, configuration: Configuration, folder: Path, *, has_workers: bool) -> None:
        self._configuration = configuration
        self._has_workers = has_workers
        self._folder = folder
        self.everybody: list[Gateway] = []
        self._count = 0
        self._ending = set[asyncio.Task[None]]()
        self._starting = 0
        self._may_start = asyncio.Event()
        self._may_start.set()

    @asynccontextmanager
    async def nobody_starts(self) -> AsyncIterator[None]:
        """Blocks starts while the file is invalid: running gateways continue, but a new one would exit."""
        self._may_start.clear()
        try:
            while self._starting:  # noqa: ASYNC110 - counted, and rarely waited for
                await asyncio.sleep(0.05)
            yield
        finally:
            self._may_start.set()

    def serving(self) -> list[Gateway]:
        """Gateways that have not been killed."""
        return [one for one in self.everybody if one.killed_s is None and one.exit_code is None]

    def at(self, place: int) -> Gateway | None:
        """Returns the latest gateway in a slot."""
        found = [one for one in self.serving() if one.place == place and one.told_to_end_s is None]
        return found[-1] if found else None

    async def start(self, place: int) -> Gateway:
        """Starts a process and waits until it listens. Raises: RuntimeError if it does not."""
        await self._may_start.wait()
        self._starting += 1
        try:
            return await self._start(place)
        finally:
            self._starting -= 1

    async def _start(self, place: int) -> Gateway:
        number = self._count
        self._count += 1
        log = self._folder / f"gateway-{number}.log"
        environ = {"PATH": os.environ["PATH"]} | secrets()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self._configuration.path), "--port", "0"]
        if self._has_workers and place == WORKERS_PLACE:
            command += ["--workers", "2"]
        process = start(command, log, environ, self._folder)  # `-m` searches the working directory first
        try:
            port = int(await wait_for_line(process, log, _LISTENING))
        except BaseException:
            process.kill()
            raise
        gateway = Gateway(number, place, process, port, log, time.monotonic())
        self.everybody.append(gateway)
        return gateway

    async def wait_until_ready(self, gateway: Gateway) -> bool:
        """Returns True once it is ready; False after a generous timeout. Redis may be unavailable meanwhile."""
        deadline_s = time.monotonic() + _READY_S
        while gateway.is_alive and time.monotonic() < deadline_s:
            if gateway.is_ready:
                return True
            await asyncio.sleep(0.05)
        return False

    async def settle(self) -> None:
        """Waits, for a bounded time, until every gateway is ready and its Redis circuit breaker is closed."""
        deadline_s = time.monotonic() + _SETTLE_S
        await asyncio.sleep(_BREAKER_S)
        while not all(one.is_ready for one in self.serving()) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - polled
            await asyncio.sleep(_PROBE_S)

    def kill(self, gateway: Gateway) -> None:
        """Sends SIGKILL. A supervisor dies with its workers."""
        gateway.killed_s = time.monotonic()
        gateway.is_ready = False
        kill_tree(gateway.process)

    def kill_worker(self, gateway: Gateway) -> int | None:
        """Kills one worker. Returns its process ID, or None without a worker at the moment."""
        workers = children(gateway.process.pid)
        if not workers:
            return None
        gateway.worker_kills_s.append(time.monotonic())
        with suppress(ProcessLookupError):
            os.kill(workers[0], signal.SIGKILL)
        return workers[0]

    def end(self, gateway: Gateway) -> None:
        """Sends SIGTERM and monitors the drain."""
        gateway.told_to_end_s = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        task = asyncio.ensure_future(self._wait_for_end(gateway))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def wait_for_the_ending(self) -> None:
        """Waits for every gateway that was told to end."""
        if self._ending:
            await asyncio.wait(self._ending)

    async def _wait_for_end(self, gateway: Gateway) -> None:
        gateway.exit_code = await wait_for_end(gateway.process, _END_S)

    async def probe(self) -> None:
        """Polls readiness and memory of every gateway until cancelled."""
        timeout = aiohttp.ClientTimeout(_PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await asyncio.gather(*(self._look(session, one) for one in self.serving()))
                await asyncio.sleep(_PROBE_S)

    async def _look(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        try:
            async with session.get(f"{gateway.url}/readyz") as answer:
                gateway.is_ready = answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            gateway.is_ready = False
        pid = gateway.process.pid
        if resident := sum(memory_bytes(one) for one in (pid, *children(pid))):
            gateway.memory.append((time.monotonic(), resident))

    def kill_all(self) -> None:
        for gateway in self.everybody:
            kill_tree(gateway.process)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Stops the parent first, so that it cannot start another child."""
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        for child in children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.kill()
    process.wait()
