"""What images cost under each kind of price: the dearest case before they are made, what was made afterwards."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.images import ImageReply, ImageUrl, Size, TokenUsage, split_count
from gateway.domain.pricing import (
    Basis,
    Bill,
    CallPrice,
    MadeImages,
    Micros,
    Offer,
    PerImage,
    PerMegapixel,
    PerToken,
    PerVariant,
    Price,
    Rate,
    Stated,
    Variant,
    highest_cost,
    rate_at,
)

SQUARE, WIDE = Size(1024, 1024), Size(1536, 1024)
FLAT = PerImage(3_500)
BY_QUALITY = PerVariant((Variant(11_000, "low"), Variant(42_000, "medium"), Variant(167_000, "high")))
BY_BOTH = PerVariant((Variant(40_000, "standard"), Variant(80_000, "hd", SQUARE), Variant(120_000, "hd", WIDE)))
MEGAPIXEL = PerMegapixel(25_000, Size(2048, 2048))
TOKENS = PerToken(5_000_000, 40_000_000, input_tokens_max=1_000, output_tokens_max=6_240)
BY_KIND = PerToken(5_000_000, 30_000_000, 2_000, 6_240, image_input_usd_micros=8_000_000, cached_input_usd_micros=1)
STATED = Stated(200_000)
RATES = [FLAT, BY_QUALITY, BY_BOTH, MEGAPIXEL, TOKENS, BY_KIND, STATED]


@pytest.mark.parametrize(
    ("rate", "made", "expected"),
    [
        (FLAT, MadeImages(9), 31_500),
        (FLAT, MadeImages(0), 0),
        (BY_QUALITY, MadeImages(1), 167_000),
        (BY_QUALITY, MadeImages(2, "low"), 22_000),
        (BY_QUALITY, MadeImages(1, "other"), 167_000),
        (BY_BOTH, MadeImages(1, "standard", WIDE), 40_000),
        (BY_BOTH, MadeImages(1, "hd", SQUARE), 80_000),
        (BY_BOTH, MadeImages(1, "hd"), 120_000),
        (BY_BOTH, MadeImages(1, None, SQUARE), 80_000),
        (BY_BOTH, MadeImages(1, "hd", Size(8, 8)), 120_000),
        (MEGAPIXEL, MadeImages(1), Fraction("104857.6")),
        (MEGAPIXEL, MadeImages(3, size=Size(1000, 1000)), 75_000),
        (MEGAPIXEL, MadeImages(2, size=Size(1, 1)), Fraction(1, 20)),
        (TOKENS, MadeImages(2), 5_000 + 2 * 249_600),
        (TOKENS, MadeImages(2, calls=2), 2 * 5_000 + 2 * 249_600),
        (TOKENS, MadeImages(1, usage=TokenUsage(100, 1_056)), 500 + 42_240),
        (TOKENS, MadeImages(9, usage=TokenUsage(1, 0)), 5),
        (BY_KIND, MadeImages(1), 16_000 + 187_200),
        (BY_KIND, MadeImages(1, usage=TokenUsage(30, 2, 20, 10)), 100 + 80 + 60),
        (BY_KIND, MadeImages(1, usage=TokenUsage(30, 2)), 240 + 60),
        (BY_KIND, MadeImages(1, usage=TokenUsage(30, 2, 20, 10, 25)), Fraction(25, 10**6) + 40 + 60),
        (STATED, MadeImages(2), 400_000),
        (STATED, MadeImages(2, stated_usd_micros=34_001), 34_001),
        (STATED, MadeImages(2, stated_usd_micros=0), 0),
    ],
)
def test_images_cost_what_their_price_says(rate: Rate, made: MadeImages, expected: Micros) -> None:
    assert expected == rate.cost(made)


def replied(images: int, **said: object) -> ImageReply:
    return ImageReply((ImageUrl("https://x/1"),) * images, **said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tariff", "reply", "delivered", "expected"),
    [
        (FLAT, replied(4), 3, Bill(10_500)),
        (BY_QUALITY, replied(4, quality="low"), 4, Bill(44_000)),
        (BY_QUALITY, replied(4), 4, Bill(668_000, basis=Basis.RESERVATION)),
        (BY_BOTH, replied(4, quality="standard"), 2, Bill(80_000)),
        (MEGAPIXEL, replied(1, made=Size(1000, 1000)), 1, Bill(25_000)),
        (MEGAPIXEL, replied(1, made=Size(9000, 9000)), 1, Bill(Fraction("26214.4"), basis=Basis.LIMIT)),
        (TOKENS, replied(4, usage=TokenUsage(40, 1_000)), 3, Bill(Fraction(3 * 40_200, 4))),
        (TOKENS, replied(4), 4, Bill(5_000 + 4 * 249_600, basis=Basis.RESERVATION)),
        (TOKENS, replied(1, usage=TokenUsage(1_001, 6_240)), 1, Bill(5_000 + 249_600, basis=Basis.LIMIT)),
        (STATED, replied(2, stated_usd_micros=60_001), 2, Bill(60_001, 60_001)),
        (STATED, replied(2, stated_usd_micros=400_001), 2, Bill(400_000, 400_001, Basis.LIMIT)),
        (STATED, replied(2), 0, Bill(0, basis=Basis.RESERVATION)),
    ],
)
def test_a_call_is_billed_by_its_answer_and_never_above_the_highest_case(
    tariff: Rate, reply: ImageReply, delivered: int, expected: Bill
) -> None:
    assert expected == CallPrice(tariff, MadeImages(4, size=SQUARE)).bill(reply, delivered)


@pytest.mark.parametrize(
    ("cost", "reply", "expected"),
    [
        (FLAT, replied(4), 14_000),
        (FLAT, replied(4, stated_usd_micros=1), 1),
        (TOKENS, replied(1), None),
        (TOKENS, replied(1, usage=TokenUsage(9_000_000, 0)), 45_000_000),
        (None, replied(1), None),
    ],
)
def test_the_cost_is_what_the_provider_takes_or_unknown(
    cost: Rate | None, reply: ImageReply, expected: int | None
) -> None:
    """It counts every image made, also those that were not delivered, and knows no limit."""
    assert expected == CallPrice(PerImage(1), MadeImages(4, size=SQUARE), cost).bill(reply, 1).cost


_TOKENS = st.builds(TokenUsage, *[st.integers(0, 20_000)] * 5)
_REPLIES = st.builds(
    replied,
    st.integers(1, 4),
    quality=st.sampled_from(["low", "hd", "other", None]),
    made=st.sampled_from([SQUARE, WIDE, Size(4096, 4096), None]),
    usage=st.none() | _TOKENS,
    stated_usd_micros=st.none() | st.integers(0, 900_000),
)


@given(
    st.sampled_from(RATES),
    st.integers(1, 10),
    st.integers(1, 10),
    st.sampled_from(["low", "hd", None]),
    st.sampled_from([SQUARE, WIDE, None]),
    st.lists(_REPLIES, min_size=10, max_size=10),
)
def test_what_is_reserved_is_enough_for_every_answer(
    rate: Rate, count: int, per_call: int, quality: str | None, size: Size | None, replies: list[ImageReply]
) -> None:
    """However the request is split into calls, and whatever their answers say."""
    parts = split_count(count, per_call)
    offer = Offer((Price(0, rate),), MadeImages(count, quality, size, calls=1 if per_call >= count else count))
    bills = []
    for images, reply in zip(parts, replies, strict=False):
        made = min(images, len(reply.pictures))
        answer = ImageReply(
            reply.pictures[:made], "", None, reply.usage, reply.stated_usd_micros, reply.made, reply.quality
        )
        bills.append(CallPrice(rate, MadeImages(images, quality, size)).bill(answer, made))
    assert all(bill.charge >= 0 for bill in bills)
    assert math.ceil(sum(bill.charge for bill in bills)) <= highest_cost([offer], 0)


def test_the_price_is_the_latest_that_has_begun() -> None:
    prices = (Price(0, PerImage(1)), Price(200, PerImage(3)), Price(100, PerImage(2)))
    assert [1, 1, 2, 2, 3] == [rate_at(prices, now_s).cost(MadeImages(1)) for now_s in (0, 99.9, 100, 199, 200)]


def test_the_dearest_target_is_reserved_rounded_up_once() -> None:
    offers = [Offer((Price(0, rate),), MadeImages(3, size=Size(1, 1))) for rate in (PerImage(0), MEGAPIXEL)]
    assert 1 == highest_cost(offers, 0)
