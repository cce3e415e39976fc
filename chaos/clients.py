"""Clients: send requests, wait or disconnect, and record the results."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

import aiohttp

from chaos.administration import Tenant
from chaos.configuration import DEADLINE_S
from chaos.observations import Asked, Ending
from chaos.orders import NATIVE, HangUp, Order, draw

ANSWER_S: Final = DEADLINE_S + 40.0
"""The gateway's deadline, plus the effects of a slow machine and a Redis outage."""
_PAUSE_S: Final = 1.5
"""Average pause between two requests of a client."""
_AFTER_REFUSAL_S: Final = 1.0
_FREE_STATUSES: Final = frozenset({400, 401, 403, 404, 405, 408, 409, 413, 429, 431, 503})
_FREE_CODES: Final = frozenset({1002, 1004, 1008, 1026, 1033, 1042, 2013, 2049})
"""Codes of the MiniMax API that are free; the documentation says that any other may have cost something."""
NOT_KEPT: Final = "result_not_kept"
"""Bought earlier, and no longer to be had."""
_NOT_KEPT_TEXT: Final = "Paid for, but not stored. A new Idempotency-Key buys others."
"""The same in MiniMax's format, which has no code for it."""
_WITHHELD_CODES: Final = frozenset({"1027", "moderation_blocked", "content_policy_violation"})


