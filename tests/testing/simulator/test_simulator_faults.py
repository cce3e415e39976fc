import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from gateway.testing.simulator import create_simulator

pytestmark = pytest.mark.anyio

TEXTS = {
    1000: "unknown error",
    1001: "request timeout",
    1002: "rate limit exceeded(RPM)",
    1004: "login fail: Please carry the API secret key in the 'Authorization' field of the request header",
    1008: "insufficient balance",
    1024: "internal error",
    1026: "input new_sensitive",
    1027: "output new_sensitive",
    1028: "Daily quota exhausted for image-01",
    1033: "system error",
    1039: "token limit",
    1041: "conn limit",
    1042: "invisible character ratio limit",
    2013: "invalid params",
    2045: "rate growth limit",
    2049: "invalid api key",
    2056: "usage limit exceeded",
    2061: "your current token plan not support model",
    4711: "error",
}


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
async def client(slept: list[float]) -> AsyncIterator[httpx.AsyncClient]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    transport = httpx.ASGITransport(create_simulator(sleep=sleep))
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        yield client


async def ask(client: httpx.AsyncClient, prompt: str, **fields: object) -> httpx.Response:
    body = {"model": "image-01", "prompt": prompt} | fields
    return await client.post("/v1/image_generation", json=body, headers={"Authorization": "Bearer design-1"})


async def bill(client: httpx.AsyncClient) -> Any:
    return (await client.get("/simulator/invoice")).json()["accounts"]["design"]


@pytest.mark.parametrize(("code", "text"), TEXTS.items())
async def test_code_word_answers_that_code_with_minimax_wording(
    client: httpx.AsyncClient, code: int, text: str
) -> None:
    answer = await ask(client, f"a fox [code={code}] in snow", n=2)
    expected = msgspec.json.encode({"base_resp": {"status_code": code, "status_msg": text}})
    assert (200, expected) == (answer.status_code, answer.content)
    assert "trace-id" in answer.headers
    assert (0, {str(code): 1}) == ((await bill(client))["images"], (await bill(client))["refusals"])


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        (-10001, 401, "API key missing"),
        (-10002, 401, "key disabled or deleted"),
        (-10005, 401, "credential expired"),
        (-10008, 500, "no available channel now"),
        (-4711, 500, "error"),
    ],
)
async def test_negative_code_answers_in_the_form_of_302(
    client: httpx.AsyncClient, code: int, status: int, text: str
) -> None:
    answer = await ask(client, f"[code={code}]")
    expected = msgspec.json.encode({"error": {"err_code": code, "message": text, "type": "api_error"}})
    assert (status, expected) == (answer.status_code, answer.content)
    assert (0, {str(code): 1}) == ((await bill(client))["images"], (await bill(client))["refusals"])


@pytest.mark.parametrize(("status", "phrase"), [(502, "Bad Gateway"), (429, "Too Many Requests"), (599, "Unknown")])
async def test_http_word_answers_a_proxy_page_and_bills_nothing(
    client: httpx.AsyncClient, status: int, phrase: str
) -> None:
    answer = await ask(client, f"[http={status}]")
    assert status == answer.status_code
    assert f"<center><h1>{status} {phrase}</h1></center>" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert ((await bill(client))["requests"], (await bill(client))["images"]) == (1, 0)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_code_beside_an_http_status_is_the_api_s_own_error_with_that_status(
    client: httpx.AsyncClient, status: int
) -> None:
    own, of_302 = await ask(client, f"[http={status}][code=1000]"), await ask(client, f"[code=-10003] [http={status}]")
    assert (status, {"status_code": 1000, "status_msg": "unknown error"}) == (own.status_code, own.json()["base_resp"])
    assert (status, -10003) == (of_302.status_code, of_302.json()["error"]["err_code"])
    assert 0 == (await bill(client))["images"]


@pytest.mark.parametrize(
    ("status", "is_cloudflare"), [(502, False), (519, False), (521, True), (526, True), (530, False)]
)
async def test_cloudflare_s_statuses_come_with_its_headers(
    client: httpx.AsyncClient, status: int, *, is_cloudflare: bool
) -> None:
    headers = (await ask(client, f"[http={status}]")).headers
    assert (is_cloudflare, is_cloudflare) == ("cf-ray" in headers, headers.get("server") == "cloudflare")


async def test_delay_word_replaces_the_latency_and_is_billed(client: httpx.AsyncClient, slept: list[float]) -> None:
    assert (await ask(client, "[delay=3]", n=2)).json()["base_resp"]["status_code"] == 0
    await ask(client, "[delay=0.25] [code=1001]")
    assert slept == [3.0, 0.25]
    assert (await bill(client))["images"] == 2


async def test_garbage_word_answers_html_with_200_and_bills_nothing(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "[garbage]")
    assert (answer.status_code, answer.text.startswith("<html>")) == (200, True)
    assert (await bill(client))["images"] == 0


@pytest.mark.parametrize(("wanted", "spelling"), [("url", "image_urls"), ("base64", "image_base64")])
async def test_empty_word_answers_success_without_images_and_bills_nothing(
    client: httpx.AsyncClient, wanted: str, spelling: str
) -> None:
    answer = (await ask(client, "[empty]", n=2, response_format=wanted)).json()
    assert {spelling: []} == answer["data"]
    assert answer["metadata"] == {"success_count": "0", "failed_count": "0"}
    assert answer["base_resp"] == {"status_code": 0, "status_msg": "success"}
    assert ((await bill(client))["images"], (await bill(client))["withheld"]) == (0, 0)


@pytest.mark.parametrize(("fail", "made", "withheld"), [(0, 3, 0), (1, 2, 1), (3, 0, 3), (9, 0, 3)])
@pytest.mark.parametrize("wanted", ["url", "base64"])
async def test_fail_word_withholds_that_many_and_bills_the_rest(
    client: httpx.AsyncClient, fail: int, made: int, withheld: int, wanted: str
) -> None:
    answer = (await ask(client, f"[fail={fail}]", n=3, response_format=wanted)).json()
    (images,) = answer["data"].values()
    assert made == len(images)
    assert {"success_count": str(made), "failed_count": str(withheld)} == answer["metadata"]
    assert answer["base_resp"]["status_code"] == 0
    assert (made, withheld) == ((await bill(client))["images"], (await bill(client))["withheld"])


async def test_what_only_resembles_a_word_is_drawn(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "[code=x] [http=99] [HANG] code=1026 [fail]")
    assert answer.json()["metadata"]["success_count"] == "1"


async def test_image_is_billed_although_the_client_left_before_the_answer() -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(create_simulator(sleep=sleep))
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        task = asyncio.create_task(ask(client, "a fox", n=4))
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert (await bill(client))["images"] == 4
