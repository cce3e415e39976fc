"""Load clients, and the three records that must agree afterwards: clients, ledger and invoice."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import httpx
import msgspec

from tests.support.harness import Simulator, admin, wait_until
from tests.support.processes import Answer, ask, used

PRICE_MICROS = 3500
_PAUSE_S = 0.02
_ANSWER_S = 300.0

Body = dict[str, object]
Send = Callable[[aiohttp.ClientSession, Body, str], Awaitable[Answer]]
"""Sends a client's body under a request ID."""


def send_to(urls: list[str], key: str) -> Send:
    """Sends to each URL in turn. The list may change meanwhile."""
    turns = iter(range(10**9))

    async def send(session: aiohttp.ClientSession, body: Body, request_id: str) -> Answer:
        return await ask(session, urls[next(turns) % len(urls)], key, body, request_id)

    return send


@dataclass(frozen=True)
class Failure:
    """A client's error in place of images."""

    prompt: str
    answer: Answer | str


class Load:
    """Clients that send one request after another, each with its own prompt, until stopped.

    They start staggered within `spread_s`, so that they do not synchronise. `beside` runs with them, on their session.
    """

    def __init__(
        self,
        send: Send,
        clients: int,
        spread_s: float = 0,
        beside: Callable[[aiohttp.ClientSession], Awaitable[None]] | None = None,
    ) -> None:
        self._send, self.clients, self._spread_s, self._beside = send, clients, spread_s, beside
        self.sent = self.in_flight = 0
        self.images: dict[str, int] = {}
        """By prompt: images in the responses."""
        self.failures: list[Failure] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until every request has a response."""
        self._is_over.set()
        self._thread.join(_ANSWER_S)

    def wait_until_all_are_at_it(self) -> None:
        """Waits until nearly every client has a request in flight."""
        wait_until(lambda: self.in_flight >= self.clients - 5, "the clients are at it", _ANSWER_S)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(_ANSWER_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            beside = asyncio.ensure_future(self._beside(session)) if self._beside else None
            await asyncio.gather(*(self._client(session, index) for index in range(self.clients)))
            if beside:
                beside.cancel()

    async def _client(self, session: aiohttp.ClientSession, index: int) -> None:
        await asyncio.sleep(index * self._spread_s / self.clients)
        while not self._is_over.is_set():
            self.sent += 1
            number = self.sent
            prompt = f"order {number}"
            body: Body = {"prompt": prompt, "n": 1 + number % 3, "response_format": "url"}
            self.in_flight += 1
            try:
                self._note(prompt, await self._send(session, body, f"order-{number}"))
            except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                self.failures.append(Failure(prompt, repr(error)))
                await asyncio.sleep(_PAUSE_S)
            finally:
                self.in_flight -= 1

    def _note(self, prompt: str, answer: Answer) -> None:
        pictures = answer.body.get("data")
        if answer.status == 200 and isinstance(pictures, list):
            self.images[prompt] = len(pictures)
        else:
            self.failures.append(Failure(prompt, answer))


def receipts(simulator: Simulator) -> dict[str, int]:
    """Returns the billed images by prompt; each request has its own."""
    found = Counter[str]()
    for receipt in httpx.get(f"{simulator.url}/simulator/receipts", verify=False).json():
        found[receipt["prompt"]] += receipt["images"]
    return dict(found)


def records(url: str, tenant: str) -> list[dict[str, Any]]:
    """Returns the ledger's records, page by page, from the admin API."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        query = f"?tenant={tenant}&limit=1000" + (f"&cursor={cursor}" if cursor else "")
        page = admin(url, "GET", f"/usage/records{query}").json()
        found += page["data"]
        cursor = page["next_cursor"]
        if not cursor:
            return found


def prompt_of(record: dict[str, Any]) -> str:
    """Returns the prompt that belongs to a record's request ID."""
    return str(record["request_id"]).replace("-", " ")


def wait_until_settled(url: str, tenant: str = "acme") -> None:
    wait_until(lambda: used(url, tenant)["open_requests"] == 0, "everything is settled", 60)


def check_books(load: Load, url: str, simulator: Simulator) -> None:
    """Compares all records by request after a run without errors: no loss, no double purchase or charge."""
    wait_until_settled(url)
    lines, total = records(url, "acme"), admin(url, "GET", "/usage?tenant=acme").json()["total"]
    billed, invoice = receipts(simulator), simulator.images_billed()
    assert ([], load.sent) == (load.failures[:5], len(load.images))
    assert load.images == billed
    assert billed == {prompt_of(line): line["delivered"] for line in lines}
    assert len(lines) == len(billed)
    assert (invoice, 0) == (total["images"], total["unconfirmed"] + total["lost"] + total["withheld"])
    assert invoice * PRICE_MICROS == round(float(total["usd"]) * 1e6)
