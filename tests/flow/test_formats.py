"""File formats through the front door: what each program sends by default, on every model and in both deliveries."""

import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import msgspec
import pytest
from PIL import Image

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream, wait_until
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.memory import HEAD, held
from tests.support.pictures import declared, drawn
from tests.support.samples import samples

LIBRECHAT: Final = {
    "model": "gpt-image-1",
    "prompt": "a cat",
    "n": 1,
    "background": "auto",
    "output_format": "png",
    "quality": "auto",
    "size": "auto",
}
BIG_AGI: Final = {
    "model": "gpt-image-1",
    "prompt": "a cat",
    "n": 1,
    "output_format": "webp",
    "output_compression": 100,
    "moderation": "low",
    "user": "Big-AGI",
}
DIFY: Final = {"prompt": "a cat", "model": "gpt-image-1", "n": 1, "output_format": "webp"}
AI_SDK: Final = {
    "model": "dall-e-3",
    "prompt": "a cat",
    "n": 1,
    "size": "1024x1024",
    "response_format": "b64_json",
    "output_format": "png",
}
FORMATS: Final = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}
"""`output_format` of a request, and the format of the bytes in Pillow's words."""
KINDS: Final = {
    "direct": lambda url: upstream("sim", "minimax", url),
    "by link": lambda url: upstream("sim", "minimax", url, base64_response=False),
    "302.AI": lambda url: upstream("sim", "302ai", url),
    "one image a call": lambda url: upstream("sim", "minimax", url, max_images_per_call=1),
}
"""Upstreams that deliver base64, links, or an image at a time."""


def opened(encoded: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
    image.load()
    return image


def formats(answer: httpx.Response) -> list[str | None]:
    """Formats of the images in a response, by their bytes."""
    assert 200 == answer.status_code, answer.text
    return [opened(item["b64_json"]).format for item in answer.json()["data"]]


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert 200 == answer.status_code, answer.text
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [msgspec.json.decode(line.removeprefix("data: ")) for line in lines]


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("body", "form"), [(LIBRECHAT, "png"), (BIG_AGI, "webp"), (DIFY, "webp"), (AI_SDK, "png")], ids=str
)
def test_what_programs_send_by_default_is_made(gateway: Gateway, body: dict[str, Any], form: str) -> None:
    answer = gateway.post("/v1/images/generations", body)
    assert [FORMATS[form]] == formats(answer)
    assert form == answer.json()["output_format"]
    assert not {"output_format", "output_compression"} & set(answer.headers.get("x-imagegate-ignored", "").split(", "))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("form", list(FORMATS))
def test_every_format_is_made_at_every_upstream_for_several_images(
    make_gateway: MakeGateway, simulator: Simulator, kind: str, form: str
) -> None:
    gateway = make_gateway(KINDS[kind](simulator.url))
    answer = gateway.generate(prompt="a cat", n=3, output_format=form, size="512x512", response_format="b64_json")
    assert [FORMATS[form]] * 3 == formats(answer)
    assert FORMATS[form].lower() == answer.json()["output_format"]
    assert 3 == simulator.images_billed()
    assert all("output_format" not in request["body"] for request in simulator.requests())


@pytest.mark.shares_gateway
@pytest.mark.parametrize("model", ["image-01", "dall-e-2", "dall-e-3", "gpt-image-1"])
@pytest.mark.parametrize("form", ["png", "webp"])
def test_every_name_of_a_model_makes_every_format(gateway: Gateway, model: str, form: str) -> None:
    answer = gateway.generate(prompt="a cat", model=model, output_format=form)
    assert [FORMATS[form]] == formats(answer)
    assert "url" not in answer.json()["data"][0]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("model", ["image-01", "dall-e-3", "gpt-image-1"])
@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
def test_a_stream_has_the_format_too(gateway: Gateway, model: str, form: str) -> None:
    found = events(gateway.generate(prompt="a cat", model=model, n=2, stream=True, output_format=form))
    assert [(form, FORMATS[form])] * 2 == [(one["output_format"], opened(one["b64_json"]).format) for one in found]


@pytest.mark.shares_gateway
def test_png_has_exactly_the_pixels_that_were_made(gateway: Gateway) -> None:
    body = {"prompt": "a cat", "seed": 7, "size": "512x512", "response_format": "b64_json"}
    made, png = gateway.generate(**body), gateway.generate(**body, output_format="png")
    assert ["JPEG"] == formats(made)
    expected, found = (opened(answer.json()["data"][0]["b64_json"]) for answer in (made, png))
    assert expected.tobytes() == found.convert("RGB").tobytes()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("form", ["webp", "jpeg"])
