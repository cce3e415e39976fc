"""The size rules, with those of MiniMax and 302.AI (reference/minimax.md section 6) and others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalog import Capability, plan_shape
from gateway.domain.images import ImageJob, Size, SizePlan
from gateway.domain.sizes import AspectRatios, FixedSize, SizeBounds, SizeList, SizePolicy, SizeRule, plan_size

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

RATIOS = AspectRatios({ratio: Size(*pixels) for ratio, pixels in DOCUMENTED.items()})
BOUNDS = SizeBounds(512, 2048, 8)
DIRECT = Capability((RATIOS, BOUNDS))
AI302 = Capability((RATIOS,))
LIVE = Capability((AspectRatios({ratio: size for ratio, size in RATIOS.sizes.items() if ratio != "21:9"}),))
NEAREST, STRICT = SizePolicy.NEAREST, SizePolicy.STRICT


def job(size: str | None = None, **fields: Size | str) -> ImageJob:
    width, _, height = (size or "x").partition("x")
    return ImageJob("a fox", size=Size(int(width), int(height)) if size else None, **fields)  # type: ignore[arg-type]


def preset(ratio: str) -> SizePlan:
    return SizePlan(Size(*DOCUMENTED[ratio]), aspect_ratio=ratio)


def exact(width: int, height: int) -> SizePlan:
    return SizePlan(Size(width, height), pixels=Size(width, height))


@pytest.mark.parametrize("capability", [DIRECT, AI302, LIVE])
@pytest.mark.parametrize("policy", [NEAREST, STRICT])
def test_absent_size_asks_for_nothing_and_makes_a_square(capability: Capability, policy: SizePolicy) -> None:
    assert SizePlan(Size(1024, 1024)) == plan_shape(job(), capability, policy)


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
        ("256x256", exact(512, 512), None),
        ("504x504", exact(512, 512), None),
        ("513x512", exact(512, 512), None),
        ("2056x2056", exact(2048, 2048), None),
        ("3840x2160", exact(2048, 1152), None),
        ("1200x630", exact(1200, 632), None),
        ("1281x721", preset("16:9"), None),
        ("1920x1080", exact(1920, 1080), exact(1920, 1080)),
    ],
)
def test_direct_takes_pixels_inside_the_rule(size: str, nearest: SizePlan, strict: SizePlan | None) -> None:
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
def test_live_has_no_21_to_9(policy: SizePolicy, expected: SizePlan | None) -> None:
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


@given(st.integers(64, 4096), st.integers(64, 4096))
def test_pixels_keep_every_shape_up_to_4_to_1(width: int, height: int) -> None:
    plan = plan_shape(job(f"{width}x{height}"), DIRECT, NEAREST)
    assert plan
    if max(width, height) <= 4 * min(width, height):
        wanted = max(plan.made) / max(width, height)
        assert max(abs(plan.made.width - width * wanted), abs(plan.made.height - height * wanted)) <= 8
        assert plan.made == Size(width, height) or BOUNDS.exact(Size(width, height)) is None


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_pixels_are_512_to_2048_in_steps_of_8(width: int, height: int) -> None:
    expected = all(side in range(512, 2049, 8) for side in (width, height))
    assert expected == (BOUNDS.exact(Size(width, height)) is not None)


def test_size_is_written_as_openai_does() -> None:
    assert str(Size(1792, 1024)) == "1792x1024"
    assert Size(1024, 1024).log_ratio == 0


LISTED = SizeList((Size(1024, 1024), Size(1536, 1024), Size(1024, 1536), Size(512, 512)))
FIXED = FixedSize(Size(768, 768))
AREAS = (
    SizeBounds(16, 3840, 16, 655_360, 8_294_400, 3),
    SizeBounds(1, 20_000, 1, 655_360, 20_000_000, 3),
    SizeBounds(15, 16_384, 1, 3_686_400, 16_777_216, 16),
    SizeBounds(512, 2048, 32, area_max=2**21),
)
"""Bounds of area and ratio, as several providers have them."""


@pytest.mark.parametrize(
    ("rule", "asked", "nearest", "strict"),
    [
        (LISTED, Size(1536, 1024), Size(1536, 1024), Size(1536, 1024)),
        (LISTED, Size(600, 600), Size(512, 512), None),
        (LISTED, Size(900, 900), Size(1024, 1024), None),
        (LISTED, Size(1792, 1024), Size(1536, 1024), None),
        (FIXED, Size(768, 768), Size(768, 768), Size(768, 768)),
        (FIXED, Size(256, 256), Size(768, 768), Size(768, 768)),
        (FIXED, Size(256, 512), Size(768, 768), None),
        (BOUNDS, Size(256, 256), Size(512, 512), None),
        (BOUNDS, Size(4096, 2048), Size(2048, 1024), None),
        (BOUNDS, Size(4096, 512), Size(2048, 512), None),
        (BOUNDS, Size(1001, 1003), Size(1000, 1000), None),
        (AREAS[0], Size(3840, 2160), Size(3840, 2160), Size(3840, 2160)),
        (AREAS[0], Size(512, 512), Size(816, 816), None),
        (AREAS[0], Size(4096, 1024), Size(3072, 1024), None),
        (AREAS[0], Size(4096, 4096), Size(2880, 2880), None),
        (AREAS[1], Size(4096, 4096), Size(4096, 4096), Size(4096, 4096)),
        (AREAS[2], Size(1024, 1024), Size(1920, 1920), None),
        (AREAS[3], Size(2048, 2048), Size(1440, 1440), None),
    ],
)
def test_a_rule_makes_the_size_or_the_nearest(rule: SizeRule, asked: Size, nearest: Size, strict: Size | None) -> None:
    plans = [plan_size(asked, (rule,), policy) for policy in (NEAREST, STRICT)]
    assert [nearest, strict] == [plan.made if plan else None for plan in plans]


def test_a_fixed_size_is_not_asked_for_and_a_listed_one_is() -> None:
    assert SizePlan(FIXED.size) == plan_size(Size(768, 768), (FIXED,), STRICT)
    assert exact(512, 512) == plan_size(Size(512, 512), (LISTED,), STRICT)


def test_a_model_without_sizes_makes_none() -> None:
    assert plan_size(Size(512, 512), (), NEAREST) is None


@given(st.integers(64, 4096), st.integers(64, 4096))
def test_the_nearest_size_is_always_one_that_the_rule_makes(width: int, height: int) -> None:
    for rule in (RATIOS, BOUNDS, LISTED, FIXED, *AREAS):
        made = rule.nearest(Size(width, height)).made
        assert rule.exact(made) is not None
