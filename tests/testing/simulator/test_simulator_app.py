import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image

from gateway.testing.simulator import create_simulator
from tests.testing.simulator.driving import AI302, MINIMAX, Time, ask, bill_of, talking

pytestmark = pytest.mark.anyio

NO_KEY = "login fail: Please carry the API secret key in the 'Authorization' field of the request header"


@pytest.fixture
async def client(time: Time) -> AsyncIterator[httpx.AsyncClient]:
    app = create_simulator(requests_per_minute=5, clock=time, sleep=time.sleep)
    async with talking(app) as client:
        yield client


def refusal(code: int, text: str) -> bytes:
    return msgspec.json.encode({"base_resp": {"status_code": code, "status_msg": text}})


@pytest.mark.parametrize("path", [MINIMAX, AI302])
async def test_success_has_minimax_keys_in_order_and_counters_as_strings(client: httpx.AsyncClient, path: str) -> None:
    answer = await ask(client, path=path)
    trace_id = answer.headers["trace-id"]
    assert len(trace_id) == 32
    assert bytes.fromhex(trace_id)
    expected = (
        f'{{"id":"{trace_id}","data":{{"image_urls":["http://sim:9000/simulator/images/{trace_id}-0.jpg"]}},'
        '"metadata":{"success_count":"1","failed_count":"0"},"base_resp":{"status_code":0,"status_msg":"success"}}'
    )
    assert expected == answer.text
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


async def test_same_body_gets_the_same_bytes_whatever_the_key_or_the_order_of_fields(client: httpx.AsyncClient) -> None:
    first = await ask(client, n=3, seed=7, response_format="base64")
    body = {"seed": 7, "response_format": "base64", "n": 3, "prompt": "a fox", "model": "image-01"}
    second = await client.post(MINIMAX, json=body, headers={"Authorization": "bearer other"})
    assert first.content == second.content
    assert first.headers["trace-id"] == second.headers["trace-id"]
    assert first.headers["trace-id"] != (await ask(client, n=3, seed=8)).headers["trace-id"]


async def test_base64_answers_hold_n_different_jpegs_and_urls_lead_to_the_same(client: httpx.AsyncClient) -> None:
    data = (await ask(client, n=3, seed=7, response_format="base64")).json()["data"]
    assert list(data) == ["image_base64"]
    pictures = [base64.b64decode(image, validate=True) for image in data["image_base64"]]
    assert len(set(pictures)) == 3
    urls = (await ask(client, n=3, seed=7)).json()["data"]["image_urls"]
    fetched = [await client.get(url) for url in urls]
    assert pictures == [answer.content for answer in fetched]
    assert {"image/jpeg"} == {answer.headers["content-type"] for answer in fetched}


