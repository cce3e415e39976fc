"""`keep_alive_blanks_s`: blanks before the JSON of a response that is waited for."""

import asyncio
import json
import socket
from base64 import b64decode
from contextlib import ExitStack
from typing import Final

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.keep_alive import BlanksResponse
from gateway.api.middleware import AsgiEndpoint
from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.images import ImageResult
from tests.support.harness import (
    Gateway,
    MakeGateway,
    Simulator,
    document,
    environment,
    serving,
    upstream,
    wait_until,
)
from tests.support.scarce import Asking, scarce
from tests.support.sdks import sdk

GENERATIONS: Final = "/v1/images/generations"
NATIVE: Final = "/v1/image_generation"
BLANKS: Final = {"keep_alive_blanks_s": 0.1}


@pytest.fixture
def patient(make_gateway: MakeGateway) -> Gateway:
    """A gateway that sends a blank every 100 ms."""
    return make_gateway(server=BLANKS)


def test_nothing_is_sent_before_the_image_by_default(gateway: Gateway) -> None:
    response = gateway.generate(prompt="x [delay=0.5]")
    assert response.content.startswith(b"{")
    assert "content-length" in response.headers


def test_a_long_wait_begins_with_blanks(patient: Gateway) -> None:
    response = patient.generate(prompt="x [delay=1]", n=2)
    most = 2 + response.elapsed.total_seconds() / BLANKS["keep_alive_blanks_s"]
    blanks = len(response.content) - len(response.content.lstrip(b" "))
    assert 200 == response.status_code
    assert 3 <= blanks <= most
    assert 2 == len(response.json()["data"])
    assert "application/json" == response.headers["content-type"]
    assert "no" == response.headers["x-accel-buffering"]
    assert "content-length" not in response.headers
    assert {"x-request-id", "openai-processing-ms", "openai-version"} <= set(response.headers)


def test_the_first_byte_does_not_wait_for_the_image(patient: Gateway) -> None:
    headers = {"authorization": f"Bearer {patient.api_key}"}
    with httpx.stream("POST", patient.url + GENERATIONS, json={"prompt": "x [delay=2]"}, headers=headers) as response:
        assert b" " == next(response.iter_raw())
        assert int(response.headers["openai-processing-ms"]) < 1500


def test_a_client_that_times_out_between_bytes_gets_its_image(patient: Gateway, simulator: Simulator) -> None:
    client = sdk(patient.base_url, patient.api_key, timeout=1, max_retries=2)
    made = client.images.generate(prompt="x [delay=3]", model="image-01")
    assert made.data
    assert made.data[0].b64_json
    assert 1 == simulator.images_billed()


def test_a_quick_answer_is_an_ordinary_one(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"keep_alive_blanks_s": 20})
    made, refused = gateway.generate(prompt="x"), gateway.generate(prompt="x [code=1026]")
    assert (200, str(len(made.content))) == (made.status_code, made.headers["content-length"])
    assert (400, "moderation_blocked") == (refused.status_code, refused.json()["error"]["code"])
    assert "x-accel-buffering" not in made.headers


@pytest.mark.parametrize(("fault", "code"), [("code=1026", "moderation_blocked"), ("cut", "upstream_error")])
def test_a_late_error_is_the_body(patient: Gateway, fault: str, code: str) -> None:
    response = patient.generate(prompt=f"x [delay=0.5] [{fault}]")
    assert 200 == response.status_code
    assert response.content.startswith(b" ")
    assert {"error"} == set(response.json())
    assert {"message", "type", "param", "code"} <= set(response.json()["error"])
    assert code == response.json()["error"]["code"]


def test_the_native_format_has_blanks_and_errors_of_its_own(patient: Gateway) -> None:
    made = patient.post(NATIVE, {"model": "image-01", "prompt": "x [delay=0.5]"})
    refused = patient.post(NATIVE, {"model": "image-01", "prompt": "x [delay=0.5] [code=1026]"})
    assert (b" ", b" ") == (made.content[:1], refused.content[:1])
    assert (0, 1026) == tuple(answer.json()["base_resp"]["status_code"] for answer in (made, refused))


