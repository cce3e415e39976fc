"""Prompts and fields that other servers take: what the operator chose is done, and told."""

from typing import Any, Final

import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream

FOREIGN: Final = {
    "negative_prompt": "blurry",
    "steps": 20,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "cfg_scale": 7,
    "sampler_name": "euler",
    "image_size": "1024x1024",
    "batch_size": 1,
    "resolution": "1k",
    "watermark": False,
    "user_id": "u",
    "extra_body": {},
    "provider": {"order": []},
    "response_modalities": ["image"],
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "store": True,
    "n_images": 1,
}
"""Fields of other servers that clients send (cases K8)."""


def error_of(gateway: Gateway, **fields: Any) -> dict[str, str]:
    answer = gateway.generate(prompt="x", **fields)
    assert 400 == answer.status_code, answer.text
    found: dict[str, str] = answer.json()["error"]
    return found


@pytest.mark.shares_gateway
def test_all_unknown_parameters_are_named_at_once(gateway: Gateway) -> None:
    error = error_of(gateway, **FOREIGN)
    assert ("unknown_parameter", "batch_size") == (error["code"], error["param"])
    assert error["message"].startswith("Unknown parameters: 'batch_size', 'cfg_scale', ")
    assert [] == [name for name in FOREIGN if f"'{name}'" not in error["message"]]


@pytest.mark.shares_gateway
def test_a_prompt_that_is_too_long_names_the_limit_and_both_ways_out(gateway: Gateway) -> None:
    error = gateway.generate(prompt="x" * 1500).json()["error"]
    assert ("string_above_max_length", "prompt") == (error["code"], error["param"])
    assert "maximum length 1499, but got a string with length 1500" in error["message"]
    assert error["message"].endswith(
        " Shorten it. The operator of this server can have long prompts cut: [images] long_prompt = 'truncate'."
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"seed": 7}),
        ("/v1/images/generations", {"aspect_ratio": "1:1", "aigc_watermark": True}),
        ("/v1/image_generation", {"seed": 7}),
        ("/v1/images/edits", {"image": "https://example.org/face.jpg"}),
    ],
)
def test_a_refusal_names_the_model_as_the_client_did(
    make_gateway: MakeGateway, simulator: Simulator, path: str, body: dict[str, Any]
) -> None:
    gateway = make_gateway(upstream("sim", "302ai", simulator.url))
    for name in ("image-01", "dall-e-3"):
        text = gateway.post(path, {"model": name, "prompt": "x"} | body).text
        assert f"odel '{name}'" in text
        assert "image-01" not in text.replace(name, "")


@pytest.mark.shares_gateway
def test_two_unknown_parameters_are_a_pair(gateway: Gateway) -> None:
    assert "Unknown parameters: 'a' and 'b'." == error_of(gateway, b=1, a=2, c=None)["message"]


def test_a_flood_of_unknown_parameters_is_named_in_part(make_gateway: MakeGateway, gateway: Gateway) -> None:
    names = {f"{'k' * 300}{index}": 1 for index in range(1000)}
    assert error_of(gateway, **names)["message"].endswith(", and 980 more.")
    lenient = make_gateway(images={"unknown_parameters": "ignore"})
    ignored = lenient.generate(prompt="x", **names).headers["x-imagegate-ignored"]
    assert ignored == "?, 980 more"


