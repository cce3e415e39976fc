"""Every parameter of `POST /v1/images/generations`: taken, refused with OpenAI's own error, or reported back."""

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.fields import Generation
from gateway.api.openai import OpenAIOptions, parse_generation
from gateway.api.openai_responses import is_dall_e, render_error
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format, ResponseFormat, Size
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import SizePolicy
from gateway.domain.tenants import Tenant
from gateway.providers import PROVIDERS
from tests.support.errors import attempt
from tests.support.openapi import OPTIONAL_FIELDS

DIRECT = PROVIDERS["minimax"]
MODEL = Model(
    "image-01",
    ("dall-e-2", "dall-e-3", "gpt-image-1", "chatgpt-image-latest"),
    (Price(0, PerImage(3500)),),
    (Target("minimax", "image-01", DIRECT.capability("image-01", {})),),
)
LIVE = Model(
    "image-01-live",
    (),
    (Price(0, PerImage(3500)),),
    (Target("minimax", "image-01-live", DIRECT.capability("image-01-live", {})),),
)
RELAYED = Model(
    "relayed",
    (),
    (Price(0, PerImage(3500)),),
    (Target("302ai", "minimaxi-image-01", PROVIDERS["302ai"].capability("x", {})),),
)
CATALOG = Catalog([MODEL, LIVE, RELAYED])
ANYONE = Tenant("acme")
ACCEPTED = OpenAIOptions()


def parse(
    body: bytes | None = None, *, tenant: Tenant = ANYONE, manners: OpenAIOptions = ACCEPTED, **fields: object
) -> Generation:
    given = body if body is not None else msgspec.json.encode({"prompt": "a fox"} | fields)
    return parse_generation(given, CATALOG, tenant, manners)


def refusal(body: bytes | None = None, *, manners: OpenAIOptions = ACCEPTED, **fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        parse(body, manners=manners, **fields)
    return refused.value


def test_prompt_alone_is_enough() -> None:
    generation = parse()
    assert (MODEL, "image-01", False, ()) == (
        generation.model,
        generation.name,
        generation.is_stream,
        generation.ignored,
    )
    job = generation.job
    assert ("a fox", 1, ResponseFormat.BOTH, None, None, None, None, {}, ()) == (
        job.prompt,
        job.count,
        job.delivery,
        job.size,
        job.aspect_ratio,
        job.pixels,
        job.seed,
        job.options,
        job.inputs,
    )


def test_null_means_absent_everywhere() -> None:
    assert parse() == parse(msgspec.json.encode({"prompt": "a fox"} | dict.fromkeys(OPTIONAL_FIELDS)))
    assert parse() == parse(anything_else=None)


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"n": 1}, "count", 1),
        ({"n": 10}, "count", 10),
        ({"prompt": "x" * 1499}, "prompt", "x" * 1499),
        ({"prompt": "🦊" * 1499}, "prompt", "🦊" * 1499),
        ({"prompt": ' "狐狸"\n\\ '}, "prompt", ' "狐狸"\n\\ '),
        ({"size": "auto"}, "size", None),
        ({"size": "1024x1024"}, "size", Size(1024, 1024)),
        ({"size": "1792x1024"}, "size", Size(1792, 1024)),
        ({"size": "256x256"}, "size", Size(256, 256)),
        ({"size": "64x64"}, "size", Size(64, 64)),
        ({"size": "3840x2160"}, "size", Size(3840, 2160)),
        ({"size": "4096x1024"}, "size", Size(4096, 1024)),
        ({"aspect_ratio": "21:9"}, "aspect_ratio", "21:9"),
        ({"aspect_ratio": "21:9", "size": "auto"}, "aspect_ratio", "21:9"),
        ({"width": 512, "height": 1024}, "pixels", Size(512, 1024)),
        ({"seed": 7}, "seed", 7),
        ({"prompt_optimizer": True}, "options", {"minimax.prompt_optimizer": b"true"}),
        ({"aigc_watermark": False}, "options", {"minimax.aigc_watermark": b"false"}),
        (
            {"model": "image-01-live", "style": {"style_type": "水彩"}},
            "options",
            {"minimax.style": msgspec.json.encode({"style_type": "水彩"})},
        ),
    ],
)
def test_parameter_reaches_the_job(fields: dict[str, Any], name: str, expected: object) -> None:
    generation = parse(**fields)
    assert expected == getattr(generation.job, name)
    assert generation.ignored == ()


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        ("dall-e-2", None, ResponseFormat.BOTH),
        ("dall-e-3", None, ResponseFormat.BOTH),
        ("gpt-image-1", None, ResponseFormat.BASE64),
        ("chatgpt-image-latest", None, ResponseFormat.BASE64),
        ("image-01", None, ResponseFormat.BOTH),
        (None, None, ResponseFormat.BOTH),
        ("dall-e-3", "b64_json", ResponseFormat.BASE64),
        ("dall-e-3", "url", ResponseFormat.URL),
        ("gpt-image-1", "url", ResponseFormat.URL),
        ("gpt-image-1", "b64_json", ResponseFormat.BASE64),
        ("image-01", "url", ResponseFormat.URL),
    ],
)
def test_pictures_come_as_asked_else_as_the_models_name_promises(
    model: str | None, asked: str | None, expected: ResponseFormat
) -> None:
    assert expected is parse(model=model, response_format=asked).job.delivery


