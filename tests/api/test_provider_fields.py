"""MiniMax's own request fields, as both client wires take them."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.fields import ProviderFields, Style, parse_fields
from gateway.api.targets import plan_targets
from gateway.domain.accounts import make_secret
from gateway.domain.catalog import Capability, Model, Target
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, ImageJob, InputImage, ResponseFormat, Role, Size, SizePlan
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import AspectRatios, SizePolicy
from gateway.generation.redaction import own_words
from gateway.providers.minimax import PIXELS, PRESETS, MiniMax
from tests.support.errors import attempt

RATIOS = ("1:1", "16:9", "4:3", "3:2", "2:3", "3:4", "9:16", "21:9")
FACE = {"type": "character", "image_file": "https://example.org/face.jpg"}
MODEL = Model(
    "image-01",
    (),
    (Price(0, PerImage(3500)),),
    (
        Target("a", "one", Capability((AspectRatios(PRESETS),), fields=frozenset({"minimax.style"}))),
        Target("b", "two", Capability((AspectRatios({"1:1": PRESETS["1:1"]}), PIXELS), fields=frozenset({"seed"}))),
    ),
)


class Fields(ProviderFields):
    """MiniMax's fields, with the type of `style` that only its own format has."""

    style: Style | None = None


def fields(**values: object) -> Fields:
    return parse_fields(msgspec.json.encode(values), Fields)


def read_all(read: Fields) -> tuple[int | None, dict[str, bytes], tuple[InputImage, ...]]:
    """Seed, options and inputs."""
    return read.seed, read.read_options(read.style), read.read_inputs()


NOTHING: tuple[None, dict[str, bytes], tuple[()]] = (None, {}, ())


def refusal_of(**values: object) -> tuple[ErrorCode, str | None]:
    with pytest.raises(GatewayError) as refused:
        _ = [(read.read_shape(MODEL, "image-01"), read_all(read)) for read in [fields(**values)]]
    return refused.value.error_code, refused.value.param


def test_nothing_given_is_nothing_read() -> None:
    empty = fields(seed=None, style=None, width=None, height=None, aspect_ratio=None, subject_reference=None)
    assert (NOTHING, (None, None)) == (read_all(empty), empty.read_shape(MODEL, "image-01"))


@pytest.mark.parametrize("ratio", RATIOS)
def test_documented_ratios_are_taken(ratio: str) -> None:
    assert (ratio, None) == fields(aspect_ratio=ratio).read_shape(MODEL, "image-01")


@pytest.mark.parametrize(("width", "height"), [(512, 2048), (2048, 512), (1024, 1032)])
def test_pixels_in_the_rule_are_taken(width: int, height: int) -> None:
    assert (None, Size(width, height)) == fields(width=width, height=height).read_shape(MODEL, "image-01")


@pytest.mark.parametrize("value", [-(2**63), -1, 0, 2**63 - 1])
def test_seed_is_any_int64(value: int) -> None:
    assert value == fields(seed=value).seed


@pytest.mark.parametrize("value", [True, False])
def test_false_is_a_value(value: bool) -> None:
    read = fields(prompt_optimizer=value, aigc_watermark=value).read_options(None)
    encoded = msgspec.json.encode(value)
    assert {"minimax.prompt_optimizer": encoded, "minimax.aigc_watermark": encoded} == read


@pytest.mark.parametrize("kind", ["漫画", "元气", "中世纪", "水彩"])
@pytest.mark.parametrize("weight", [None, 0.01, 0.8, 1])
def test_documented_styles_are_kept_as_they_came(kind: str, weight: float | None) -> None:
    style = {"style_type": kind} | ({"style_weight": weight} if weight else {})
    assert {"minimax.style": msgspec.json.encode(style)} == read_all(fields(style=style))[1]


def test_a_weight_that_is_null_is_absent() -> None:
    style = {"style_type": "水彩", "style_weight": None}
    assert {"minimax.style": msgspec.json.encode({"style_type": "水彩"})} == read_all(fields(style=style))[1]


@pytest.mark.parametrize(
    "link",
    [
        "https://x/y.jpg",
        "http://x/y.jpg",
        "https://x/" + "a" * 8182,
        "data:image/jpeg;base64,/9j/4AA=",
        "data:image/jpeg;base64," + "A" * 100_000,
    ],
)
@pytest.mark.parametrize("count", [1, 16])
def test_references_are_kept_as_they_came(link: str, count: int) -> None:
    reference = [{"type": "character", "image_file": link}] * count
    kept = InputImage(Role.CHARACTER, msgspec.json.encode(link))
    assert (kept,) * count == fields(subject_reference=reference).read_inputs()