def test_an_operator_may_ignore_them(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(images={"unknown_parameters": "ignore"})
    answer = gateway.generate(prompt="x", quality="hd", **FOREIGN)
    assert 200 == answer.status_code, answer.text
    assert ["quality", *sorted(FOREIGN)] == answer.headers["x-imagegate-ignored"].split(", ")
    [sent] = simulator.requests()
    assert set() == set(FOREIGN) & set(sent["body"])


@pytest.mark.parametrize("field", ["image", "images", "mask", "image_url", "init_image", "reference_images"])
def test_images_are_never_ignored(make_gateway: MakeGateway, simulator: Simulator, field: str) -> None:
    gateway = make_gateway(images={"unknown_parameters": "ignore"})
    error = error_of(gateway, steps=20, **{field: "data:image/png;base64,iVBORw0KGgo="})
    assert ("unknown_parameter", field) == (error["code"], error["param"])
    assert "steps" not in error["message"]
    assert [] == simulator.requests()


def test_what_is_ignored_becomes_no_other_header(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(images={"unknown_parameters": "ignore"})
    answer = gateway.generate(prompt="x", **{"a\r\nx-injected: 1": 1, "b, c": 1, "größe": 1, "狐": 1, "": 1, "ok": 1})
    assert (200, {"?", "ok"}) == (answer.status_code, set(answer.headers["x-imagegate-ignored"].split(", ")))
    assert "x-injected" not in answer.headers


def test_an_invalid_field_is_refused_all_the_same(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(images={"unknown_parameters": "ignore"})
    assert "n" == error_of(gateway, steps=1, n=0)["param"]
    assert "style" == error_of(gateway, steps=1, style={"style_type": "水彩", "x": 1})["param"]


def test_settings_that_no_upstream_supports_are_ignored_too(make_gateway: MakeGateway, simulator: Simulator) -> None:
    relay = upstream("sim", "302ai", simulator.url)
    fields = {"seed": 7, "aigc_watermark": True}
    error = error_of(make_gateway(relay), **fields)
    assert (
        "Unknown parameters: 'aigc_watermark' and 'seed'. No upstream of model 'image-01' supports them."
        == (error["message"])
    )
    gateway = make_gateway(relay, images={"unknown_parameters": "ignore"})
    answer = gateway.generate(prompt="x", **fields)
    assert (200, "aigc_watermark, seed") == (answer.status_code, answer.headers["x-imagegate-ignored"])
    face = [{"type": "character", "image_file": "https://example.org/face.jpg"}]
    assert "subject_reference" == error_of(gateway, subject_reference=face)["param"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/image_generation"])
def test_lobechats_spelling_is_understood(gateway: Gateway, simulator: Simulator, path: str) -> None:
    """LobeChat sends MiniMax's fields in camel case, and null for an empty seed."""
    body = {"model": "image-01", "n": 1, "prompt": "x", "aspectRatio": "16:9", "seed": None}
    assert 200 == gateway.post(path, body).status_code
    [sent] = simulator.requests()
    assert "16:9" == sent["body"]["aspect_ratio"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"aspectRatio": "16:9", "aspect_ratio": "16:9"}, None),
        ({"aspectRatio": "16:9", "aspect_ratio": None}, None),
        ({"aspectRatio": None, "aspect_ratio": "16:9"}, None),
        ({"aspectRatio": "1:1", "aspect_ratio": "16:9"}, "aspectRatio"),
        ({"aspectRatio": "7:1"}, "aspect_ratio"),
        ({"aspectRatio": 1}, "aspect_ratio"),
        ({"aspectRatio": "1:1", "size": "1024x1024"}, "aspect_ratio"),
    ],
)
def test_of_two_spellings_one_value_counts(gateway: Gateway, fields: dict[str, object], param: str | None) -> None:
    answer = gateway.generate(prompt="x", **fields)
    assert (400 if param else 200) == answer.status_code
    assert param == answer.json().get("error", {}).get("param")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("value", ["transparent", "none", "white", "", "AUTO"])
def test_a_background_that_is_not_made_is_not_listed(gateway: Gateway, value: str) -> None:
    message = error_of(gateway, background=value)["message"]
    assert f"Invalid value: '{value}'. Supported values are: 'opaque' and 'auto'." == message


@pytest.mark.shares_gateway
def test_a_stream_lists_no_link(gateway: Gateway) -> None:
    for value in ("url", "nonsense"):
        message = error_of(gateway, stream=True, response_format=value)["message"]
        assert "Invalid value for 'response_format': a stream supports 'b64_json' only." == message


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/image_generation"])
def test_a_model_lists_its_own_ratios(make_gateway: MakeGateway, path: str) -> None:
    target = [{"upstream": "sim", "model": "image-01-live"}]
    gateway = make_gateway(models=[{"id": "live", "price_per_image_usd": "0", "targets": target}])
    answer = gateway.post(path, {"model": "live", "prompt": "x", "aspect_ratio": "21:9"}).text
    assert "Invalid value: '21:9'. Supported values are: '1:1', " in answer
    assert 1 == answer.count("21:9")


LONG: Final = "a red fox in the snow, " * 300
HEADER: Final = "x-imagegate-prompt"


@pytest.mark.shares_gateway
def test_a_long_prompt_is_refused_by_default(gateway: Gateway) -> None:
    answer = gateway.generate(prompt=LONG)
    assert (400, "string_above_max_length") == (answer.status_code, answer.json()["error"]["code"])
    assert HEADER not in answer.headers


def test_an_operator_may_shorten_it_at_a_word(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(images={"long_prompt": "truncate"})
    answer = gateway.generate(prompt=LONG)
    assert 200 == answer.status_code
    [sent] = simulator.requests()
    kept = sent["body"]["prompt"]
    assert LONG.startswith(kept + " ")
    assert 1480 < len(kept) <= 1499
    assert f"{len(kept)} of {len(LONG)} characters" == answer.headers[HEADER]


@pytest.mark.parametrize("prompt", ["x" * 1499, "🦊" * 1499, "  a fox  "])
def test_a_prompt_that_fits_is_sent_as_it_is(make_gateway: MakeGateway, simulator: Simulator, prompt: str) -> None:
    gateway = make_gateway(images={"long_prompt": "truncate"})
    answer = gateway.generate(prompt=prompt)
    assert (200, False) == (answer.status_code, HEADER in answer.headers)
    assert prompt == simulator.requests()[0]["body"]["prompt"]


def test_a_stream_and_a_failure_report_it_too(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(images={"long_prompt": "truncate"})
    for fields in ({"stream": True}, {"prompt": "[code=1026] " + LONG}):
        assert " of " in gateway.generate(**({"prompt": LONG} | fields)).headers[HEADER]


def test_the_native_format_refuses_as_its_provider_does(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(images={"long_prompt": "truncate", "unknown_parameters": "ignore"})
    for fields in ({"prompt": LONG}, {"steps": 1}):
        answer = gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "x"} | fields)
        assert 2013 == answer.json()["base_resp"]["status_code"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("prompt", ["[code=1026]", "[code=1027]", "[fail=1]"])
@pytest.mark.parametrize("model", ["dall-e-3", "gpt-image-1", "image-01", None])
def test_litellm_recognises_a_refusal_of_the_safety_system(gateway: Gateway, model: str | None, prompt: str) -> None:
    error = gateway.generate(model=model, prompt=prompt).json()["error"]
    assert "request was rejected as a result of the safety system" in error["message"].lower()
    assert ("content_policy_violation" if model == "dall-e-3" else "moderation_blocked") == error["code"]