@pytest.mark.parametrize("model", ["dall-e-3", "gpt-image-1", "image-01"])
@pytest.mark.parametrize("asked", [None, "b64_json"])
def test_stream_delivers_base64_whatever_the_name(model: str, asked: str | None) -> None:
    generation = parse(model=model, response_format=asked, stream=True)
    assert (True, ResponseFormat.BASE64) == (generation.is_stream, generation.job.delivery)


@pytest.mark.parametrize("model", ["gpt-image-1", "chatgpt-image-latest"])
def test_operator_may_refuse_response_format_on_gpt_image_as_openai_does(model: str) -> None:
    strict = OpenAIOptions(refuses_response_format_on_gpt_image=True)
    error = refusal(manners=strict, model=model, response_format="b64_json")
    assert (ErrorCode.UNKNOWN_PARAMETER, "response_format") == (error.error_code, error.param)
    assert parse(manners=strict, model=model).job.delivery is ResponseFormat.BASE64
    assert parse(manners=strict, model="dall-e-3", response_format="b64_json").job.delivery is ResponseFormat.BASE64


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        *(
            ({"quality": value}, "quality")
            for value in ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
        ),
        *(({"moderation": value}, "moderation") for value in ("low", "auto")),
        *(({"complexity": value}, "complexity") for value in ("low", "medium", "high")),
        *(({"style": value}, "style") for value in ("vivid", "natural")),
        ({"output_compression": 0}, "output_compression"),
        ({"output_compression": 100}, "output_compression"),
        ({"partial_images": 3}, "partial_images"),
    ],
)
def test_what_changes_nothing_is_accepted_and_reported_back(fields: dict[str, Any], ignored: str) -> None:
    generation = parse(**fields)
    assert (ignored,) == generation.ignored
    assert parse().job == generation.job


@pytest.mark.parametrize(
    ("fields", "carried"),
    [
        ({"partial_images": 0}, {}),
        ({"output_format": "jpeg"}, {"output_format": Format.JPEG, "delivery": ResponseFormat.BASE64}),
        ({"output_format": "jpg"}, {"output_format": Format.JPEG, "delivery": ResponseFormat.BASE64}),
        (
            {"output_format": "jpeg", "output_compression": 0},
            {"output_format": Format.JPEG, "output_compression": 0, "delivery": ResponseFormat.BASE64},
        ),
        ({"background": "opaque"}, {"background": "opaque"}),
        ({"background": "auto"}, {}),
    ],
)
def test_what_is_honoured_is_not_reported_as_ignored(fields: dict[str, Any], carried: dict[str, Any]) -> None:
    plain = parse()
    assert replace(plain, job=replace(plain.job, **carried)) == parse(**fields)


def test_a_model_that_makes_more_is_asked_for_more() -> None:
    plain = DIRECT.capability("image-01", {})
    more = {"quality.high", "output_format.webp", "background.transparent"}
    capability = replace(plain, fields=plain.fields | more)
    able = Model("able", (), MODEL.prices, (Target("minimax", "image-01", capability),))
    fields = {"prompt": "p", "quality": "high", "output_format": "webp", "background": "transparent"}
    generation = parse_generation(msgspec.json.encode(fields), Catalog([able]), ANYONE, OpenAIOptions())
    job = generation.job
    assert ("high", Format.WEBP, "transparent") == (job.quality, job.output_format, job.background)
    assert () == generation.ignored
    [target] = generation.targets
    assert (frozenset(), job) == (target.emulated, target.reduce(job))


