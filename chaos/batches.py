"""Batches: tenants upload files of lines, poll, cancel, and read what became of each line."""

import asyncio
import base64
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from chaos.administration import Tenant
from chaos.clients import Clients, note_openai
from chaos.observations import Asked, Batch, Caps, Ending
from chaos.orders import LINE_PIXELS, LINE_SEED, Order, draw_line
from gateway.testing.simulator.drawing import draw
from gateway.testing.simulator.pictures import Sketch

TENANTS: Final = 3
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_LINES: Final = (10, 40)
_CALL_S: Final = 15.0
_PAUSE_S: Final = 1.0
_ENDING_S: Final = 110.0
"""Limit after the load: a line that waits again while the clock is 90 s ahead is due 90 s later."""
_CANCELLED_AFTER_S: Final = (3.0, 20.0)
_LASTING: Final = frozenset({400, 401, 403, 404, 422})

Lines = Mapping[str, tuple[Order, Asked]]
"""By custom ID, which the prompt holds, too."""


class _RefusedError(Exception):
    """A call got an error that a repetition cannot change."""


def plan_batch_tenants() -> list[Tenant]:
    """Returns tenants that send batches only, without limits."""
    return [Tenant(f"batch-{number}", Caps(), 1, None) for number in range(TENANTS)]


