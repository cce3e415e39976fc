"""Edits through the front door: as SDKs and programs send them, as JSON, as streams, and as attacks."""

import gzip
import io
import json
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import httpx
import openai
import pytest
from PIL import Image

from tests.support import sdks
from tests.support.forms import (
    EDITS,
    GIF,
    JPEG,
    PNG,
    WEBP,
    edit,
    form,
    image,
    large,
    part,
    picture,
    reference,
    send,
    temporary_files,
)
from tests.support.harness import (
    Gateway,
    MakeGateway,
    Simulator,
    document,
    gatewaying,
    upstream,
    wait_until,
)
from tests.support.memory import MB, held
from tests.support.pictures import declared_webp

CHARACTER_ONLY: Final = "image (character reference only)"
NOT_OFFERED: Final = ("/v1/images/variations", "/v1/chat/completions", "/v1/responses")


def sdk(gateway: Gateway, **options: Any) -> openai.OpenAI:
    return sdks.sdk(gateway.base_url, gateway.api_key, **{"max_retries": openai.DEFAULT_MAX_RETRIES} | options)


def colour_of(content: bytes) -> tuple[int, ...]:
    """The colour of an image in the middle of its left half."""
    with Image.open(io.BytesIO(content)) as shown:
        found = shown.convert("RGB").resize((4, 4)).getpixel((0, 1))
    assert isinstance(found, tuple)
    return found


@pytest.mark.shares_gateway
@pytest.mark.parametrize("files", [PNG, [PNG], ("a.png", PNG), [("a.png", PNG, "image/png")]], ids=repr)
def test_openai_python_edits_an_image(gateway: Gateway, simulator: Simulator, files: Any) -> None:
    raw = sdk(gateway).images.with_raw_response.edit(
        model="gpt-image-1", image=files, prompt="a sailor", size="1536x1024", input_fidelity="high", n=2
    )
    made = raw.parse()
    assert made.data is not None
    assert made.usage is not None
    assert ["/9j/"] * 2 == [str(item.b64_json)[:4] for item in made.data]
    assert ("1536x1024", 2) == (made.size, simulator.images_billed())
    assert ("data:image/png", PNG) == reference(simulator)
    assert f"input_fidelity, {CHARACTER_ONLY}" == raw.headers["x-imagegate-ignored"]


@pytest.mark.shares_gateway
def test_openai_python_streams_an_edit(gateway: Gateway, simulator: Simulator) -> None:
    events = list(sdk(gateway).images.edit(model="gpt-image-1", image=PNG, prompt="x", stream=True, partial_images=0))
    assert ["image_edit.completed"] == [event.type for event in events]
    assert 1 == simulator.images_billed()


@pytest.mark.shares_gateway
def test_the_image_is_seen_in_the_result(gateway: Gateway) -> None:
    for colour, channel in (("#c00000", 0), ("#00c000", 1), ("#0000c0", 2)):
        answer = edit(gateway, [("image", picture("PNG", 64, colour))], prompt="x", response_format="b64_json")
        found = colour_of(b64decode(answer.json()["data"][0]["b64_json"]))
        assert channel == max(range(3), key=found.__getitem__)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("content", [PNG, JPEG, large(3 * MB)], ids=["png", "jpeg", "large"])
@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_form_reaches_the_upstream_whole(gateway: Gateway, simulator: Simulator, name: str, content: bytes) -> None:
    """As Open WebUI, LibreChat, LobeChat and n8n send it."""
    answer = edit(gateway, [(name, content)], prompt="x", model="gpt-image-1", quality="auto", size="1024x1024", n="1")
    assert 200 == answer.status_code
    assert ("data:image/jpeg" if content is JPEG else "data:image/png", content) == reference(simulator)
    assert CHARACTER_ONLY in answer.headers["x-imagegate-ignored"]
    assert answer.json().keys() == gateway.generate(prompt="x").json().keys()
    assert not temporary_files()
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.shares_gateway
def test_a_compressed_form_reaches_the_upstream(gateway: Gateway, simulator: Simulator) -> None:
    sent = form(part("prompt", b"x"), image())
    assert 200 == send(gateway, gzip.compress(sent), content_encoding="gzip").status_code
    assert ("data:image/png", PNG) == reference(simulator)
    answer = send(gateway, gzip.compress(sent)[:-9], content_encoding="gzip")
    assert (400, 1) == (answer.status_code, simulator.images_billed())
    assert not temporary_files()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("field", ["image", "images"])