def test_compression_makes_files_smaller(gateway: Gateway, form: str) -> None:
    sizes = []
    for compression in (90, 50, 5):
        answer = gateway.generate(prompt="a cat", seed=7, output_format=form, output_compression=compression)
        assert [FORMATS[form]] == formats(answer)
        assert "x-imagegate-ignored" not in answer.headers
        sizes.append(len(answer.json()["data"][0]["b64_json"]))
    assert sorted(sizes, reverse=True) == sizes
    assert sizes[-1] < sizes[0] / 2


@pytest.mark.shares_gateway
@pytest.mark.parametrize("body", [{}, {"output_format": "png"}])
def test_compression_without_a_format_that_has_it_is_named(gateway: Gateway, body: dict[str, Any]) -> None:
    answer = gateway.generate(prompt="a cat", output_compression=80, **body)
    assert (200, "output_compression") == (answer.status_code, answer.headers["x-imagegate-ignored"])


@pytest.mark.shares_gateway
def test_without_the_field_the_bytes_are_those_of_the_provider(gateway: Gateway) -> None:
    answer = gateway.generate(prompt="a cat")
    assert ["JPEG"] == formats(answer)
    assert "jpeg" == answer.json()["output_format"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("model", ["dall-e-3", "image-01", "gpt-image-1"])
def test_a_link_is_not_converted_and_the_remedy_is_named(gateway: Gateway, simulator: Simulator, model: str) -> None:
    answer = gateway.generate(prompt="a cat", model=model, output_format="png", response_format="url")
    assert (400, "invalid_value", "response_format") == refusal(answer)
    message = answer.json()["error"]["message"]
    assert "b64_json" in message
    assert "png" in message
    assert [] == simulator.requests()


@pytest.mark.shares_gateway
def test_a_link_in_the_format_of_the_provider_is_one(gateway: Gateway) -> None:
    for model in ("dall-e-3", "image-01"):
        answer = gateway.generate(prompt="a cat", model=model, output_format="jpeg", response_format="url")
        assert 200 == answer.status_code
        assert "url" in answer.json()["data"][0]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("value", ["PNG", "JPEG", "avif", "gif", "svg", "", "png ", "image/png", "x" * 200])
def test_the_supported_formats_that_are_listed_are_supported(
    gateway: Gateway, simulator: Simulator, value: str
) -> None:
    answer = gateway.generate(prompt="a cat", output_format=value)
    assert (400, "invalid_value", "output_format") == refusal(answer)
    message = answer.json()["error"]["message"]
    assert message.endswith("Supported values are: 'jpeg', 'png', and 'webp'.")
    assert [] == simulator.requests()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("value", ["transparent", "none", "white", "", "Opaque"])
@pytest.mark.parametrize("form", [None, "png", "webp"])
def test_a_background_that_no_upstream_makes_is_refused(gateway: Gateway, value: str, form: str | None) -> None:
    answer = gateway.generate(prompt="a cat", background=value, output_format=form)
    assert (400, "invalid_value", "background") == refusal(answer)
    assert answer.json()["error"]["message"].endswith("Supported values are: 'opaque' and 'auto'.")


@pytest.mark.parametrize("default", ["png", "webp", "jpeg", "as_made"])
def test_the_operator_chooses_the_format_of_requests_without_one(make_gateway: MakeGateway, default: str) -> None:
    gateway, expected = make_gateway(images={"default_output_format": default}), FORMATS.get(default, "JPEG")
    assert [expected] == formats(gateway.generate(prompt="a cat"))
    assert [expected] == formats(gateway.generate(prompt="a cat", model="dall-e-3", response_format="b64_json"))
    [event] = events(gateway.generate(prompt="a cat", stream=True))
    assert expected == opened(event["b64_json"]).format
    assert ["WEBP"] == formats(gateway.generate(prompt="a cat", output_format="webp"))
    link = gateway.generate(prompt="a cat", model="dall-e-3", response_format="url")
    assert 200 == link.status_code
    assert "JPEG" == Image.open(io.BytesIO(httpx.get(link.json()["data"][0]["url"]).content)).format


@pytest.mark.parametrize("path", ["/v1/image_generation", "/minimaxi/v1/image_generation"])
def test_native_routes_pass_the_bytes_on(make_gateway: MakeGateway, path: str) -> None:
    gateway = make_gateway(images={"default_output_format": "png"})
    answer = gateway.post(path, {"model": "image-01", "prompt": "a cat", "response_format": "base64"})
    assert "JPEG" == opened(answer.json()["data"]["image_base64"][0]).format


@pytest.fixture
def provider() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture
def broken(make_gateway: MakeGateway, provider: Hostile) -> Gateway:
    return make_gateway(upstream("sim", "minimax", provider.url) | {"breaker_failures": 1000})


def reply(*images: bytes) -> Plan:
    encoded = ",".join(f'"{base64.b64encode(image).decode()}"' for image in images)
    body = f'{{"data":{{"image_base64":[{encoded}]}},"base_resp":{{"status_code":0}}}}'.encode()
    return Plan((HEAD + b"content-length: %d\r\n\r\n" % len(body) + body, "close"))


JPEG: Final = drawn("JPEG")
BOMB: Final = declared(8192, 4097)
"""The least that is too large to be converted, and not for Pillow."""
BROKEN: Final[dict[str, bytes]] = {
    "no image": b"\xff\xd8\xff" + b"\0" * 200,
    "a truncated image": JPEG[: len(JPEG) // 2],
    "a decompression bomb": BOMB,
}


@pytest.mark.parametrize("image", list(BROKEN.values()), ids=list(BROKEN))
@pytest.mark.parametrize("stream", [False, True])
def test_an_image_that_cannot_be_converted_is_delivered_as_made(
    broken: Gateway, provider: Hostile, image: bytes, stream: bool
) -> None:
    provider.begin(reply(image))
    answer = broken.generate(prompt="a cat", output_format="webp", stream=stream)
    delivered = events(answer)[0] if stream else answer.json() | answer.json()["data"][0]
    assert base64.b64encode(image).decode() == delivered["b64_json"]
    assert ("png" if image is BOMB else "jpeg") == delivered["output_format"]
    assert "output_format" == answer.headers["x-imagegate-ignored"]
    wait_until(lambda: held(broken) == 0, "all is given back")


def test_images_of_one_answer_have_the_one_format_that_it_states(broken: Gateway, provider: Hostile) -> None:
    provider.begin(reply(JPEG, BROKEN["a truncated image"]))
    answer = broken.generate(prompt="a cat", n=2, output_format="png")
    assert [base64.b64encode(image).decode() for image in (JPEG, BROKEN["a truncated image"])] == [
        item["b64_json"] for item in answer.json()["data"]
    ]
    assert ("jpeg", "output_format") == (answer.json()["output_format"], answer.headers["x-imagegate-ignored"])
    assert 2 == broken.admin("GET", "/usage").json()["total"]["images"]


@pytest.mark.parametrize("form", ["png", "webp", "gif"])
def test_what_the_provider_makes_otherwise_is_told_and_converted(broken: Gateway, provider: Hostile, form: str) -> None:
    image = drawn(form.upper())
    provider.begin(reply(image))
    plain = broken.generate(prompt="a cat")
    assert (base64.b64encode(image).decode(), form) == (
        plain.json()["data"][0]["b64_json"],
        plain.json()["output_format"],
    )
    answer = broken.generate(prompt="a cat", output_format="jpeg")
    assert (["JPEG"], "jpeg") == (formats(answer), answer.json()["output_format"])


def test_conversions_are_counted_and_their_memory_is_given_back(gateway: Gateway) -> None:
    for form in ("png", "png", "webp", "jpeg"):
        assert 200 == gateway.generate(prompt="a cat", output_format=form).status_code
    wait_until(lambda: held(gateway) == 0, "all is given back")
    found = {
        (labels["format"], labels["result"]): count
        for name, labels, count in samples(gateway.url)
        if name == "imagegate_conversions_total"
    }
    assert {("png", "converted"): 2.0, ("webp", "converted"): 1.0} == found


def test_a_picture_beyond_the_budget_is_delivered(make_gateway: MakeGateway, provider: Hostile) -> None:
    """It is paid for: what has no room for its pixels is delivered as made."""
    gateway = make_gateway(upstream("sim", "minimax", provider.url), server={"max_memory_bytes": 8 * 1024 * 1024})
    image = drawn("JPEG", (2048, 2048), quality=30)
    provider.begin(reply(image))
    answer = gateway.generate(prompt="a cat", output_format="png")
    assert 200 == answer.status_code
    assert answer.json()["output_format"] in {"png", "jpeg"}
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.slow
def test_many_conversions_within_a_small_budget_lose_no_image(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url), server={"max_memory_bytes": 16 * 1024 * 1024})

    def ask(_: int) -> tuple[list[str | None], str]:
        answer = gateway.generate(prompt="a cat", n=2, output_format="png", size="512x512")
        return formats(answer), answer.json()["output_format"]

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, range(24)))
    assert all([FORMATS[stated]] * 2 == made for made, stated in answers)
    assert 48 == simulator.images_billed()
    wait_until(lambda: held(gateway) == 0, "all is given back")


def test_the_command_line_does_not_load_pillow() -> None:
    program = "import sys, gateway.cli; sys.exit('PIL' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode


@pytest.mark.slow
def test_a_gateway_loads_pillow_only_to_convert() -> None:
    program = "import sys, gateway.app; sys.exit('PIL' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode
