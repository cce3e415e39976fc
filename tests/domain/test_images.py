"""The size rule of reference/minimax.md section 6, counting, and time under way."""

import base64
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.images import (
    PRESETS,
    Capability,
    Encoded,
    Extras,
    Format,
    ImageJob,
    ImageResult,
    Link,
    Shape,
    Size,
    SizePolicy,
    can_be_pixels,
    plan_shape,
    sniff,
    sniff_base64,
    split_count,
)

DIRECT = Capability()
AI302 = Capability(max_images_per_call=1, takes_pixels=False, answers_base64=False)
LIVE = Capability(takes_pixels=False, ratios=frozenset(PRESETS) - {"21:9"})
NEAREST, STRICT = SizePolicy.NEAREST, SizePolicy.STRICT

DOCUMENTED = {
    "1:1": (1024, 1024),
    "16:9": (1280, 720),
    "4:3": (1152, 864),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "3:4": (864, 1152),
    "9:16": (720, 1280),
    "21:9": (1344, 576),
}
"""reference/minimax.md 1.3, written out."""


def job(size: str | None = None, **fields: Size | str) -> ImageJob:
    width, _, height = (size or "x").partition("x")
    return ImageJob("a fox", size=Size(int(width), int(height)) if size else None, **fields)  # type: ignore[arg-type]


def preset(ratio: str) -> Shape:
    return Shape(Size(*DOCUMENTED[ratio]), aspect_ratio=ratio)


def exact(width: int, height: int) -> Shape:
    return Shape(Size(width, height), pixels=Size(width, height))


def test_presets_are_the_documented_ones() -> None:
    assert {ratio: Size(*pixels) for ratio, pixels in DOCUMENTED.items()} == dict(PRESETS)


@pytest.mark.parametrize("capability", [DIRECT, AI302, LIVE])
@pytest.mark.parametrize("policy", [NEAREST, STRICT])
def test_absent_size_asks_for_nothing_and_makes_a_square(capability: Capability, policy: SizePolicy) -> None:
    assert Shape(Size(1024, 1024)) == plan_shape(job(), capability, policy)


@pytest.mark.parametrize("ratio", DOCUMENTED)
@pytest.mark.parametrize("capability", [DIRECT, AI302])
@pytest.mark.parametrize("policy", [NEAREST, STRICT])
def test_exact_pixels_of_a_preset_become_its_ratio(ratio: str, capability: Capability, policy: SizePolicy) -> None:
    width, height = DOCUMENTED[ratio]
    assert preset(ratio) == plan_shape(job(f"{width}x{height}"), capability, policy)


@pytest.mark.parametrize(
    ("size", "nearest", "strict"),
    [
        ("1792x1024", exact(1792, 1024), exact(1792, 1024)),
        ("1024x1792", exact(1024, 1792), exact(1024, 1792)),
        ("1536x1024", exact(1536, 1024), exact(1536, 1024)),
        ("1024x1536", exact(1024, 1536), exact(1024, 1536)),
        ("512x512", exact(512, 512), exact(512, 512)),
        ("2048x2048", exact(2048, 2048), exact(2048, 2048)),
        ("2048x512", exact(2048, 512), exact(2048, 512)),
        ("256x256", preset("1:1"), None),
        ("504x504", preset("1:1"), None),
        ("513x512", preset("1:1"), None),
        ("2056x2056", preset("1:1"), None),
        ("3840x2160", preset("16:9"), None),
        ("1920x1080", exact(1920, 1080), exact(1920, 1080)),
    ],
)
def test_direct_takes_pixels_inside_the_rule(size: str, nearest: Shape, strict: Shape | None) -> None:
    assert nearest == plan_shape(job(size), DIRECT, NEAREST)
    assert strict == plan_shape(job(size), DIRECT, STRICT)


@pytest.mark.parametrize(
    ("size", "nearest", "strict"),
    [
        ("512x512", "1:1", "1:1"),
        ("256x256", "1:1", "1:1"),
        ("2048x2048", "1:1", "1:1"),
        ("1920x1080", "16:9", "16:9"),
        ("1536x1024", "3:2", "3:2"),
        ("1024x1536", "2:3", "2:3"),
        ("1792x1024", "16:9", None),
        ("1024x1792", "9:16", None),
        ("1000x1001", "1:1", None),
        ("640x512", "4:3", None),
        ("4096x1024", "21:9", None),
        ("1024x4096", "9:16", None),
    ],
)
def test_302_has_presets_only(size: str, nearest: str, strict: str | None) -> None:
    assert preset(nearest) == plan_shape(job(size), AI302, NEAREST)
    assert (preset(strict) if strict else None) == plan_shape(job(size), AI302, STRICT)


@pytest.mark.parametrize(("policy", "expected"), [(NEAREST, preset("16:9")), (STRICT, None)])
def test_live_has_no_21_to_9(policy: SizePolicy, expected: Shape | None) -> None:
    assert expected == plan_shape(job("1344x576"), LIVE, policy)
    assert plan_shape(job(aspect_ratio="21:9"), LIVE, policy) is None


@pytest.mark.parametrize("ratio", DOCUMENTED)
@pytest.mark.parametrize("capability", [DIRECT, AI302])
def test_callers_own_ratio_is_taken_as_it_is(ratio: str, capability: Capability) -> None:
    assert preset(ratio) == plan_shape(job(aspect_ratio=ratio), capability, STRICT)


def test_callers_own_pixels_are_never_turned_into_a_preset() -> None:
    wanted = job(pixels=Size(1280, 720))
    assert exact(1280, 720) == plan_shape(wanted, DIRECT, NEAREST)
    assert plan_shape(wanted, AI302, NEAREST) is None


@given(st.integers(64, 4096), st.integers(64, 4096), st.sampled_from([DIRECT, AI302, LIVE]))
def test_nearest_always_makes_something_and_strict_never_another_ratio(
    width: int, height: int, capability: Capability
) -> None:
    asked = job(f"{width}x{height}")
    assert plan_shape(asked, capability, NEAREST) is not None
    strict = plan_shape(asked, capability, STRICT)
    if strict is not None:
        assert strict.made.width * height == strict.made.height * width


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_pixels_are_512_to_2048_in_steps_of_8(width: int, height: int) -> None:
    expected = all(side in range(512, 2049, 8) for side in (width, height))
    assert expected == can_be_pixels(Size(width, height))


def test_size_is_written_as_openai_does() -> None:
    assert str(Size(1792, 1024)) == "1792x1024"
    assert Size(1024, 1024).log_ratio == 0


@pytest.mark.parametrize(
    ("count", "at_most", "parts"), [(1, 1, [1]), (10, 9, [9, 1]), (9, 9, [9]), (3, 1, [1, 1, 1]), (10, 4, [4, 4, 2])]
)
def test_calls_are_the_fullest_first(count: int, at_most: int, parts: list[int]) -> None:
    assert parts == split_count(count, at_most)


@given(st.integers(1, 100), st.integers(1, 9))
def test_calls_make_exactly_what_was_asked(count: int, at_most: int) -> None:
    parts = split_count(count, at_most)
    assert count == sum(parts)
    assert all(1 <= part <= at_most for part in parts)
    assert math.ceil(count / at_most) == len(parts)


def test_missing_is_what_was_asked_less_what_came() -> None:
    result = ImageResult((Link("https://x/1.jpg"),), Size(1024, 1024), 3)
    assert result.missing == 2


def test_given_extras_are_those_that_are_set_even_when_falsy() -> None:
    assert Extras().given() == frozenset()
    assert Extras(seed=0, prompt_optimizer=False, style=b"{}").given() == {"seed", "prompt_optimizer", "style"}


def test_prompt_and_pictures_stay_out_of_logs() -> None:
    assert "fox" not in repr(ImageJob("a fox"))
    assert "9j" not in repr(Encoded(memoryview(b"/9j/")))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0" + b"\0" * 12, Format.JPEG),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 8, Format.PNG),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Format.WEBP),
        (b"GIF89a" + b"\0" * 10, Format.GIF),
        (b"GIF87a" + b"\0" * 10, Format.GIF),
        (b"<html></html>   ", None),
        (b"", None),
    ],
)
def test_format_is_sniffed_plain_and_in_base64(head: bytes, expected: Format | None) -> None:
    assert expected == sniff(head)
    assert expected == sniff_base64(memoryview(base64.b64encode(head)))


def test_a_sound_file_is_no_picture() -> None:
    """RIFF is also the container of WAV and AVI: bytes 8 to 11 tell them apart."""
    assert sniff(b"RIFF\x24\0\0\0WAVEfmt ") is None