def test_json_reaches_the_upstream(gateway: Gateway, simulator: Simulator, field: str) -> None:
    link = f"data:image/png;base64,{b64encode(PNG).decode()}"
    answer = gateway.post(EDITS, {"prompt": "x", field: [{"image_url": link}]})
    assert (200, ("data:image/png", PNG)) == (answer.status_code, reference(simulator))
    answer = gateway.post(EDITS, {"prompt": "x", field: [{"image_url": "https://example.org/a.jpg"}]})
    assert 200 == answer.status_code
    sent = simulator.requests()[-1]["body"]
    assert [{"type": "character", "image_file": "https://example.org/a.jpg"}] == sent["subject_reference"]
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.shares_gateway
def test_every_call_of_a_large_edit_has_the_image(gateway: Gateway, simulator: Simulator) -> None:
    answer = edit(gateway, [("image", PNG)], prompt="x", n="10")
    assert (10, 10) == (len(answer.json()["data"]), simulator.images_billed())
    assert [1, 1] == [len(call["body"]["subject_reference"]) for call in simulator.requests()]


@pytest.mark.shares_gateway
def test_a_waiting_edit_holds_its_image_once(gateway: Gateway, simulator: Simulator) -> None:
    sent = form(part("prompt", b"[delay=2] x"), image(large(9 * MB)))
    with ThreadPoolExecutor(1) as threads:
        answering = threads.submit(send, gateway, sent)
        wait_until(lambda: len(simulator.requests()) == 1, "it is sent")
        assert 12 * MB < held(gateway) < 13 * MB
        assert not temporary_files()
        assert 200 == answering.result().status_code


def test_an_edit_is_charged_like_a_generation(gateway: Gateway) -> None:
    assert 200 == edit(gateway, [("image", PNG)], prompt="x", n="2").status_code
    rows = gateway.admin("GET", "/usage?tenant=acme").json()
    assert '"0.007"' in json.dumps(rows).replace("0.007000", "0.007")


REFUSED: Final[dict[str, tuple[list[tuple[str, bytes]], dict[str, str], str]]] = {
    "two images": ([("image[]", PNG), ("image[]", PNG)], {}, "image"),
    "image twice": ([("image", PNG), ("image", PNG)], {}, "image"),
    "a mask": ([("image", PNG), ("mask", PNG)], {}, "mask"),
    "no image": ([("mask", PNG)], {}, "image"),
    "a damaged webp": ([("image", WEBP[:40])], {}, "image"),
    "webp of too many pixels": ([("image", declared_webp(4097, 4096))], {}, "image"),
    "gif named png": ([("image", GIF)], {}, "image"),
    "empty": ([("image", b"")], {}, "image"),
    "text": ([("image", b"hello")], {}, "image"),
    "10 MB": ([("image", large(10 * MB))], {}, "image"),
    "17 images": ([("image[]", PNG)] * 17, {}, "image"),
    "another file": ([("image", PNG), ("markup", PNG)], {}, "markup"),
    "a wrong number": ([("image", PNG)], {"n": "many"}, "n"),
    "an unknown model": ([("image", PNG)], {"model": "dall-e-9"}, "model"),
}


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_edited_is_refused_by_name_and_buys_nothing(
    gateway: Gateway, simulator: Simulator, kind: str
) -> None:
    files, texts, param = REFUSED[kind]
    answer = edit(gateway, files, prompt="x", **texts)
    error = answer.json()["error"]
    assert (400, param) == (answer.status_code, error["param"])
    assert {"message", "type", "param", "code"} == set(error)
    assert "false" == answer.headers["x-should-retry"]
    assert (0, [], []) == (simulator.images_billed(), simulator.requests(), temporary_files())
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.shares_gateway
def test_a_form_without_a_prompt_is_refused(gateway: Gateway) -> None:
    error = send(gateway, form(image())).json()["error"]
    assert ("prompt", "missing_required_parameter") == (error["param"], error["code"])


def test_an_operator_can_switch_edits_off(redis_url: str, simulator: Simulator, stack: ExitStack) -> None:
    configured: dict[str, Any] = document(redis_url, upstream("sim", "minimax", simulator.url))
    configured["models"][0]["edits"] = False
    gateway = stack.enter_context(gatewaying(configured))
    error = edit(gateway, [("image", PNG)], prompt="x").json()["error"]
    assert ("model", "invalid_value") == (error["param"], error["code"])
    assert "does not edit images" in error["message"]
    assert 200 == gateway.generate(prompt="x").status_code