async def test_unknown_image_is_a_404_in_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("/simulator/images/none.jpg")
    assert (answer.status_code, answer.json()) == (404, {"detail": "no such image"})


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (1024, 1024)),
        ({"aspect_ratio": "1:1"}, (1024, 1024)),
        ({"aspect_ratio": "16:9"}, (1280, 720)),
        ({"aspect_ratio": "4:3"}, (1152, 864)),
        ({"aspect_ratio": "3:2"}, (1248, 832)),
        ({"aspect_ratio": "2:3"}, (832, 1248)),
        ({"aspect_ratio": "3:4"}, (864, 1152)),
        ({"aspect_ratio": "9:16"}, (720, 1280)),
        ({"aspect_ratio": "21:9"}, (1344, 576)),
        ({"width": 512, "height": 2048}, (512, 2048)),
        ({"width": 512, "height": 2048, "aspect_ratio": "3:2"}, (1248, 832)),
        ({"model": "image-01-live", "width": 512, "height": 512}, (1024, 1024)),
    ],
)
async def test_image_has_the_pixels_asked_for(
    client: httpx.AsyncClient, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    url = (await ask(client, **fields)).json()["data"]["image_urls"][0]
    with Image.open(io.BytesIO((await client.get(url)).content)) as image:
        assert ("JPEG", size) == (image.format, image.size)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer "}, {"x-api-key": "k"}]
)
async def test_request_without_bearer_is_1004_and_on_no_bill(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.post(MINIMAX, json={"model": "image-01", "prompt": "a fox"}, headers=headers)
    assert (200, refusal(1004, NO_KEY)) == (answer.status_code, answer.content)
    assert (await client.get("/simulator/invoice")).json() == {"accounts": {}, "total": {"requests": 0, "images": 0}}


async def test_invalid_field_is_2013_with_http_200_and_on_the_bill(client: httpx.AsyncClient) -> None:
    answer = await ask(client, n=10)
    assert (answer.status_code, answer.content) == (200, refusal(2013, "invalid params, n: Expected `int` <= 9"))
    expected = {
        "requests": 1,
        "images": 0,
        "withheld": 0,
        "refusals": {"2013": 1},
        "peak_concurrency": 1,
        "peak_per_minute": 0,
    }
    assert expected == await bill_of(client, "design")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b'{"prompt":"a fox"}', b'{"model":"image-01"}', b"[" * 99999]
)
async def test_body_that_is_no_order_is_2013(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post(MINIMAX, content=raw, headers={"Authorization": "Bearer k"})
    assert answer.json()["base_resp"]["status_code"] == 2013


@pytest.mark.parametrize(
    ("key", "code", "text"),
    [
        ("dead-1", 2049, "invalid api key"),
        ("broke-1", 1008, "insufficient balance"),
        ("window-1", 2056, "usage limit exceeded"),
    ],
)
async def test_key_word_refuses_before_the_body_is_looked_at(
    client: httpx.AsyncClient, key: str, code: int, text: str
) -> None:
    assert refusal(code, text) == (await ask(client, key=key, n=99)).content
    account = key.removesuffix("-1")
    expected = {
        "requests": 1,
        "images": 0,
        "withheld": 0,
        "refusals": {str(code): 1},
        "peak_concurrency": 1,
        "peak_per_minute": 0,
    }
    assert expected == await bill_of(client, account)


async def test_rate_limit_slides_over_a_minute_and_is_shared_by_an_account_s_keys(
    client: httpx.AsyncClient, time: Time
) -> None:
    for second in range(5):
        time.now = 1000.0 + second
        assert (await ask(client, key=f"design-{second}")).json()["base_resp"]["status_code"] == 0
    refused = await ask(client)
    assert refused.content == b'{"base_resp":{"status_code":1002,"status_msg":"rate limit exceeded(RPM)"}}'
    assert len(refused.content) == 74
    assert (await ask(client, key="other-1")).json()["base_resp"]["status_code"] == 0
    time.now = 1059.9
    assert (await ask(client)).json()["base_resp"]["status_code"] == 1002
    time.now = 1060.0
    assert (await ask(client)).json()["base_resp"]["status_code"] == 0
    assert (await ask(client)).json()["base_resp"]["status_code"] == 1002
    expected = {
        "requests": 9,
        "images": 6,
        "withheld": 0,
        "refusals": {"1002": 3},
        "peak_concurrency": 1,
        "peak_per_minute": 5,
    }
    assert expected == await bill_of(client, "design")


async def test_invalid_request_takes_no_place_in_the_rate_limit(client: httpx.AsyncClient) -> None:
    codes = [(await ask(client, n=0)).json()["base_resp"]["status_code"] for _ in range(9)]
    assert codes == [2013] * 9
    assert (await ask(client)).json()["base_resp"]["status_code"] == 0


async def test_rate_limit_comes_before_the_prompt_s_words(client: httpx.AsyncClient) -> None:
    codes = [(await ask(client, "[code=1026]")).json()["base_resp"]["status_code"] for _ in range(6)]
    assert codes == [1026] * 5 + [1002]


async def test_every_answer_to_a_valid_request_takes_the_latency(client: httpx.AsyncClient, time: Time) -> None:
    await ask(client)
    await ask(client, "[code=1000]")
    await ask(client, n=0)
    assert time.slept == [0.3, 0.3]


async def test_remains_needs_a_key_and_is_on_no_bill(client: httpx.AsyncClient) -> None:
    assert refusal(1004, NO_KEY) == (await client.get("/v1/token_plan/remains")).content
    answer = await client.get("/v1/token_plan/remains", headers={"Authorization": "Bearer design-1"})
    assert answer.content == (
        b'{"base_resp":{"status_code":0,"status_msg":"success"},"model_remains":[{"model_name":"image-01",'
        b'"current_interval_total_count":100,"current_interval_usage_count":100,"current_interval_remaining_percent":100,"remains_time":3600000}]}'
    )
    assert (await client.get("/simulator/invoice")).json()["accounts"] == {}


async def test_captured_requests_are_the_last_hundred_and_hold_no_key(client: httpx.AsyncClient) -> None:
    for number in range(101):
        await ask(client, path=AI302, key="secret-value-1", seed=number)
    await client.post(MINIMAX, content=b"{", headers={"Authorization": "Basic secret-value"})
    answer = await client.get("/simulator/requests")
    records = answer.json()
    assert len(records) == 100
    assert records[-2]["body"] == {"model": "minimaxi-image-01", "prompt": "a fox", "seed": 100}
    assert records[0]["body"]["seed"] == 2
    assert (records[0]["path"], records[0]["headers"]["authorization"]) == (AI302, "secret-value")
    assert (records[-1]["path"], records[-1]["headers"]["authorization"], records[-1]["body"]) == (MINIMAX, "", None)
    assert records[0]["headers"]["content-type"] == "application/json"
    assert "secret-value-1" not in answer.text


async def test_delete_resets_bill_limit_and_records(client: httpx.AsyncClient) -> None:
    for _ in range(6):
        last = await ask(client)
    nothing = {"accounts": {}, "total": {"requests": 0, "images": 0}}
    assert last.json()["base_resp"]["status_code"] == 1002
    assert nothing == (await client.delete("/simulator/invoice")).json()
    assert nothing == (await client.get("/simulator/invoice")).json()
    assert (await client.get("/simulator/requests")).json() == []
    assert (await ask(client)).json()["base_resp"]["status_code"] == 0


async def test_two_simulators_share_nothing(client: httpx.AsyncClient) -> None:
    await ask(client)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_simulator()), base_url="http://b") as other:
        assert (await other.get("/simulator/invoice")).json()["accounts"] == {}


async def test_two_thousand_requests_wait_at_once() -> None:
    waiting = asyncio.Barrier(2000)

    async def sleep(_: float) -> None:
        await waiting.wait()

    app = create_simulator(requests_per_minute=2000, sleep=sleep)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sim") as client:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(ask(client, f"fox {number}", n=2) for number in range(2000)))
        assert {answer.json()["base_resp"]["status_code"] for answer in answers} == {0}
        expected = {
            "requests": 2000,
            "images": 4000,
            "withheld": 0,
            "refusals": {},
            "peak_concurrency": 2000,
            "peak_per_minute": 2000,
        }
        assert expected == await bill_of(client, "design")