@dataclass(frozen=True, slots=True)
class BatchClients:
    """These tenants' clients. The first one cancels its batches while they run."""

    session: aiohttp.ClientSession
    clients: Clients
    tenants: Sequence[Tenant]
    seed: int
    sent: list[Batch] = field(default_factory=list)

    async def keep_sending(self) -> None:
        """Sends one batch after the other for each tenant until the end, and waits until the last ones have ended."""
        sending = [asyncio.ensure_future(self._keep_sending(tenant)) for tenant in self.tenants]
        try:
            while not self.clients.is_over:
                await asyncio.wait(sending, timeout=_PAUSE_S)
            await asyncio.wait(sending, timeout=_ENDING_S)
        finally:
            for task in sending:
                task.cancel()
        for result in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _keep_sending(self, tenant: Tenant) -> None:
        chance = Random(f"{self.seed}/{tenant.name}")  # noqa: S311 - it is to be repeatable
        while not self.clients.is_over:
            orders = [draw_line(chance) for _ in range(chance.randint(*_LINES))]
            lines = {asked.id: (order, asked) for order in orders for asked in [self.clients.begin(order, tenant)]}
            cancelled_after_s = chance.uniform(*_CANCELLED_AFTER_S) if tenant is self.tenants[0] else None
            batch = Batch(f"{tenant.name}-{len(self.sent)}", tenant.name, tuple(lines))
            self.sent.append(batch)
            try:
                await self._send(batch, tenant, lines, cancelled_after_s)
            except _RefusedError as error:
                batch.faults.append(str(error))
            finally:
                for _, asked in lines.values():
                    asked.batch, asked.ended_s = batch.id or batch.name, asked.ended_s or time.monotonic()
            await asyncio.sleep(chance.uniform(0, _PAUSE_S))

    async def _send(self, batch: Batch, tenant: Tenant, lines: Lines, cancelled_after_s: float | None) -> None:
        """Raises: _RefusedError."""
        file = await self._call(tenant, "POST", "/v1/files", batch.name, form=_render(lines))
        order = {"input_file_id": file["id"], "endpoint": "/v1/images/generations", "completion_window": "24h"}
        found = await self._call(tenant, "POST", "/v1/batches", batch.name, body=order)
        batch.id, created_s = found["id"], time.monotonic()
        while found["status"] not in _ENDED:
            batch.status = found["status"]
            await asyncio.sleep(_PAUSE_S)
            if cancelled_after_s is not None and time.monotonic() > created_s + cancelled_after_s:
                batch.is_cancelled, cancelled_after_s = True, None  # accepted, or refused as it has just ended
                await self._call(tenant, "POST", f"/v1/batches/{batch.id}/cancel", accepted=(200, 400))
            found = await self._call(tenant, "GET", f"/v1/batches/{batch.id}")
        batch.status = found["status"]
        batch.counts = tuple(found["request_counts"][name] for name in ("total", "completed", "failed"))
        ended_s = time.monotonic()
        for name, ids in (("output_file_id", batch.output), ("error_file_id", batch.errors)):
            if found[name] is None:
                continue
            content = await self._read(tenant, "GET", f"/v1/files/{found[name]}/content")
            for entry in map(json.loads, content.splitlines()):
                ids.append(entry["custom_id"])
                if entry["custom_id"] in lines:
                    order_of_line, asked = lines[entry["custom_id"]]
                    _note(asked, entry, ended_s)
                    batch.faults += await self._look(tenant, order_of_line, asked, entry)

    async def _look(self, tenant: Tenant, order: Order, asked: Asked, entry: Mapping[str, Any]) -> list[str]:
        """Returns what is wrong with the images of a line: each is one that the provider draws for its prompt."""
        if not asked.is_success:
            return []
        expected = await asyncio.to_thread(_draw_all, order, asked.id)
        faults = list[str]()
        for image in entry["response"]["body"]["data"]:
            if image.get("url"):
                place = urlsplit(image["url"])
                picture = await self._read(tenant, "GET", f"{place.path}?{place.query}")
            else:
                picture = base64.b64decode(image["b64_json"])
            if sha256(picture).digest() not in expected:
                faults.append(f"{asked.id}: an image of {len(picture)} bytes is none of its prompt")
        return faults

    async def _call(self, tenant: Tenant, method: str, path: str, key: str = "", **given: Any) -> Any:
        """Returns the JSON of a call. Raises: _RefusedError."""
        return json.loads(await self._read(tenant, method, path, key, **given))

    async def _read(
        self,
        tenant: Tenant,
        method: str,
        path: str,
        key: str = "",
        *,
        body: object = None,
        form: str = "",
        accepted: Collection[int] = (200,),
    ) -> bytes:
        """Repeats a call, as SDKs do, until it succeeds; `form` is a file to upload. Raises: _RefusedError."""
        headers = {"authorization": f"Bearer {tenant.keys[-1][1]}"} | ({"idempotency-key": key} if key else {})
        timeout = aiohttp.ClientTimeout(_CALL_S)
        while True:
            upload = _form(form) if form else None
            try:
                async with self.session.request(
                    method, self.clients.url() + path, json=body, data=upload, headers=headers, timeout=timeout
                ) as response:
                    content = await response.read()
                if response.status in accepted:
                    return content
                if response.status in _LASTING:
                    raise _RefusedError(f"{method} {path.partition('?')[0]}: {response.status} {content[:200]!r}")
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # its gateway was killed
            await asyncio.sleep(_PAUSE_S)


def _form(content: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", content, filename="lines.jsonl")
    return form


def _render(lines: Lines) -> str:
    return "\n".join(
        json.dumps({"custom_id": name, "method": "POST", "url": order.path, "body": order.body_for(name)})
        for name, (order, _) in lines.items()
    )


def _note(asked: Asked, entry: Mapping[str, Any], ended_s: float) -> None:
    """Records what a line of the output or error file says. It does not say if a 502 was free."""
    asked.ending, asked.ended_s = Ending.ANSWERED, ended_s
    if entry["response"] is None:
        asked.code, asked.may_have_cost = entry["error"]["code"], False
    else:
        asked.status = entry["response"]["status_code"]
        note_openai(asked, entry["response"]["body"], "false")


def _draw_all(order: Order, request_id: str) -> set[bytes]:
    """Returns the digests of the images that the provider draws for a line."""
    prompt = order.body_for(request_id)["prompt"]
    sketches = (Sketch(prompt, LINE_PIXELS, LINE_PIXELS, index, LINE_SEED) for index in range(order.count))
    return {sha256(draw(sketch)).digest() for sketch in sketches}
