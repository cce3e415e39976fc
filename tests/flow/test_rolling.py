"""A rolling restart under load: three processes behind a balancer, each ended and replaced in turn.

The balancer is a few lines here, so that this is shown on every machine; tests/flow/test_balancer.py has a real one.
"""

import asyncio
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import new_key, simulating
from tests.support.loading import Body, Load, check_books
from tests.support.processes import Answer, ask, start_gateway, write_configuration

pytestmark = pytest.mark.slow

CLIENTS = 60
LATENCY_S = 2.0
PROBE_S = 0.1
GRACE_S = 2.0
"""Longer than the balancer takes to notice; on the busiest machine, where it is not, connections are refused."""


class Balancer:
    """As those of the trade: it asks for /readyz, keeps connections, and goes elsewhere with what nobody took.

    That is one whose connection was refused, or that a 503 answered. What was sent and broke off it cannot send again.
    """

    def __init__(self, urls: list[str], key: str) -> None:
        self.urls = urls
        self._key = key
        self._ready = list(urls)
        self._turn = 0

    async def probe(self, session: aiohttp.ClientSession) -> None:
        """For ever."""
        while True:
            urls = list(self.urls)
            answers = await asyncio.gather(*(self._is_ready(session, url) for url in urls))
            self._ready = [url for url, is_ready in zip(urls, answers, strict=True) if is_ready]
            await asyncio.sleep(PROBE_S)

    async def send(self, session: aiohttp.ClientSession, body: Body, request_id: str) -> Answer:
        while True:
            self._turn += 1
            ready = self._ready or self.urls
            with suppress(aiohttp.ClientConnectorError):
                answer = await ask(session, ready[self._turn % len(ready)], self._key, body, request_id)
                if answer.status != 503:
                    return answer
            await asyncio.sleep(PROBE_S)

    async def _is_ready(self, session: aiohttp.ClientSession, url: str) -> bool:
        try:
            async with session.get(f"{url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


def test_a_rolling_restart_under_load_loses_and_duplicates_nothing(redis_url: str, tmp_path: Path) -> None:
    """Three books agree request by request: the clients' pictures, the ledger, and the simulator's invoice."""
    with simulating(latency_s=LATENCY_S) as simulator:
        grace = f"[server]\nshutdown_delay_s = {GRACE_S}\n"
        configuration = write_configuration(tmp_path, redis_url, simulator.url, more=grace)
        started = [start_gateway(configuration) for _ in range(3)]
        everybody = list(started)
        try:
            balancer = Balancer([url for _, url in started], new_key(started[0][1], "acme"))
            with Load(balancer.send, CLIENTS, LATENCY_S, balancer.probe) as load:
                for place in range(3):
                    load.wait_until_all_are_at_it()
                    started[place] = replaced(started[place][0], configuration)
                    everybody.append(started[place])
                    balancer.urls[place] = started[place][1]
                    assert 0 == everybody[place][0].wait(60), "it drains and ends well"
            check_books(load, started[0][1], simulator)
        finally:
            for process, _ in everybody:
                process.kill()
                process.wait()


def replaced(process: subprocess.Popen[bytes], configuration: Path) -> tuple[subprocess.Popen[bytes], str]:
    """End a process, and start its successor while it drains."""
    process.send_signal(signal.SIGTERM)
    return start_gateway(configuration)