def test_a_format_that_the_upstream_does_not_make_is_emulated() -> None:
    generation = parse(output_format="webp", output_compression=80)
    [target] = generation.targets
    assert (Format.WEBP, 80) == (generation.job.output_format, generation.job.output_compression)
    assert {"output_format.webp"} == target.emulated
    assert parse(response_format="b64_json").job == target.reduce(generation.job)


@pytest.mark.parametrize(
    ("fields", "delivery"),
    [
        ({}, ResponseFormat.BOTH),
        ({"output_format": "png"}, ResponseFormat.BASE64),
        ({"output_format": "png", "response_format": "b64_json"}, ResponseFormat.BASE64),
    ],
)
def test_what_must_be_converted_comes_in_base64(fields: dict[str, Any], delivery: ResponseFormat) -> None:
    assert delivery is parse(model="dall-e-3", **fields).job.delivery


def test_a_link_to_what_must_be_converted_is_refused_with_the_remedy() -> None:
    error = refusal(msgspec.json.encode({"prompt": "p", "output_format": "png", "response_format": "url"}))
    assert (ErrorCode.INVALID_VALUE, "response_format") == (error.error_code, error.param)
    assert "Set 'response_format' to 'b64_json'" in error.message


def test_a_link_is_given_if_the_upstream_makes_the_format() -> None:
    plain = DIRECT.capability("image-01", {})
    capability = replace(plain, fields=plain.fields | {"output_format.png"})
    targets = (MODEL.targets[0], Target("able", "image-01", capability))
    both = Catalog([Model("both", ("dall-e-3",), MODEL.prices, targets)])
    body = msgspec.json.encode({"prompt": "p", "output_format": "png", "response_format": "url"})
    generation = parse_generation(body, both, ANYONE, OpenAIOptions())
    assert ResponseFormat.URL is generation.job.delivery
    assert ["able"] == [target.upstream for target in generation.targets]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Format.PNG),
        ({"output_format": "webp"}, Format.WEBP),
        ({"model": "dall-e-3"}, Format.PNG),
        ({"model": "dall-e-3", "stream": True}, Format.PNG),
        ({"response_format": "url"}, None),
    ],
)
def test_the_default_format_is_that_of_base64(fields: dict[str, Any], expected: Format | None) -> None:
    options = OpenAIOptions(default_output_format=Format.PNG)
    generation = parse_generation(msgspec.json.encode({"prompt": "p"} | fields), CATALOG, ANYONE, options)
    assert expected is generation.job.output_format


def test_jpeg_is_not_transparent() -> None:
    plain = DIRECT.capability("image-01", {})
    capability = replace(plain, fields=plain.fields | {"background.transparent"})
    able = Catalog([Model("able", (), MODEL.prices, (Target("minimax", "image-01", capability),))])
    body = {"prompt": "p", "background": "transparent"}
    with pytest.raises(GatewayError, match="'png' or 'webp'"):
        parse_generation(msgspec.json.encode(body | {"output_format": "jpeg"}), able, ANYONE, OpenAIOptions())
    job = parse_generation(msgspec.json.encode(body | {"output_format": "png"}), able, ANYONE, OpenAIOptions()).job
    assert ("transparent", Format.PNG) == (job.background, job.output_format)


def test_all_that_is_ignored_is_named() -> None:
    generation = parse(quality="hd", moderation="low", user="u", style="vivid", output_compression=1, partial_images=1)
    expected = {"quality", "moderation", "style", "output_compression", "partial_images"}
    assert (expected, 5) == (set(generation.ignored), len(generation.ignored))
    assert "u" == generation.user
    both = parse(user="u", safety_identifier="s")
    assert ("s", ("user",)) == (both.user, both.ignored)


