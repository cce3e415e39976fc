"""The hostile edge: what it blocks, what it repeats, and that it does neither unless ordered."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.testing.simulator import create_simulator

pytestmark = pytest.mark.anyio

ATTACK = "a poster <script>alert(1)</script>"
LINK = "https://x.example/(1008)"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_simulator(latency_s=0.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        yield client


async def ask(client: httpx.AsyncClient, prompt: str, **fields: object) -> httpx.Response:
    body = {"model": "image-01", "prompt": prompt} | fields
    return await client.post("/v1/image_generation", json=body, headers={"Authorization": "Bearer design-1"})


async def test_without_an_order_it_is_harmless(client: httpx.AsyncClient) -> None:
    answer = await ask(client, ATTACK, subject_reference=[{"type": "character", "image_file": LINK}])
    assert (200, 0) == (answer.status_code, answer.json()["base_resp"]["status_code"])


@pytest.mark.parametrize("status", [302, 401, 402, 403, 406, 429])
async def test_what_looks_like_an_attack_gets_a_page_and_bills_nothing(client: httpx.AsyncClient, status: int) -> None:
    await client.put("/simulator/edge", json={"blocks": status})
    answer = await ask(client, ATTACK)
    assert (status, "text/html; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert 0 == (await client.get("/simulator/invoice")).json()["total"]["images"]
    assert 200 == (await ask(client, "a lake")).status_code


async def test_a_refused_reference_is_repeated_in_the_error(client: httpx.AsyncClient) -> None:
    await client.put("/simulator/edge", json={"echoes": True})
    answer = await ask(client, "x", subject_reference=[{"type": "character", "image_file": LINK}])
    assert {"status_code": 2013, "status_msg": f"invalid params, failed to download {LINK}"} == answer.json()[
        "base_resp"
    ]


@pytest.mark.parametrize("said", [{"blocks": 200}, {"blocks": 500}, {"strange": 1}, []])
async def test_an_unclear_order_changes_nothing(client: httpx.AsyncClient, said: object) -> None:
    assert 400 == (await client.put("/simulator/edge", json=said)).status_code
    assert 200 == (await ask(client, ATTACK)).status_code
