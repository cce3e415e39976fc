"""Reads prices of models and costs of targets: dated rates in micro-dollars, whatever their currency."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final

from gateway.config.problems import Problems
from gateway.config.upstreams import ExchangeRate, Model, RateTable, SettingsError
from gateway.domain.billing import usd_micros
from gateway.domain.images import Size
from gateway.domain.pricing import PerImage, PerMegapixel, PerToken, PerVariant, Price, Rate, Stated, Variant
from gateway.providers.protocol import ModelFacts

_MILLION: Final = 1_000_000
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("amount",),
    "variant": ("variants",),
    "megapixel": ("amount", "largest_size"),
    "token": ("text_input", "output", "input_tokens_max", "output_tokens_max"),
    "answer": ("amount_max",),
}
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {"token": ("image_input", "cached_input")}

_Dated = tuple[int, str, Rate]
"""A rate in a currency, valid from a Unix second on."""


@dataclass(frozen=True, slots=True)
class PriceReader:
    """Reads prices, and converts them by dated exchange rates."""

    exchange_rates: tuple[ExchangeRate, ...]
    problems: Problems

    def model_prices(self, model: Model, where: str) -> tuple[Price, ...]:
        """Returns what the tenants pay; empty if the model leaves that to its targets. Raises: SettingsError."""
        tables = [("", 0, model.price_per_image_usd, model.price)]
        for at, change in enumerate(model.price_changes):
            moment_s = max(0, int(change.since.timestamp()))
            tables.append((f".price_changes[{at}]", moment_s, change.price_per_image_usd, change.price))
        if not model.price_changes and tables[0][2:] == (None, None):
            return ()
        dated: list[_Dated] = []
        for place, since_s, per_image, table in tables:
            at_price = f"{where}{place}"
            if table and per_image is not None:
                raise SettingsError(f"{at_price}.price: price_per_image_usd is set too; remove one of them")
            if table:
                dated.append((since_s, table.currency, read_rate(table, f"{at_price}.price")))
            elif per_image is not None:
                dated.append((since_s, "USD", PerImage(usd_micros(per_image))))
            else:
                self._refuse_missing(at_price, "set it, or a table `price` with another kind of price")
        return self._in_dollars(dated, f"{where}.price.currency")

    def costs(self, table: RateTable | None, facts: ModelFacts | None, where: str) -> tuple[Price, ...]:
        """Returns what the provider takes; empty if that is not known. Raises: SettingsError."""
        if table:
            return self._in_dollars([(0, table.currency, read_rate(table, where))], f"{where}.currency")
        if facts is None or facts.rate is None or not self._has_rate(facts.currency):
            return ()
        return self._in_dollars([(0, facts.currency, facts.rate)], where)

    def check_known(self, model: Model, costs: Mapping[str, tuple[Price, ...]], where: str) -> None:
        """Raises: SettingsError for a model without a price whose targets, by name, have no known cost."""
        if unknown := [name for name, prices in costs.items() if not prices]:
            reason = f"the provider's price of '{unknown[0]}' is not known"
            remedy = f"{reason}; set price_per_image_usd = \"0.0035\" or a table [models.price] of '{model.id}'"
            self._refuse_missing(where, remedy)

    def _refuse_missing(self, where: str, remedy: str) -> None:
        """Raises: SettingsError, unless a price is there and invalid."""
        if self.problems.is_known_to_lack(f"{where}.price", f"{where}.price_per_image_usd"):
            raise SettingsError(f"{where}.price_per_image_usd: missing; {remedy}")

    def _has_rate(self, currency: str) -> bool:
        return currency == "USD" or any(rate.currency == currency for rate in self.exchange_rates)

    def _in_dollars(self, dated: Iterable[_Dated], where: str) -> tuple[Price, ...]:
        """Returns the prices from each moment on at which one or its exchange rate changes.

        The first exchange rate of a currency also applies before its date. Raises: SettingsError if there is none.
        """
        known = sorted(dated, key=lambda one: one[0])
        for _, currency, _ in known:
            if not self._has_rate(currency):
                remedy = f'add [[exchange_rates]] with currency = "{currency}" and usd, the dollars of one'
                raise SettingsError(f"{where}: there is no exchange rate of {currency}; {remedy}")
        moments = {since_s for since_s, _, _ in known} | {_since_s(rate) for rate in self.exchange_rates}
        prices = []
        for moment_s in sorted(moments):
            _, currency, rate = next(one for one in reversed(known) if one[0] <= moment_s)
            prices.append(Price(moment_s, rate if currency == "USD" else self._exchanged(rate, currency, moment_s)))
        return tuple(next(same) for _, same in groupby(prices, key=lambda price: price.rate))

    def _exchanged(self, rate: Rate, currency: str, moment_s: int) -> Rate:
        own = sorted((one for one in self.exchange_rates if one.currency == currency), key=_since_s)
        valid = [one for one in own if _since_s(one) <= moment_s] or own[:1]
        return _scaled(rate, usd_micros(valid[-1].usd))


def read_rate(table: RateTable, where: str) -> Rate:
    """Reads a rate in its currency. Raises: SettingsError with every mistake."""
    if problems := list(_mistakes(table, where)):
        raise SettingsError(*problems)
    match table.per:
        case "image":
            return PerImage(_micros(table.amount))
        case "variant":
            return PerVariant(
                tuple(Variant(_micros(one.amount), one.quality, _size(one.size)) for one in table.variants)
            )
        case "megapixel":
            return PerMegapixel(_micros(table.amount), _size(table.largest_size) or Size(1, 1))
        case "token":
            limits = table.input_tokens_max or 0, table.output_tokens_max or 0
            others = (None if price is None else usd_micros(price) for price in (table.image_input, table.cached_input))
            return PerToken(_micros(table.text_input), _micros(table.output), *limits, *others)
        case "answer":
            return Stated(_micros(table.amount_max))


def _mistakes(table: RateTable, where: str) -> Iterator[str]:
    needed = _NEEDED[table.per]
    for name in needed:
        if getattr(table, name) in {None, ()}:
            yield f'{where}.{name}: missing; per = "{table.per}" needs it'
    every = dict.fromkeys(name for names in (*_NEEDED.values(), *_OPTIONAL.values()) for name in names)
    for name in every:
        if name not in (*needed, *_OPTIONAL.get(table.per, ())) and getattr(table, name) not in {None, ()}:
            others = [per for per in _NEEDED if name in (*_NEEDED[per], *_OPTIONAL.get(per, ()))]
            kinds = " or ".join(f'"{per}"' for per in others)
            yield f'{where}.{name}: per = "{table.per}" does not use it; remove it, or set per = {kinds}'
    known: dict[tuple[str | None, str | None], int] = {}
    for at, variant in enumerate(table.variants):
        key = variant.quality, variant.size
        if key in known:
            yield f"{where}.variants[{at}]: the same quality and size as variants[{known[key]}]; remove one"
        known.setdefault(key, at)


def _micros(amount: str | None) -> int:
    return usd_micros(amount or "0")


def _size(text: str | None) -> Size | None:
    return Size(*map(int, text.split("x"))) if text else None


def _since_s(rate: ExchangeRate) -> int:
    return max(0, int(rate.since.timestamp())) if rate.since else 0


def _scaled(rate: Rate, usd_micros_of_one: int) -> Rate:
    """Converts the amounts of a rate to micro-dollars, rounded up."""
    of = partial(_exchange, usd_micros_of_one)
    match rate:
        case PerImage() | PerMegapixel():
            return replace(rate, usd_micros=of(rate.usd_micros))
        case PerVariant():
            return PerVariant(tuple(replace(one, usd_micros=of(one.usd_micros)) for one in rate.variants))
        case PerToken():
            image, cached = rate.image_input_usd_micros, rate.cached_input_usd_micros
            return replace(
                rate,
                input_usd_micros=of(rate.input_usd_micros),
                output_usd_micros=of(rate.output_usd_micros),
                image_input_usd_micros=None if image is None else of(image),
                cached_input_usd_micros=None if cached is None else of(cached),
            )
        case Stated():
            return Stated(of(rate.usd_micros_max))


def _exchange(usd_micros_of_one: int, amount: int) -> int:
    return -(-amount * usd_micros_of_one // _MILLION)