STRINGS = (
    "model",
    "prompt",
    "size",
    "quality",
    "response_format",
    "output_format",
    "background",
    "moderation",
    "complexity",
    "user",
    "safety_identifier",
    "aspect_ratio",
)
INTEGERS = ("n", "output_compression", "partial_images", "width", "height", "seed")
WRONG_STRINGS: tuple[object, ...] = (1, 1.5, True, [], {}, ["x"])
WRONG_INTEGERS: tuple[object, ...] = ("2", 1.5, 2.0, True, [], {})
WRONG_BOOLEANS: tuple[object, ...] = ("true", 1, 0, [], {})
WRONG_STYLES: tuple[object, ...] = (1, True, [], {}, {"style_type": 1})
BOOLEANS = ("stream", "prompt_optimizer", "aigc_watermark")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in STRINGS for value in WRONG_STRINGS),
        *((name, value) for name in INTEGERS for value in WRONG_INTEGERS),
        *((name, value) for name in BOOLEANS for value in WRONG_BOOLEANS),
        *(("style", value) for value in WRONG_STYLES),
    ],
)
def test_wrong_type_is_refused_by_name(name: str, value: object) -> None:
    error = refusal(msgspec.json.encode({"prompt": "a fox"} | {name: value}))
    assert (ErrorCode.INVALID_TYPE, name) == (error.error_code, error.param)
    assert f"Invalid type for '{name}': expected " in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in (
                "quality",
                "style",
                "response_format",
                "output_format",
                "background",
                "moderation",
                "complexity",
                "aspect_ratio",
            )
            for value in ("nonsense", "", "AUTO")
        ),
        *(
            ("size", value)
            for value in (
                "",
                "9x9",
                "1024*1024",
                "1024X1024",
                "1024",
                "x",
                "0x0",
                "-1x5",
                "01024x1024",
                "1024x1024 ",
                "1024x1024\n",
                "\u0661\u0660\u0662\u0664x1024",
                "63x63",
                "4097x4097",
                "1025x256",
                "99999x99999",
                "large",
            )
        ),
        ("response_format", "base64"),
        ("output_format", "PNG"),
        ("output_format", "avif"),
        ("output_format", "gif"),
        ("output_format", "svg"),
        ("background", "transparent"),
    ],
)
def test_value_outside_the_list_is_refused_with_the_list(name: str, value: str) -> None:
    error = refusal(msgspec.json.encode({"prompt": "a fox"} | {name: value}))
    assert (ErrorCode.INVALID_VALUE, name) == (error.error_code, error.param)
    assert re.match(f"Invalid value: '{re.escape(value)}'. Supported values? (is|are): '", error.message)


@pytest.mark.parametrize(
    ("fields", "error_code", "param"),
    [
        ({"n": 0}, ErrorCode.INTEGER_BELOW_MIN, "n"),
        ({"n": -1}, ErrorCode.INTEGER_BELOW_MIN, "n"),
        ({"n": 11}, ErrorCode.INTEGER_ABOVE_MAX, "n"),
        ({"n": 10**30}, ErrorCode.INTEGER_ABOVE_MAX, "n"),
        ({"output_compression": -1}, ErrorCode.INTEGER_BELOW_MIN, "output_compression"),
        ({"output_compression": 101}, ErrorCode.INTEGER_ABOVE_MAX, "output_compression"),
        ({"partial_images": -1}, ErrorCode.INTEGER_BELOW_MIN, "partial_images"),
        ({"partial_images": 4}, ErrorCode.INTEGER_ABOVE_MAX, "partial_images"),
        ({"prompt": None}, ErrorCode.MISSING_PARAMETER, "prompt"),
        ({"prompt": ""}, ErrorCode.EMPTY_STRING, "prompt"),
        ({"prompt": " \t\n"}, ErrorCode.EMPTY_STRING, "prompt"),
        ({"prompt": "x" * 1500}, ErrorCode.STRING_TOO_LONG, "prompt"),
        ({"model": "dall-e-9"}, ErrorCode.MODEL_UNKNOWN, "model"),
        ({"model": ""}, ErrorCode.MODEL_UNKNOWN, "model"),
        ({"model": "minimaxi-image-01"}, ErrorCode.MODEL_UNKNOWN, "model"),
        ({"stream": True, "response_format": "url"}, ErrorCode.INVALID_VALUE, "response_format"),
        ({"size": "1024x1024", "aspect_ratio": "1:1"}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"size": "1024x1024", "width": 512, "height": 512}, ErrorCode.INVALID_VALUE, "width"),
        ({"aspect_ratio": "1:1", "width": 512, "height": 512}, ErrorCode.INVALID_VALUE, "width"),
        ({"width": 512}, ErrorCode.MISSING_PARAMETER, "height"),
        ({"model": "image-01", "style": {"style_type": "水彩"}}, ErrorCode.UNKNOWN_PARAMETER, "style"),
        ({"model": "relayed", "seed": 1}, ErrorCode.UNKNOWN_PARAMETER, "seed"),
        ({"model": "relayed", "width": 512, "height": 512}, ErrorCode.INVALID_VALUE, "width"),
        ({"model": "image-01-live", "aspect_ratio": "21:9"}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"negative_prompt": "x"}, ErrorCode.UNKNOWN_PARAMETER, "negative_prompt"),
        ({"frame_count": 9}, ErrorCode.UNKNOWN_PARAMETER, "frame_count"),
        ({"svg": {}}, ErrorCode.UNKNOWN_PARAMETER, "svg"),
        ({"Prompt": "x"}, ErrorCode.UNKNOWN_PARAMETER, "Prompt"),
        ({"": 1}, ErrorCode.UNKNOWN_PARAMETER, ""),
    ],
)
def test_refusal_names_the_fault_and_the_parameter(fields: dict[str, Any], error_code: ErrorCode, param: str) -> None:
    error = refusal(**fields)
    assert (error_code, param) == (error.error_code, error.param)
    assert error.row.status == 400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, "Missing required parameter: 'prompt'."),
        ({"n": 11}, "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead."),
        ({"n": 1.5}, "Invalid type for 'n': expected an integer, but got a decimal number instead."),
        ({"model": "x"}, "The model 'x' does not exist. See GET /v1/models."),
        ({"moderation": "x"}, "Invalid value: 'x'. Supported values are: 'low' and 'auto'."),
        ({"zzz": 1}, "Unknown parameter: 'zzz'."),
    ],
)
def test_messages_are_openais(fields: dict[str, Any], message: str) -> None:
    """reference/openai-images.md 1.4."""
    assert message == refusal(**fields).message


