"""Links and base64: what `response_format` asks for, and both where programs read either."""

import base64
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.harness import Gateway, MakeGateway, Simulator, serving, upstream

BOTH, LINK, ENCODED = {"url", "b64_json"}, {"url"}, {"b64_json"}
NAMED = [
    ("image-01", BOTH, ENCODED),
    ("dall-e-2", BOTH, LINK),
    ("dall-e-3", BOTH, LINK),
    ("gpt-image-1", ENCODED, ENCODED),
    (None, BOTH, LINK),
]


def items(response: httpx.Response) -> list[dict[str, str]]:
    assert 200 == response.status_code, response.text
    found: list[dict[str, str]] = response.json()["data"]
    return found


@pytest.mark.shares_gateway
@pytest.mark.parametrize(("model", "expected", "_openai"), NAMED)
def test_without_response_format_each_program_finds_what_it_reads(
    gateway: Gateway, simulator: Simulator, model: str | None, expected: set[str], _openai: set[str]
) -> None:
    [item] = items(gateway.generate(prompt="x", model=model))
    assert expected == set(item)
    assert 1 == simulator.images_billed()
    if expected == BOTH:
        assert httpx.get(item["url"]).content == base64.b64decode(item["b64_json"])


@pytest.mark.parametrize(("model", "_both", "expected"), NAMED)
def test_an_operator_may_answer_as_openai_does(
    make_gateway: MakeGateway, model: str | None, _both: set[str], expected: set[str]
) -> None:
    gateway = make_gateway(images={"default_response_format": "openai"})
    assert [expected] == [set(item) for item in items(gateway.generate(prompt="x", model=model))]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("model", ["image-01", "dall-e-3", "gpt-image-1", None])
@pytest.mark.parametrize(("asked", "expected"), [("url", LINK), ("b64_json", ENCODED)])
def test_with_response_format_exactly_that_is_delivered(
    gateway: Gateway, model: str | None, asked: str, expected: set[str]
) -> None:
    found = items(gateway.generate(prompt="x", model=model, n=2, response_format=asked))
    assert [expected, expected] == [set(item) for item in found]


@pytest.mark.shares_gateway
def test_an_output_format_is_answered_in_base64_alone(gateway: Gateway) -> None:
    """It is a field of gpt-image models, whose clients read base64."""
    assert [ENCODED] == [set(item) for item in items(gateway.generate(prompt="x", output_format="jpeg"))]


@pytest.mark.shares_gateway
def test_a_stream_has_base64_alone(gateway: Gateway) -> None:
    answer = gateway.generate(prompt="x", model="dall-e-3", stream=True)
    assert '"b64_json":"' in answer.text
    assert '"url"' not in answer.text


@pytest.mark.shares_gateway
def test_every_image_of_several_calls_has_both(gateway: Gateway, simulator: Simulator) -> None:
    found = items(gateway.generate(prompt="x", n=10))
    assert [BOTH] * 10 == [set(item) for item in found]
    assert 10 == len({item["url"] for item in found})
    assert 10 == simulator.images_billed()


def test_a_link_that_is_not_downloaded_is_delivered_alone(make_gateway: MakeGateway, simulator: Simulator) -> None:
    """The image is paid for: a host that the operator did not allow is not asked, and its link is delivered."""
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, hosts=("files.example",)))
    answer = gateway.generate(prompt="x", n=2)
    assert [LINK, LINK] == [set(item) for item in items(answer)]
    assert "x-imagegate-missing" not in answer.headers
    assert 2 == simulator.images_billed()


@pytest.fixture
def hoarder() -> Iterator[str]:
    """An upstream whose first link is a picture and whose others are missing; base64 is never given."""

    async def make(request: Request) -> Response:
        count = (await request.json()).get("n", 1)
        links = [f"{request.base_url}{index}.jpg" for index in range(count)]
        return JSONResponse({"data": {"image_urls": links}, "base_resp": {"status_code": 0}})

    async def fetch(request: Request) -> Response:
        found = request.path_params["name"] == "0.jpg"
        return Response(b"\xff\xd8\xff\xe0" + bytes(100)) if found else Response(status_code=404)

    routes = [Route("/v1/image_generation", make, methods=["POST"]), Route("/{name}", fetch)]
    with serving(Starlette(routes=routes)) as url:
        yield url


def test_each_image_has_what_could_be_had_of_it(make_gateway: MakeGateway, hoarder: str) -> None:
    gateway = make_gateway(upstream("hoarder", "minimax", hoarder))
    answer = gateway.generate(prompt="x", n=3)
    assert [BOTH, LINK, LINK] == [set(item) for item in items(answer)]
    assert "x-imagegate-missing" not in answer.headers
    usage = gateway.admin("GET", "/usage").json()
    assert "3" in str(usage)
