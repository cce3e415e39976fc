"""What the simulator's tests share: a clock that is moved by hand, and the way to ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

MINIMAX = "/v1/image_generation"
AI302 = "/minimaxi/v1/image_generation"


class Time:
    """A clock that only moves when told, and a sleep that notes how long it was asked to take."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def talking(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sim:9000") as client:
        yield client


async def ask(
    client: httpx.AsyncClient, prompt: str = "a fox", *, key: str = "design-1", path: str = MINIMAX, **fields: object
) -> httpx.Response:
    body = {"model": "minimaxi-image-01" if path == AI302 else "image-01", "prompt": prompt} | fields
    return await client.post(path, json=body, headers=bearer(key))


async def code_of(
    client: httpx.AsyncClient, prompt: str = "a fox", *, key: str = "design-1", path: str = MINIMAX, **fields: object
) -> int:
    code: int = (await ask(client, prompt, key=key, path=path, **fields)).json()["base_resp"]["status_code"]
    return code


async def bill_of(client: httpx.AsyncClient, account: str = "design") -> dict[str, Any]:
    bill: dict[str, Any] = (await client.get("/simulator/invoice")).json()["accounts"][account]
    return bill


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