REPEATED_NAMES = [
    ("style", b'{"style_type":"x","style_weight":5,"style_type":"\xe6\xb0\xb4\xe5\xbd\xa9","style_weight":1}'),
    (
        "subject_reference",
        b'[{"image_file":"file:///etc/passwd","type":"style","type":"character","image_file":"https://x/y.jpg"}]',
    ),
]


@pytest.mark.parametrize(("name", "value"), REPEATED_NAMES)
def test_what_was_validated_is_what_is_sent(name: str, value: bytes) -> None:
    _, options, inputs = read_all(parse_fields(b'{"%s":%s}' % (name.encode(), value), Fields))
    job = ImageJob("p", options=options, inputs=inputs)
    plan = CallPlan("m", 1, SizePlan(Size(8, 8)), ResponseFormat.URL)
    body = b"".join(MiniMax().build_call(job, plan, make_secret("s-1")).body)
    read = msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name]
    for word in (b"file:", b'"x"', b'"type":"style"', b":5"):
        assert word not in bytes(read)
    assert msgspec.json.decode(read) == msgspec.json.decode(value)
    assert bytes(read).count(b'"type"') <= 1


def test_of_two_equal_names_in_a_body_the_last_is_read_and_sent() -> None:
    read = parse_fields(b'{"seed":"x","seed":1,"subject_reference":[],"subject_reference":null}', Fields)
    assert (1, {}, ()) == read_all(read)


def test_own_words_are_every_free_text_of_the_request() -> None:
    reference = [FACE, FACE | {"image_file": "data:image/png;base64,iVBORw0"}]
    _, options, inputs = read_all(fields(subject_reference=reference, style={"style_type": "\u6c34\u5f69"}, seed=7))
    words = ("a cat", "https://example.org/face.jpg", "data:image/png;base64,iVBORw0")
    assert words == own_words(ImageJob("a cat", seed=7, options=options, inputs=inputs))
    assert ("a cat", "ann@example.org") == own_words(ImageJob("a cat", end_user="ann@example.org"))


@pytest.mark.parametrize(
    ("values", "error_code", "param"),
    [
        ({"aspect_ratio": "5:4"}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"aspect_ratio": ""}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"aspect_ratio": 1}, ErrorCode.INVALID_TYPE, "aspect_ratio"),
        ({"width": 512}, ErrorCode.MISSING_PARAMETER, "height"),
        ({"height": 512}, ErrorCode.MISSING_PARAMETER, "width"),
        ({"width": 511, "height": 512}, ErrorCode.INTEGER_BELOW_MIN, "width"),
        ({"width": 512, "height": 2049}, ErrorCode.INTEGER_ABOVE_MAX, "height"),
        ({"width": 513, "height": 512}, ErrorCode.INVALID_VALUE, "width"),
        ({"width": 512, "height": 1023}, ErrorCode.INVALID_VALUE, "height"),
        ({"width": "512", "height": 512}, ErrorCode.INVALID_TYPE, "width"),
        ({"width": True, "height": 512}, ErrorCode.INVALID_TYPE, "width"),
        ({"seed": 2**63}, ErrorCode.INTEGER_ABOVE_MAX, "seed"),
        ({"seed": -(2**63) - 1}, ErrorCode.INTEGER_BELOW_MIN, "seed"),
        ({"seed": 1.0}, ErrorCode.INVALID_TYPE, "seed"),
        ({"prompt_optimizer": "true"}, ErrorCode.INVALID_TYPE, "prompt_optimizer"),
        ({"prompt_optimizer": 1}, ErrorCode.INVALID_TYPE, "prompt_optimizer"),
        ({"aigc_watermark": "no"}, ErrorCode.INVALID_TYPE, "aigc_watermark"),
        ({"style": "水彩"}, ErrorCode.INVALID_TYPE, "style"),
        ({"style": []}, ErrorCode.INVALID_TYPE, "style"),
        ({"style": {}}, ErrorCode.INVALID_TYPE, "style"),
        ({"style": {"style_type": "水彩", "more": 1}}, ErrorCode.INVALID_TYPE, "style"),
        ({"style": {"style_type": "vivid"}}, ErrorCode.INVALID_VALUE, "style"),
        ({"style": {"style_type": "水彩", "style_weight": 0}}, ErrorCode.INVALID_VALUE, "style"),
        ({"style": {"style_type": "水彩", "style_weight": 1.01}}, ErrorCode.INVALID_VALUE, "style"),
        ({"subject_reference": FACE}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": []}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": [FACE | {"type": "style"}]}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": [FACE | {"image_file": "face.jpg"}]}, ErrorCode.INVALID_VALUE, "subject_reference"),
        (
            {"subject_reference": [FACE | {"image_file": "file:///etc/passwd"}]},
            ErrorCode.INVALID_VALUE,
            "subject_reference",
        ),
        *(
            ({"subject_reference": [FACE | {"image_file": file}]}, ErrorCode.INVALID_VALUE, "subject_reference")
            for file in (
                "https://x/\0",
                "https://x/\n",
                "http://x/\x7f",
                "https://x/\x9b",
                "https://x/\u202e",
                "data:image/png;base64,/9j/\n",
                "https://x/" + "a" * 8183,
            )
        ),
        ({"subject_reference": [FACE] * 17}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": [FACE | {"image_url": "https://x"}]}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": [{"type": "character"}]}, ErrorCode.INVALID_VALUE, "subject_reference"),
        ({"subject_reference": [None]}, ErrorCode.INVALID_VALUE, "subject_reference"),
    ],
)
def test_value_outside_the_documentation_is_refused(
    values: dict[str, object], error_code: ErrorCode, param: str
) -> None:
    assert (error_code, param) == refusal_of(**values)


