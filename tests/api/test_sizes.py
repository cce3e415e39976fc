"""Sizes that the upstream cannot make: the nearest one is made, and reported."""

import base64
import io
from typing import Final

import pytest
from PIL import Image

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream

HEADER: Final = "x-imagegate-size"
NEAREST: Final = {
    "1200x630": "1200x632",
    "3840x2160": "2048x1152",
    "256x256": "512x512",
    "300x300": "512x512",
    "500x500": "512x512",
    "1080x1350": "1080x1352",
    "1366x768": "1368x768",
    "1104x3312": "680x2048",
    "1920x1081": "1920x1080",
    "2560x1440": "2048x1152",
    "2304x1728": "2048x1536",
    "3072x2048": "2048x1368",
    "3072x2160": "2048x1440",
    "2880x2880": "2048x2048",
    "4096x4096": "2048x2048",
    "64x256": "512x2048",
    "100x400": "512x2048",
    "4096x1024": "2048x512",
    "1281x721": "1280x720",
}


def made(item: dict[str, str]) -> str:
    with Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) as picture:
        return "{}x{}".format(*picture.size)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(("asked", "expected"), NEAREST.items())
def test_the_nearest_size_keeps_the_shape(gateway: Gateway, asked: str, expected: str) -> None:
    answer = gateway.generate(prompt="x", size=asked, response_format="b64_json")
    assert 200 == answer.status_code, answer.text
    assert (expected, expected) == (answer.json()["size"], made(answer.json()["data"][0]))
    assert f"asked {asked}, made {expected}" == answer.headers[HEADER]


def test_an_upstream_that_takes_ratios_alone_makes_the_nearest_ratio(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(upstream("sim", "302ai", simulator.url))
    answer = gateway.generate(prompt="x", size="1200x630")
    assert ("1280x720", "asked 1200x630, made 1280x720") == (answer.json()["size"], answer.headers[HEADER])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "fields",
    [{}, {"size": "auto"}, {"size": "1024x1024"}, {"size": "1208x632"}, {"aspect_ratio": "16:9"}],
    ids=str,
)
def test_a_size_that_is_made_as_asked_is_not_reported(gateway: Gateway, fields: dict[str, str]) -> None:
    answer = gateway.generate(prompt="x", **fields)
    assert (200, False) == (answer.status_code, HEADER in answer.headers)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("asked", ["5000x20", "1025x256", "4097x4097", "63x63", "9x9", "1200 x 630"])
def test_a_size_that_no_shape_fits_is_refused_with_the_reason(
    gateway: Gateway, simulator: Simulator, asked: str
) -> None:
    error = gateway.generate(prompt="x", size=asked).json()["error"]
    assert ("invalid_value", "size") == (error["code"], error["param"])
    assert "each side 64 to 4096 pixels, at most 4 to 1" in error["message"]
    assert [] == simulator.requests()


def test_a_strict_operator_lists_what_is_made(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(images={"size_policy": "strict"})
    for asked in ("1200x630", "9x9"):
        answer = gateway.generate(prompt="x", size=asked)
        assert (400, False) == (answer.status_code, HEADER in answer.headers)
        message = answer.json()["error"]["message"]
        assert "1024x1024, 1280x720" in message
        assert "any with sides from 512 to 2048 in steps of 8" in message


@pytest.mark.shares_gateway
def test_a_refused_request_reports_no_size(gateway: Gateway) -> None:
    assert HEADER not in gateway.generate(prompt="[code=1026]", size="256x256").headers


def test_a_stream_reports_the_size_in_a_header_or_a_comment(gateway: Gateway, make_gateway: MakeGateway) -> None:
    soon = gateway.generate(prompt="x", size="256x256", stream=True)
    lively = make_gateway(server={"sse_keepalive_s": 0.05})
    late = lively.generate(prompt="x [delay=0.5]", size="256x256", stream=True)
    assert ("asked 256x256, made 512x512", False) == (soon.headers[HEADER], HEADER in late.headers)
    for answer in (soon, late):
        assert answer.text.endswith("\n\n: size asked 256x256, made 512x512\n\n: cost-usd 0.0035\n\n")
        assert '"size":"512x512"' in answer.text


@pytest.mark.shares_gateway
def test_a_browser_may_read_the_headers(gateway: Gateway) -> None:
    answer = gateway.post("/v1/images/generations", {"prompt": "x", "size": "256x256"}, origin="https://app.example")
    exposed = answer.headers["access-control-expose-headers"]
    assert "*" == exposed