class Clients:
    """All clients."""

    def __init__(self, session: aiohttp.ClientSession, url: Callable[[], str], seed: int, run: int) -> None:
        self._session = session
        self.url = url
        self._seed = seed
        self._run = run
        self.is_over = False
        self._numbers: dict[str, int] = {}
        self.asked: list[Asked] = []

    def stop(self) -> None:
        """Stops new requests; requests in flight complete."""
        self.is_over = True

    async def keep_asking(self, tenant: Tenant, number: int) -> None:
        """Runs one client of a tenant until the end."""
        chance = Random(f"{self._seed}/{tenant.name}/{number}")  # noqa: S311 - it is to be repeatable
        await asyncio.sleep(chance.uniform(0, 2))
        while not self.is_over:
            order = draw(chance, tenant.models)
            asked = await self.ask(order, tenant)
            pause_s = chance.expovariate(1 / _PAUSE_S)
            await asyncio.sleep(min(5.0, pause_s + (0 if asked.is_success else _AFTER_REFUSAL_S)))

    async def ask(self, order: Order, tenant: Tenant, url: str | None = None) -> Asked:
        """Sends a request and records its result."""
        asked = self.begin(order, tenant)
        await self.send(order, asked, tenant, url)
        return asked

    def begin(self, order: Order, tenant: Tenant) -> Asked:
        """Records a request that is about to be sent."""
        self._numbers[tenant.name] = number = self._numbers.get(tenant.name, 0) + 1
        name = f"cb-{self._run}-{tenant.name.replace('-', '')}-{number}"
        self.asked.append(Asked(name, tenant.name, tenant.keys[-1][0], order.wire, order.count, time.monotonic()))
        return self.asked[-1]

    async def send(self, order: Order, asked: Asked, tenant: Tenant, url: str | None = None) -> None:
        """Sends a request and records its result in `asked`."""
        headers = {"authorization": f"Bearer {tenant.keys[-1][1]}", "x-request-id": asked.id, **order.headers}
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self._send(order, asked, f"{url or self.url()}{order.path}", headers)
        asked.ended_s = time.monotonic()

    async def _send(self, order: Order, asked: Asked, url: str, headers: dict[str, str]) -> None:
        text = json.dumps(order.body_for(asked.id)).encode()
        try:
            match order.hang_up:
                case None:
                    await self._read(url, headers, text, asked, order)
                case HangUp.IN_THE_ANSWER:
                    await self._read_a_little(url, headers, text, asked)
                case HangUp.IN_THE_BODY:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.3):
                            await self._post(url, headers | _json(len(text)), _half(text))
                    asked.ending = Ending.LEFT
                case hang_up:
                    seconds = 0.01 if hang_up is HangUp.AT_ONCE else order.hang_up_s
                    asked.ending = Ending.LEFT
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await self._read(url, headers, text, asked, order)
        except (aiohttp.ClientError, OSError) as error:
            if not isinstance(error, TimeoutError):
                asked.ending, asked.detail = Ending.BROKEN, f"{type(error).__name__}: {error}"

    async def _post(self, url: str, headers: dict[str, str], body: Any) -> None:
        async with self._session.post(url, data=body, headers=headers) as answer:
            await answer.read()

    async def _read_a_little(self, url: str, headers: dict[str, str], text: bytes, asked: Asked) -> None:
        async with self._session.post(url, data=text, headers=headers | _json()) as answer:
            await answer.content.read(100)
            asked.ending, asked.status = Ending.LEFT, answer.status
            answer.close()

    async def _read(self, url: str, headers: dict[str, str], text: bytes, asked: Asked, order: Order) -> None:
        async with self._session.post(url, data=text, headers=headers | _json()) as answer:
            body = await answer.read()
            asked.status = answer.status
            retry, kind = answer.headers.get("x-should-retry"), answer.content_type
            asked.is_replayed = answer.headers.get("idempotent-replayed") == "true"
        asked.ending = Ending.ANSWERED
        try:
            if order.wire == NATIVE:
                _note_native(asked, body)
            elif kind == "text/event-stream":
                _note_events(asked, body, retry)
            else:
                note_openai(asked, json.loads(body), retry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            asked.code, asked.detail = "unreadable", f"{error!r}: {body[:200]!r}"


def _json(length: int | None = None) -> dict[str, str]:
    return {"content-type": "application/json"} | ({} if length is None else {"content-length": str(length)})


async def _half(text: bytes) -> AsyncIterator[bytes]:
    """Yields the first half of a body, then stalls."""
    yield text[: len(text) // 2]
    await asyncio.sleep(3600)


def note_openai(asked: Asked, document: dict[str, Any], retry: str | None) -> None:
    """Records a response in OpenAI's format; `retry` is its header x-should-retry."""
    if asked.status == 200:
        asked.pictures, asked.is_success = len(document["data"]), True
        asked.digest = _digest(document["data"])
        return
    error = document.get("error") or {}
    asked.code, asked.detail = str(error.get("code")), str(error.get("message", ""))
    is_free = asked.status in _FREE_STATUSES or asked.code == "deadline_exceeded"
    is_free = is_free and asked.code != NOT_KEPT
    asked.may_have_cost = not (is_free or (asked.status == 502 and retry != "false"))


def _note_events(asked: Asked, body: bytes, retry: str | None) -> None:
    """Records a stream: images, or one error."""
    documents = [json.loads(line[5:]) for line in body.split(b"\n") if line.startswith(b"data:")]
    images = [one for one in documents if one["type"] == "image_generation.completed"]
    asked.pictures, asked.is_success, asked.digest = len(images), bool(images), _digest(images)
    errors = [one for one in documents if one["type"] == "error"]
    if errors:
        asked.status = 0
        note_openai(asked, errors[0], retry)
        asked.may_have_cost = asked.code not in {"rate_limit_exceeded", "insufficient_quota", "moderation_blocked"}
    elif not asked.pictures:
        asked.code = "empty stream"


def _note_native(asked: Asked, body: bytes) -> None:
    document = json.loads(body)
    code = document["base_resp"]["status_code"]
    if code == 0:
        data = document["data"]
        images = [*(data.get("image_urls") or []), *(data.get("image_base64") or [])]
        asked.pictures, asked.is_success, asked.digest = len(images), True, _digest(images)
        return
    asked.code, asked.detail = str(code), str(document["base_resp"]["status_msg"])
    if asked.detail.endswith(_NOT_KEPT_TEXT):
        asked.code = NOT_KEPT
    asked.may_have_cost = asked.code == NOT_KEPT or (code not in _FREE_CODES and str(code) not in _WITHHELD_CODES)


def _digest(images: list[Any]) -> str:
    """Returns a digest of images: texts, or documents of which only the image counts."""
    kept = [image if isinstance(image, str) else [image.get("url"), image.get("b64_json")] for image in images]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