@pytest.mark.parametrize("name", ["style", "subject_reference"])
@pytest.mark.parametrize(
    "value",
    [
        b'{"style_type":"\xff"}',
        b'{"\xff":1}',
        b'[{"type":"\xff","image_file":"https://x"}]',
        b"[" * 1_000 + b"]" * 1_000,
        b"9" * 5_000,
        b"1e999",
        b'"\\udc00"',
    ],
)
def test_hostile_json_in_an_object_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        read_all(parse_fields(b'{"%s":%s}' % (name.encode(), value), Fields))
    assert refused.value.row.status == 400


@given(st.sampled_from(["style", "subject_reference", "seed", "prompt_optimizer"]), st.binary(max_size=60))
@example("style", b'{"style_type":"\xff"}')
def test_any_bytes_in_a_field_are_read_or_refused(name: str, value: bytes) -> None:
    outcome = attempt(lambda: read_all(parse_fields(b'{"%s":%s}' % (name.encode(), value), Fields)))
    assert not isinstance(outcome, GatewayError) or outcome.row.status == 400


@pytest.mark.parametrize(
    ("job", "error_code", "param"),
    [
        (
            ImageJob("p", options={"minimax.prompt_optimizer": b"false"}),
            ErrorCode.UNKNOWN_PARAMETER,
            "prompt_optimizer",
        ),
        (
            ImageJob("p", inputs=(InputImage(Role.CHARACTER, b'""'),), options={"minimax.aigc_watermark": b"true"}),
            ErrorCode.UNKNOWN_PARAMETER,
            "aigc_watermark",
        ),
        (ImageJob("p", seed=1, options={"minimax.style": b"{}"}), ErrorCode.INVALID_VALUE, "model"),
        (ImageJob("p", size=Size(1792, 1024), options={"minimax.style": b"{}"}), ErrorCode.INVALID_VALUE, "size"),
        (ImageJob("p", aspect_ratio="16:9", seed=1), ErrorCode.INVALID_VALUE, "aspect_ratio"),
        (ImageJob("p", pixels=Size(512, 512), options={"minimax.style": b"{}"}), ErrorCode.INVALID_VALUE, "width"),
    ],
)
def test_what_no_target_can_make_is_refused_naming_the_field(job: ImageJob, error_code: ErrorCode, param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        plan_targets(job, MODEL, SizePolicy.STRICT, "image-01")
    assert (error_code, param) == (refused.value.error_code, refused.value.param)


@pytest.mark.parametrize(
    "job",
    [
        ImageJob("p"),
        ImageJob("p", seed=1),
        ImageJob("p", options={"minimax.style": b"{}"}, aspect_ratio="16:9"),
        ImageJob("p", pixels=Size(512, 512)),
    ],
)
def test_what_one_target_can_make_is_taken(job: ImageJob) -> None:
    plan_targets(job, MODEL, SizePolicy.STRICT, "image-01")