def test_302_edits_only_if_the_operator_says_so(make_gateway: MakeGateway, simulator: Simulator) -> None:
    assert 400 == edit(make_gateway(upstream("a", "302ai", simulator.url)), [("image", PNG)], prompt="x").status_code
    able = make_gateway(upstream("b", "302ai", simulator.url, subject_reference=True))
    assert 200 == edit(able, [("image", PNG)], prompt="x").status_code
    assert ("data:image/png", PNG) == reference(simulator)


@pytest.mark.shares_gateway
def test_a_wrong_key_is_refused_before_the_body(gateway: Gateway) -> None:
    answer = edit(Gateway(gateway.url, "sk-none"), [("image", large(2 * MB))], prompt="x")
    assert (401, "invalid_api_key") == (answer.status_code, answer.json()["error"]["code"])


def test_a_refused_edit_counts_like_any_refused_request(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"rejections_per_second": 1})
    statuses = [edit(gateway, [("image", GIF)], prompt="x").status_code for _ in range(14)]
    assert {400, 429} == set(statuses)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "image/png"])
def test_another_body_is_refused_with_what_is_taken(gateway: Gateway, kind: str) -> None:
    error = gateway.post(EDITS, b"prompt=x", content_type=kind).json()["error"]
    assert "unsupported_content_type" == error["code"]
    assert "'application/json' and 'multipart/form-data'" in error["message"]


@pytest.mark.shares_gateway
def test_an_image_in_a_generation_buys_nothing_and_is_told_where_to_go(gateway: Gateway, simulator: Simulator) -> None:
    for name in ("image", "images", "mask"):
        error = gateway.generate(prompt="x", **{name: "https://example.org/a.png"}).json()["error"]
        assert ("unknown_parameter", name) == (error["code"], error["param"])
        assert "POST /v1/images/edits" in error["message"]
        assert "subject_reference" in error["message"]
    assert 0 == simulator.images_billed()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", NOT_OFFERED)
@pytest.mark.parametrize("body", [b"", b"{", b'{"model":"image-01","messages":[]}', b'{"model":"gpt-5","input":"x"}'])
@pytest.mark.parametrize("key", ["sk-none", "own"])
def test_what_is_not_offered_says_what_is(gateway: Gateway, path: str, body: bytes, key: str) -> None:
    asked = Gateway(gateway.url, gateway.api_key if key == "own" else key)
    answer = asked.post(path, body)
    error = answer.json()["error"]
    assert answer.status_code == (404 if path == NOT_OFFERED[0] else 400)
    assert "invalid_request_error" == error["type"]
    assert "POST /v1/images/generations" in error["message"]
    assert "POST /v1/images/edits" in error["message"]
    assert "false" == answer.headers["x-should-retry"]


def test_sdks_ask_once_for_what_is_not_offered(gateway: Gateway) -> None:
    client = sdk(gateway)
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.NotFoundError, match="no variations"),
    ):
        client.images.create_variation(image=PNG)
    with pytest.raises(openai.BadRequestError, match="no chat models"):
        client.chat.completions.create(model="image-01", messages=[{"role": "user", "content": "a cat"}])
    with pytest.raises(openai.BadRequestError, match="no chat models"):
        client.responses.create(model="image-01", input="a cat")
    client.close()  # a gateway waits 2 s at its end for one that does not
    text = httpx.get(f"{gateway.url}/metrics", verify=False).text
    for path, status in zip(NOT_OFFERED, (404, 400, 400), strict=True):
        assert f'imagegate_requests_total{{model="",route="{path}",status="{status}",tenant=""}} 1' in text


def test_an_edit_counts_under_its_own_route(gateway: Gateway) -> None:
    edit(gateway, [("image", PNG)], prompt="x")
    text = httpx.get(f"{gateway.url}/metrics", verify=False).text
    assert f'imagegate_requests_total{{model="image-01",route="{EDITS}",status="200",tenant="acme"}} 1' in text


@pytest.mark.shares_gateway
def test_a_preflight_of_an_edit_is_allowed(gateway: Gateway) -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert 200 == httpx.options(gateway.url + EDITS, headers=headers, verify=False).status_code
