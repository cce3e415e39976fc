"""Which model a name means, and where a job can be made."""

import pytest

from gateway.domain.catalog import Capability, Catalog, Model, Target
from gateway.domain.images import ImageJob, Size
from gateway.domain.pricing import MadeImages, PerImage, Price
from gateway.domain.sizes import AspectRatios, SizeBounds, SizePolicy

RATIOS, PIXELS = AspectRatios({"1:1": Size(1024, 1024), "21:9": Size(1344, 576)}), SizeBounds(512, 2048, 8)
DIRECT = Target(
    "minimax",
    "image-01",
    Capability((RATIOS, PIXELS), prompt_max_chars=1499, fields=frozenset({"seed", "minimax.prompt_optimizer"})),
)
AI302 = Target(
    "302ai",
    "minimaxi-image-01",
    Capability((RATIOS,), prompt_max_chars=1000, fields=frozenset({"minimax.prompt_optimizer"})),
)
LIVE = Target("minimax", "image-01-live", Capability((RATIOS,), fields=frozenset({"minimax.style"})))
MODEL = Model("image-01", ("dall-e-3", "gpt-image-1"), (Price(0, PerImage(3500)),), (DIRECT, AI302))
OTHER = Model("live", ("image-01-live",), (Price(0, PerImage(4000)),), (LIVE,))
TWIN = Model("twin", (), (Price(0, PerImage(1)),), (AI302,))
CATALOG = Catalog([MODEL, OTHER, TWIN])
STRICT = SizePolicy.STRICT


def test_first_model_is_the_default() -> None:
    assert MODEL == CATALOG.default


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image-01", MODEL),
        ("dall-e-3", MODEL),
        ("gpt-image-1", MODEL),
        ("live", OTHER),
        ("image-01-live", OTHER),
        ("minimaxi-image-01", None),
        ("DALL-E-3", None),
        ("", None),
    ],
)
def test_tenants_know_ids_and_aliases(name: str, expected: Model | None) -> None:
    assert expected == CATALOG.find(name)


@pytest.mark.parametrize(("name", "expected"), [("minimaxi-image-01", MODEL), ("dall-e-3", MODEL), ("nope", None)])
def test_native_callers_know_the_upstreams_spelling_too(name: str, expected: Model | None) -> None:
    """Where two models are made under one spelling, the first of the configuration is meant."""
    assert expected == CATALOG.find_native(name)


def test_every_name_is_listed_in_the_order_of_the_configuration() -> None:
    expected = ["image-01", "dall-e-3", "gpt-image-1", "live", "image-01-live", "twin"]
    assert expected == [name for name, _ in CATALOG.names()]


def test_a_catalog_offers_another_ones_models_in_the_place_of_its_own() -> None:
    catalog = Catalog([MODEL, OTHER])
    found, names = catalog.find("dall-e-3"), catalog.names()
    first = next(names)
    catalog.take_over(Catalog([TWIN]))
    assert ("twin", TWIN) == (catalog.default.id, catalog.find("twin"))
    assert [None, None] == [catalog.find("dall-e-3"), catalog.find_native("image-01")]
    assert TWIN == catalog.find_native("minimaxi-image-01")
    assert [("twin", TWIN)] == list(catalog.names())
    assert MODEL == found
    assert 5 == len([first, *names]), "who reads the list reads one"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (ImageJob("a fox"), (DIRECT, AI302)),
        (ImageJob("x" * 1000), (DIRECT, AI302)),
        (ImageJob("x" * 1001), (DIRECT,)),
        (ImageJob("x" * 1500), ()),
        (ImageJob("a fox", seed=1), (DIRECT,)),
        (ImageJob("a fox", options={"minimax.prompt_optimizer": b"false"}), (DIRECT, AI302)),
        (ImageJob("a fox", options={"minimax.style": b"{}"}), ()),
        (ImageJob("a fox", pixels=Size(512, 512)), (DIRECT,)),
        (ImageJob("a fox", size=Size(1792, 1024)), (DIRECT,)),
        (ImageJob("a fox", size=Size(512, 512)), (DIRECT, AI302)),
        (ImageJob("a fox", aspect_ratio="21:9"), (DIRECT, AI302)),
    ],
)
def test_job_goes_only_where_all_of_it_can_be_honoured(job: ImageJob, expected: tuple[Target, ...]) -> None:
    assert [one.upstream for one in expected] == [plan.upstream for plan in MODEL.plan(job, STRICT)]


def test_model_takes_what_its_most_able_target_takes() -> None:
    assert MODEL.prompt_max_chars == 1499
    assert {"seed", "minimax.prompt_optimizer"} <= MODEL.fields


def test_model_offers_the_formats_that_the_gateway_converts_to() -> None:
    assert ["jpeg", "png", "webp"] == MODEL.choices("output_format")


@pytest.mark.parametrize(("quality", "expected"), [("auto", None), ("high", "high"), (None, None)])
def test_an_automatic_quality_is_not_known_to_the_price(quality: str | None, expected: str | None) -> None:
    able = Capability((RATIOS,), fields=frozenset({"quality.auto", "quality.high"}))
    model = Model("any", (), MODEL.prices, (Target("up", "any", able),))
    job = ImageJob("a cat", count=3, quality=quality, size=Size(1344, 576))
    [target] = model.plan(job, STRICT)
    assert MadeImages(3, expected, Size(1344, 576), calls=2) == target.planned(job, 3, calls=2)