def test_a_stream_keeps_its_comments(patient: Gateway) -> None:
    assert patient.generate(prompt="x [delay=0.5]", stream=True).text.startswith("event: ")


def test_large_images_follow_the_blanks_unharmed(patient: Gateway) -> None:
    """They are sent in several writes."""
    padded = patient.generate(prompt="x [delay=0.5]", n=4, size="2048x2048")
    assert padded.content.startswith(b" ")
    assert len(padded.content) > 600_000
    pictures = [b64decode(item["b64_json"], validate=True) for item in padded.json()["data"]]
    assert [(b"\xff\xd8", b"\xff\xd9")] * 4 == [(picture[:2], picture[-2:]) for picture in pictures]


def test_a_browser_reads_it_too(patient: Gateway) -> None:
    response = patient.post(GENERATIONS, {"prompt": "x [delay=0.5]"}, origin="https://app.example")
    assert response.content.startswith(b" ")
    assert "*" == response.headers["access-control-allow-origin"]


def test_a_client_that_leaves_the_queue_after_blanks_buys_nothing(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    """Its disconnect is noticed although its response has begun."""
    gateway = make_gateway(scarce(simulator.url, max_wait_s=60), server=BLANKS)
    url = httpx.URL(gateway.url)
    sent = [socket.create_connection((url.host, url.port or 80)) for _ in range(3)]
    for number, connection in enumerate(sent):
        body = json.dumps({"prompt": f"{number} [delay=2]"}).encode()
        head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(1)
    sent[2].close()
    left = 'imagegate_request_errors_total{code="client_disconnected",origin="caller",tenant="acme"} 1.0'
    wait_until(lambda: left in httpx.get(f"{gateway.url}/metrics").text, "the disconnect is counted")
    for connection in sent[:2]:
        received = b""
        while b"0\r\n\r\n" not in received:
            received += connection.recv(65536)
        connection.close()
    assert 2 == simulator.images_billed()


def test_a_broken_upstream_is_still_bought_once(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url), server=BLANKS)
    client = sdk(gateway.base_url, gateway.api_key, max_retries=2)
    assert client.images.generate(prompt="x [delay=0.5] [cut]").data is None
    assert 1 == len(simulator.requests())


def test_a_bug_after_blanks_is_an_error_body_without_its_text(redis_url: str) -> None:
    """A connection that breaks off is retried by SDKs, and the image would be bought again."""

    async def fail() -> ImageResult:
        await asyncio.sleep(0.3)
        raise ValueError("canary-of-the-exception")

    async def endpoint(request: Request) -> Response:
        return BlanksResponse(request, fail, lambda _: [], 0.05)

    configured = document(redis_url, upstream("sim", "minimax", "http://127.0.0.1:1"))
    environ = environment(configured)
    app = create_app(resolve(from_document(configured, environ, "test"), environ))
    app.router.routes.insert(0, Route("/v1/boom", AsgiEndpoint(endpoint), methods=["POST"]))
    with serving(app) as url:
        response = httpx.post(f"{url}/v1/boom")
    assert (200, b" ") == (response.status_code, response.content[:1])
    assert "internal_error" == response.json()["error"]["code"]
    assert "canary" not in response.text


def test_a_shutdown_that_aborts_after_blanks_says_so_in_the_body(
    make_gateway: MakeGateway, stack: ExitStack, simulator: Simulator
) -> None:
    gateway = make_gateway(server=BLANKS)
    asking = Asking(gateway, prompt="x [delay=25]")
    asking.start()
    wait_until(lambda: bool(simulator.requests()), "the call is sent")
    stack.close()  # the harness aborts requests after 5 s
    answer = asking.answer()
    assert (200, b" ") == (answer.status_code, answer.content[:1])
    assert "internal_error" == answer.json()["error"]["code"], "the image may have been billed"
