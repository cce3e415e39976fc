"""A rolling restart under load: three processes behind a balancer, each ended and replaced in turn."""

import asyncio
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import aiohttp

from tests.flow.processes import Answer, ask, start_gateway, used, write_configuration
from tests.flow.test_deaths import PRICE_MICROS, receipts, records
from tests.harness import admin, new_key, simulating, wait_until

CLIENTS = 150
LATENCY_S = 3.0
PROBE_S = 0.1
GRACE_S = 4.0
"""Longer than the balancer takes to notice, on the busiest machine; the requests under way last as long."""


class Balancer:
    """As those of the trade: it asks for /readyz, keeps connections, and goes elsewhere with what nobody took.

    That is one whose connection was refused, or that a 503 answered. What was sent and broke off it cannot send again.
    """

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._ready = list(urls)
        self._turn = 0

    async def probe(self, session: aiohttp.ClientSession) -> None:
        """For ever."""
        while True:
            urls = list(self.urls)
            answers = await asyncio.gather(*(self._is_ready(session, url) for url in urls))
            self._ready = [url for url, is_ready in zip(urls, answers, strict=True) if is_ready]
            await asyncio.sleep(PROBE_S)

    async def send(self, session: aiohttp.ClientSession, key: str, body: dict[str, object], request_id: str) -> Answer:
        while True:
            self._turn += 1
            ready = self._ready or self.urls
            with suppress(aiohttp.ClientConnectorError):
                answer = await ask(session, ready[self._turn % len(ready)], key, body, request_id)
                if answer.status != 503:
                    return answer
            await asyncio.sleep(PROBE_S)

    async def _is_ready(self, session: aiohttp.ClientSession, url: str) -> bool:
        try:
            async with session.get(f"{url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


class Load:
    """So many clients that send one request after the other, each with a prompt of its own, until told to end."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        self.balancer, self._key = balancer, key
        self.sent = self.under_way = 0
        self.images: dict[str, int] = {}
        """By prompt: those in the answers."""
        self.failures: list[object] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(60)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            probing = asyncio.create_task(self.balancer.probe(session))
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))
            probing.cancel()

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._is_over.is_set():
            self.sent += 1
            number = self.sent
            body: dict[str, object] = {"prompt": f"order {number}", "n": 1 + number % 3, "response_format": "url"}
            self.under_way += 1
            try:
                answer = await self.balancer.send(session, self._key, body, f"order-{number}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
            else:
                self._note(f"order {number}", answer)
            self.under_way -= 1

    def _note(self, prompt: str, answer: Answer) -> None:
        pictures = answer.body.get("data")
        if answer.status == 200 and isinstance(pictures, list):
            self.images[prompt] = len(pictures)
        else:
            self.failures.append(answer)


def test_a_rolling_restart_under_load_loses_and_duplicates_nothing(redis_url: str, tmp_path: Path) -> None:
    """Three books agree request by request: the clients' pictures, the ledger, and the simulator's invoice."""
    with simulating(latency_s=LATENCY_S) as simulator:
        grace = f"[server]\ndrain_grace_s = {GRACE_S}\n"
        configuration = write_configuration(tmp_path, redis_url, simulator.url, more=grace)
        started = [start_gateway(configuration) for _ in range(3)]
        everybody = list(started)
        try:
            key = new_key(started[0][1], "acme")
            balancer = Balancer([url for _, url in started])
            with Load(balancer, key) as load:
                for place in range(3):
                    wait_until(lambda: load.under_way >= CLIENTS - 5, "the clients are at it")
                    started[place] = replaced(started[place][0], configuration)
                    everybody.append(started[place])
                    balancer.urls[place] = started[place][1]
                    assert 0 == everybody[place][0].wait(30), "it drains and ends well"
            url = started[0][1]
            wait_until(lambda: used(url, "acme")["open_requests"] == 0, "everything is settled")
            lines, total = records(url, "acme"), admin(url, "GET", "/usage?tenant=acme").json()["total"]
            billed, invoice = receipts(simulator), simulator.images_billed()
        finally:
            for process, _ in everybody:
                process.kill()
                process.wait()
    assert ([], load.sent) == (load.failures, len(load.images))
    assert load.images == billed
    assert billed == {line["request_id"].replace("-", " "): line["delivered"] for line in lines}
    assert len(lines) == len(billed)
    assert (invoice, 0) == (total["images"], total["unconfirmed"] + total["lost"] + total["withheld"])
    assert invoice * PRICE_MICROS == round(float(total["usd"]) * 1e6)


def replaced(process: subprocess.Popen[bytes], configuration: Path) -> tuple[subprocess.Popen[bytes], str]:
    """End a process, and start its successor while it drains."""
    process.send_signal(signal.SIGTERM)
    return start_gateway(configuration)
