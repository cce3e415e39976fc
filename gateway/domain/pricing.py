"""Prices in integer micro-dollars. A request reserves the highest possible cost and settles the actual one."""

import math
from dataclasses import dataclass

from gateway.domain.sizes import Size

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class MadeImages:
    """The images to be priced. An attribute that is None is not known yet: its highest price counts."""

    images: int
    quality: str | None = None
    size: Size | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    stated_usd_micros: int | None = None


@dataclass(frozen=True, slots=True)
class PerImage:
    """One price for every image."""

    usd_micros: int

    def cost(self, made: MadeImages) -> int:
        return made.images * self.usd_micros


@dataclass(frozen=True, slots=True)
class Variant:
    """The price of an image at one quality and size; None matches all."""

    usd_micros: int
    quality: str | None = None
    size: Size | None = None

    def matches(self, made: MadeImages) -> bool:
        return (made.quality is None or self.quality in {None, made.quality}) and (
            made.size is None or self.size in {None, made.size}
        )


@dataclass(frozen=True, slots=True)
class PerVariant:
    """A price by quality or size. An image of no listed variant costs as much as the most expensive one."""

    variants: tuple[Variant, ...]

    def cost(self, made: MadeImages) -> int:
        matching = [variant for variant in self.variants if variant.matches(made)] or self.variants
        return made.images * max(variant.usd_micros for variant in matching)


@dataclass(frozen=True, slots=True)
class PerMegapixel:
    """A price per million pixels, rounded up for each image."""

    usd_micros: int
    largest: Size

    def cost(self, made: MadeImages) -> int:
        size = made.size or self.largest
        return made.images * math.ceil(size.width * size.height * self.usd_micros / _MILLION)


@dataclass(frozen=True, slots=True)
class PerToken:
    """Prices per million tokens, with the token limits of a call and of an image."""

    input_usd_micros: int
    output_usd_micros: int
    input_tokens_max: int
    output_tokens_max: int
    """Limit for one image."""

    def cost(self, made: MadeImages) -> int:
        read = self.input_tokens_max if made.input_tokens is None else made.input_tokens
        written = made.images * self.output_tokens_max if made.output_tokens is None else made.output_tokens
        return math.ceil((read * self.input_usd_micros + written * self.output_usd_micros) / _MILLION)


@dataclass(frozen=True, slots=True)
class Stated:
    """The provider states the cost in its response."""

    usd_micros_max: int
    """Limit for one image."""

    def cost(self, made: MadeImages) -> int:
        stated = made.stated_usd_micros
        return made.images * self.usd_micros_max if stated is None else stated


Rate = PerImage | PerVariant | PerMegapixel | PerToken | Stated


@dataclass(frozen=True, slots=True)
class Price:
    """A price of a model, valid from a time on."""

    since_s: int
    """Unix seconds; 0 for the first price."""
    rate: Rate


def price_at(prices: tuple[Price, ...], now_s: float) -> int:
    """Returns the highest cost of one image in micro-dollars at `now_s` (Unix seconds)."""
    price = max((price for price in prices if price.since_s <= now_s), key=lambda price: price.since_s)
    return price.rate.cost(MadeImages(1))
