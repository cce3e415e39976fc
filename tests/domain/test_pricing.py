"""What images cost under each kind of price: the dearest case before they are made, what was made afterwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.billing import (
    MadeImages,
    PerImage,
    PerMegapixel,
    PerToken,
    PerVariant,
    Price,
    Rate,
    Stated,
    Variant,
    price_at,
)
from gateway.domain.images import Size

SQUARE, WIDE = Size(1024, 1024), Size(1536, 1024)
BY_QUALITY = PerVariant((Variant(11_000, "low"), Variant(42_000, "medium"), Variant(167_000, "high")))
BY_BOTH = PerVariant((Variant(40_000, "standard"), Variant(80_000, "hd", SQUARE), Variant(120_000, "hd", WIDE)))
MEGAPIXEL = PerMegapixel(25_000, Size(2048, 2048))
TOKENS = PerToken(5_000_000, 40_000_000, input_tokens_max=1_000, output_tokens_max=6_240)
STATED = Stated(200_000)


@pytest.mark.parametrize(
    ("rate", "made", "expected"),
    [
        (PerImage(3_500), MadeImages(9), 31_500),
        (PerImage(3_500), MadeImages(0), 0),
        (BY_QUALITY, MadeImages(1), 167_000),
        (BY_QUALITY, MadeImages(2, "low"), 22_000),
        (BY_QUALITY, MadeImages(1, "other"), 167_000),
        (BY_BOTH, MadeImages(1, "standard", WIDE), 40_000),
        (BY_BOTH, MadeImages(1, "hd", SQUARE), 80_000),
        (BY_BOTH, MadeImages(1, "hd"), 120_000),
        (BY_BOTH, MadeImages(1, None, SQUARE), 80_000),
        (BY_BOTH, MadeImages(1, "hd", Size(8, 8)), 120_000),
        (MEGAPIXEL, MadeImages(1), 104_858),
        (MEGAPIXEL, MadeImages(3, size=Size(1000, 1000)), 75_000),
        (MEGAPIXEL, MadeImages(2, size=Size(1, 1)), 2),
        (TOKENS, MadeImages(2), 5_000 + 2 * 249_600),
        (TOKENS, MadeImages(1, input_tokens=100, output_tokens=1_056), 500 + 42_240),
        (TOKENS, MadeImages(1, input_tokens=1, output_tokens=0), 5),
        (STATED, MadeImages(2), 400_000),
        (STATED, MadeImages(2, stated_usd_micros=34_001), 34_001),
        (STATED, MadeImages(2, stated_usd_micros=0), 0),
    ],
)
def test_images_cost_what_their_price_says(rate: Rate, made: MadeImages, expected: int) -> None:
    assert expected == rate.cost(made)


@given(
    st.sampled_from([PerImage(3_500), BY_QUALITY, BY_BOTH, MEGAPIXEL, TOKENS, STATED]),
    st.integers(1, 10),
    st.sampled_from(["low", "hd", None]),
    st.sampled_from([SQUARE, WIDE, None]),
    st.integers(0, 1_000),
    st.integers(0, 6_240),
)
def test_what_is_reserved_is_enough_for_what_was_made(
    rate: Rate, images: int, quality: str | None, size: Size | None, read: int, written: int
) -> None:
    made = MadeImages(images, quality, size, read, written * images, written)
    cost = rate.cost(made)
    assert isinstance(cost, int)
    assert 0 <= cost <= rate.cost(MadeImages(images))


def test_the_price_is_the_latest_that_has_begun() -> None:
    prices = (Price(0, PerImage(1)), Price(200, PerImage(3)), Price(100, PerImage(2)))
    assert [1, 1, 2, 2, 3] == [price_at(prices, now_s) for now_s in (0, 99.9, 100, 199, 200)]
