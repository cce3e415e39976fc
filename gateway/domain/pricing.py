"""Prices: what images may cost at most, and what those that were made cost.

Costs are exact rationals of micro-dollars, and are rounded up once a request. Prices are integer micro-dollars.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction

from gateway.domain.images import ImageReply, Size, TokenUsage

_MILLION = 1_000_000
Micros = int | Fraction
"""An exact amount in micro-dollars."""


@dataclass(frozen=True, slots=True)
class MadeImages:
    """The images to be priced. An attribute that is None is not known: its highest price counts."""

    images: int
    quality: str | None = None
    size: Size | None = None
    usage: TokenUsage | None = None
    stated_usd_micros: int | None = None
    calls: int = 1


@dataclass(frozen=True, slots=True)
class PerImage:
    """One price for every image."""

    usd_micros: int

    def cost(self, made: MadeImages) -> Micros:
        return made.images * self.usd_micros

    def is_exact(self, made: MadeImages) -> bool:  # noqa: ARG002 - part of every rate
        return True


@dataclass(frozen=True, slots=True)
class Variant:
    """The price of an image at one quality and size; None matches all."""

    usd_micros: int
    quality: str | None = None
    size: Size | None = None


@dataclass(frozen=True, slots=True)
class PerVariant:
    """A price by quality or size. An image of no listed variant costs as much as the most expensive one."""

    variants: tuple[Variant, ...]

    def cost(self, made: MadeImages) -> Micros:
        return made.images * max(self._prices(made) or self._prices(MadeImages(1)))

    def is_exact(self, made: MadeImages) -> bool:
        return len(self._prices(made)) == 1

    def _prices(self, made: MadeImages) -> set[int]:
        """Returns the prices that may apply; none for a variant that is not listed."""
        return {
            variant.usd_micros
            for variant in self.variants
            if (made.quality is None or variant.quality in {None, made.quality})
            and (made.size is None or variant.size in {None, made.size})
        }


@dataclass(frozen=True, slots=True)
class PerMegapixel:
    """A price per million pixels."""

    usd_micros: int
    largest: Size

    def cost(self, made: MadeImages) -> Micros:
        size = made.size or self.largest
        return made.images * Fraction(size.width * size.height * self.usd_micros, _MILLION)

    def is_exact(self, made: MadeImages) -> bool:
        return made.size is not None


@dataclass(frozen=True, slots=True)
class PerToken:
    """Prices per million tokens, with the token limits of a call and of an image.

    Without prices of their own, tokens of input images and cached tokens cost as much as those of text.
    """

    input_usd_micros: int
    output_usd_micros: int
    input_tokens_max: int
    output_tokens_max: int  # limit for one image
    image_input_usd_micros: int | None = None
    cached_input_usd_micros: int | None = None

    def cost(self, made: MadeImages) -> Micros:
        if made.usage:
            return Fraction(self._input(made.usage) + made.usage.output_tokens * self.output_usd_micros, _MILLION)
        read = made.calls * self.input_tokens_max * max(self._input_prices)
        return Fraction(read + made.images * self.output_tokens_max * self.output_usd_micros, _MILLION)

    def is_exact(self, made: MadeImages) -> bool:
        return made.usage is not None

    @property
    def _input_prices(self) -> tuple[int, int, int]:
        """Of a token of text, of an image, and from the cache."""
        text, image, cached = self.input_usd_micros, self.image_input_usd_micros, self.cached_input_usd_micros
        return text, text if image is None else image, text if cached is None else cached

    def _input(self, usage: TokenUsage) -> int:
        """Tokens whose kind is not reported are of the dearer one. Cached ones replace text first, then images."""
        text_price, image_price, cached_price = self._input_prices
        text, image = usage.input_text_tokens, usage.input_image_tokens
        cached_text = min(usage.cached_tokens, text)
        cached_image = min(usage.cached_tokens - cached_text, image)
        other = max(0, usage.input_tokens - text - image)
        cached = (cached_text + cached_image) * cached_price
        plain = (text - cached_text) * text_price + (image - cached_image) * image_price
        return plain + cached + other * max(text_price, image_price)


@dataclass(frozen=True, slots=True)
class Stated:
    """The provider states the cost in its response."""

    usd_micros_max: int  # limit for one image

    def cost(self, made: MadeImages) -> Micros:
        stated = made.stated_usd_micros
        return made.images * self.usd_micros_max if stated is None else stated

    def is_exact(self, made: MadeImages) -> bool:
        return made.stated_usd_micros is not None


Rate = PerImage | PerVariant | PerMegapixel | PerToken | Stated


@dataclass(frozen=True, slots=True)
class Price:
    """A price of a model, valid from a time on."""

    since_s: int  # Unix seconds; 0 for the first price
    rate: Rate


def rate_at(prices: tuple[Price, ...], now_s: float) -> Rate:
    """Returns the rate at `now_s` (Unix seconds)."""
    return max((price for price in prices if price.since_s <= now_s), key=lambda price: price.since_s).rate


@dataclass(frozen=True, slots=True)
class Offer:
    """What one target charges for a request, and the most that it can make for it."""

    prices: tuple[Price, ...]  # past, current and scheduled ones
    planned: MadeImages


def highest_cost(offers: Iterable[Offer], now_s: float) -> int:
    """Returns the highest cost of a request in micro-dollars, whichever target makes it."""
    return max(math.ceil(rate_at(offer.prices, now_s).cost(offer.planned)) for offer in offers)


class Basis(Enum):
    """What a charge follows from, as records name it."""

    ANSWER = "answer"
    RESERVATION = "reservation"  # the highest case: the response lacks what the price needs
    LIMIT = "limit"  # the highest case, although the response has more


@dataclass(frozen=True, slots=True)
class Bill:
    """The money of one call."""

    charge: Micros  # what the tenant pays for the delivered images
    cost: Micros | None = None  # what the provider takes for those that it made; None if that is not known
    basis: Basis = Basis.ANSWER


@dataclass(frozen=True, slots=True)
class CallPrice:
    """The tariff of one call, which the tenant pays, and its cost, which the provider takes."""

    tariff: Rate
    planned: MadeImages
    cost: Rate | None = None  # None if it is not known

    def bill(self, reply: ImageReply, delivered: int) -> Bill:
        """Prices a response. The tenant pays its share of the images, and never more than was reserved for them."""
        made = replace(
            self.planned,
            images=reply.images,
            quality=reply.quality or self.planned.quality,
            size=reply.made or self.planned.size,
            usage=reply.usage,
            stated_usd_micros=reply.stated_usd_micros,
        )
        charge, highest = self.tariff.cost(made), self.tariff.cost(replace(self.planned, images=made.images))
        basis = Basis.ANSWER if self.tariff.is_exact(made) else Basis.RESERVATION
        basis = Basis.LIMIT if charge > highest else basis
        share = Fraction(delivered, made.images) if made.images else Fraction(0)
        cost: Micros | None = reply.stated_usd_micros
        if cost is None and self.cost and self.cost.is_exact(made):
            cost = self.cost.cost(made)
        return Bill(min(charge, highest) * share, cost, basis)
