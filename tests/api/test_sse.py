"""`stream: true` over a real connection: what is sent when, and what happens when nobody listens any more."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.testing.simulator import create_simulator
from tests.support.harness import Gateway, MakeGateway, Simulator, serving, upstream, wait_until

GENERATIONS: Final = "/v1/images/generations"
COMPLETED: Final = "image_generation.completed"


@pytest.fixture
def lively(make_gateway: MakeGateway) -> Gateway:
    """A gateway that sends keep-alives every 50 ms."""
    return make_gateway(server={"sse_keepalive_s": 0.05})


def blocks(text: str) -> list[str]:
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events; comments are left out, and anything else fails."""
    found = []
    for block in blocks(text):
        if block.startswith(": "):
            continue
        match = re.fullmatch(r"event: ([a-z_.]+)\ndata: ([^\n]+)", block)
        assert match, block[:200]
        found.append((match[1], json.loads(match[2])))
    return found


@pytest.mark.parametrize("count", [1, 3, 10])
def test_each_image_is_one_event(gateway: Gateway, simulator: Simulator, count: int) -> None:
    response = gateway.generate(prompt="x", n=count, stream=True)
    assert (200, "text/event-stream; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert "no-store" == response.headers["cache-control"]
    found = events(response.text)
    assert [COMPLETED] * count == [name for name, _ in found]
    assert count == simulator.images_billed()
    for name, data in found:
        assert name == data["type"]
        keys = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format", "usage"}
        assert keys == set(data)
        assert ("1024x1024", "jpeg", "opaque") == (data["size"], data["output_format"], data["background"])
        assert {"text_tokens": 0, "image_tokens": 0} == data["usage"]["input_tokens_details"]
    assert "[DONE]" not in response.text


def test_the_answer_has_the_same_headers_as_a_plain_one(gateway: Gateway) -> None:
    headers = gateway.generate(prompt="x [fail=1]", n=3, stream=True, quality="hd", partial_images=2).headers
    assert ("1", "1") == (headers["x-imagegate-attempts"], headers["x-imagegate-missing"])
    assert "quality, partial_images" == headers["x-imagegate-ignored"]
    assert {"x-request-id", "openai-processing-ms", "openai-version"} <= set(headers)


def test_comments_keep_the_connection_alive_while_waiting(lively: Gateway) -> None:
    response = lively.generate(prompt="x [delay=0.5]", stream=True)
    found = blocks(response.text)
    assert len(found) >= 4
    assert {": keep-alive"} == set(found[:-2])
    assert found[-2].startswith(f"event: {COMPLETED}\n")


def test_the_first_comment_does_not_wait_for_the_image(lively: Gateway) -> None:
    headers = {"authorization": f"Bearer {lively.api_key}"}
    body = {"prompt": "x [delay=1]", "stream": True}
    with httpx.stream("POST", lively.url + GENERATIONS, json=body, headers=headers, timeout=30) as response:
        received: Iterator[bytes] = response.iter_raw()
        assert b": keep-alive\n\n" == next(received)
        assert "0" != response.headers["openai-processing-ms"]
        assert [COMPLETED] == [name for name, _ in events(b"".join(received).decode())]


def test_without_waiting_there_is_no_comment(gateway: Gateway) -> None:
    assert ":" != gateway.generate(prompt="x", stream=True).text[0]


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("[code=1026]", 400, "moderation_blocked"),
        ("[code=1002]", 429, "rate_limit_exceeded"),
        ("[http=502]", 502, "upstream_error"),
        ("[code=1001]", 504, "upstream_timeout"),
        ("", 400, "empty_string"),
    ],
)
def test_a_failure_before_the_first_byte_is_an_http_error(
    gateway: Gateway, prompt: str, status: int, code: str
) -> None:
    response = gateway.generate(prompt=prompt, stream=True)
    assert (status, code) == (response.status_code, response.json()["error"]["code"])
    assert "application/json" == response.headers["content-type"]