@pytest.mark.parametrize(
    "size", ["1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "512x512", "256x256"]
)
@pytest.mark.parametrize("model", ["image-01", "image-01-live", "relayed"])
def test_openais_own_sizes_never_fail_by_default(size: str, model: str) -> None:
    assert size == str(parse(size=size, model=model).job.size)


@pytest.mark.parametrize(
    ("model", "size"), [("image-01", "256x256"), ("relayed", "1792x1024"), ("image-01-live", "1344x576")]
)
def test_strict_operator_refuses_what_cannot_be_made(model: str, size: str) -> None:
    error = refusal(manners=OpenAIOptions(size_policy=SizePolicy.STRICT), model=model, size=size)
    assert (ErrorCode.INVALID_VALUE, "size") == (error.error_code, error.param)


def test_model_that_a_tenant_may_not_use_does_not_exist() -> None:
    only_live = Tenant("acme", frozenset({"image-01-live"}))
    assert parse(tenant=only_live, model="image-01-live").model == LIVE
    for model in ("image-01", "dall-e-3"):
        with pytest.raises(GatewayError) as refused:
            parse(tenant=only_live, model=model)
        assert ErrorCode.MODEL_UNKNOWN is refused.value.error_code


@pytest.mark.parametrize(
    ("name", "expected"), [("dall-e-2", True), ("dall-e-3", True), ("gpt-image-1", False), ("", False)]
)
def test_family_is_told_by_the_name(name: str, expected: bool) -> None:
    assert expected == is_dall_e(name)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"prompt=a", b'{"prompt":"\xff"}', b"[" * 300_000])
def test_broken_json_is_refused_without_param_and_code(body: bytes) -> None:
    error = refusal(body)
    assert (ErrorCode.INVALID_JSON, None, None) == (error.error_code, error.param, error.row.code)


@given(st.binary())
@example(b'{"prompt":"\\ud800"}')
@example(b'{"prompt":"p","style":{"style_type":"\xff"}}')
@example(b'{"prompt":"p","zz":"\xff"}')
@example(b'{"prompt":"p","\\u0000":1}')
@example(b'{"prompt":"p","n":' + b"9" * 5000 + b"}")
def test_any_bytes_are_a_job_or_a_refusal(body: bytes) -> None:
    outcome = attempt(lambda: parse(body))
    if isinstance(outcome, GatewayError):
        assert outcome.row.status == 400
        assert set(msgspec.json.decode(render_error(outcome))) == {"error"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["auto", "1024x1024", "url", "b64_json", "jpeg", "1:1", "vivid", "image-01-live", 512, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["prompt", *OPTIONAL_FIELDS]) | st.text(max_size=5), JSON, max_size=8))
def test_any_fields_are_a_job_or_a_refusal(fields: dict[str, Any]) -> None:
    outcome = attempt(lambda: parse(msgspec.json.encode({"prompt": "a fox"} | fields)))
    if isinstance(outcome, Generation):
        assert 1 <= outcome.job.count <= 10
        assert outcome.targets
    else:
        assert isinstance(outcome, GatewayError)
        assert outcome.row.status == 400