@pytest.mark.parametrize(
    ("model", "prompt", "code"),
    [
        ("gpt-image-1", "[code=1026]", "moderation_blocked"),
        ("dall-e-3", "[code=1026]", "content_policy_violation"),
        ("image-01", "[code=1002]", "rate_limit_exceeded"),
        ("image-01", "[code=2049]", "upstream_unavailable"),
        ("image-01", "[code=1001]", "upstream_timeout"),
        ("image-01", "[garbage]", "upstream_error"),
    ],
)
def test_a_failure_after_the_first_byte_is_a_nested_error_event(
    lively: Gateway, model: str, prompt: str, code: str
) -> None:
    response = lively.generate(model=model, prompt=f"{prompt} [delay=0.3]", stream=True)
    assert 200 == response.status_code
    [(name, data)] = events(response.text)
    assert ("error", "error", code) == (name, data["type"], data["error"]["code"])
    assert {"message", "type", "param", "code"} <= set(data["error"])
    assert response.text.startswith(": keep-alive\n\n")


def test_a_failure_after_the_first_byte_is_counted(lively: Gateway) -> None:
    lively.generate(prompt="[code=1026] [delay=0.3]", stream=True)
    assert 'imagegate_request_errors_total{code="content_input",origin="caller",tenant="acme"} 1.0' in metrics(lively)


def test_a_stream_delivers_no_links(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.generate(prompt="x", stream=True, response_format="url")
    assert (400, "response_format") == (response.status_code, response.json()["error"]["param"])
    assert [] == simulator.requests()
    for model in ("dall-e-3", "gpt-image-1"):
        [(_, data)] = events(gateway.generate(prompt="x", model=model, stream=True).text)
        assert data["b64_json"].startswith("/9j/")


def metrics(gateway: Gateway) -> str:
    return httpx.get(f"{gateway.url}/metrics").text


@pytest.mark.parametrize("keep_alive_s", [0.5, 60.0], ids=["after the first byte", "before the first byte"])
@pytest.mark.parametrize("stream", [True, False])
def test_when_the_client_hangs_up_the_image_is_billed_and_logged_once(
    make_gateway: MakeGateway, stack: Any, stream: bool, keep_alive_s: float
) -> None:
    """What was bought is counted, whether or not anybody still listens."""
    url = stack.enter_context(serving(create_simulator(latency_s=0.0, requests_per_minute=1000)))
    simulator = Simulator(url)
    gateway = make_gateway(upstream("sim", "minimax", url), server={"sse_keepalive_s": keep_alive_s})
    headers = {"authorization": f"Bearer {gateway.api_key}", "x-request-id": "the-one-that-left"}
    body = {"prompt": "x [delay=1.5]", "n": 2, "stream": stream}
    counted = 'imagegate_images_total{model="image-01",tenant="acme",upstream="sim"} 2.0'
    reported = 'imagegate_requests_total{model="image-01",route="/v1/images/generations"'
    with capture_logs() as logs:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(gateway.url + GENERATIONS, json=body, headers=headers, timeout=httpx.Timeout(5, read=0.3))
        wait_until(lambda: counted in metrics(gateway), "the images are counted")
        wait_until(lambda: reported in metrics(gateway), "the request is reported")
        lines = [line for line in logs if line["event"] == "request" and line.get("model")]
    assert 2 == simulator.images_billed()
    assert 1 == len(simulator.requests())
    [line] = lines
    assert ("acme", 2, 2, 1) == (line["tenant"], line["images_requested"], line["delivered"], line["attempts"])
    assert 200 == gateway.generate(prompt="y").status_code


def test_ten_hang_ups_leave_nothing_behind(make_gateway: MakeGateway) -> None:
    lively = make_gateway(server={"sse_keepalive_s": 0.5})
    headers = {"authorization": f"Bearer {lively.api_key}"}
    for _ in range(10):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(
                lively.url + GENERATIONS,
                json={"prompt": "x [delay=1]", "stream": True},
                headers=headers,
                timeout=httpx.Timeout(5, read=0.3),
            )
    wait_until(
        lambda: 'imagegate_images_total{model="image-01",tenant="acme",upstream="sim"} 10.0' in metrics(lively),
        "all images are counted",
    )
    assert 'imagegate_upstream_calls_in_flight{upstream="sim"} 0.0' in metrics(lively)


def test_a_stream_that_has_begun_tells_in_a_comment_what_is_missing(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"sse_keepalive_s": 0.05})
    answer = gateway.generate(prompt="[delay=0.3] [fail=1]", n=3, stream=True)
    assert 2 == answer.text.count("event: image_generation.completed")
    assert answer.text.endswith(": missing 1\n\n: cost-usd 0.007\n\n")
    assert "x-imagegate-missing" not in answer.headers
