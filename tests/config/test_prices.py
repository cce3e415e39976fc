"""Prices of models and costs of targets in the configuration: what they resolve to, and the messages of wrong ones."""

from typing import Any

import pytest

from gateway.config import SettingsError, from_document
from gateway.config.resolve import resolve
from gateway.domain.catalog import Model
from gateway.domain.images import Size
from gateway.domain.pricing import PerImage, PerMegapixel, PerToken, PerVariant, Price, Stated, Variant
from tests.support.harness import document, environment, upstream

DIRECT = upstream("direct", "minimax", "http://127.0.0.1:1", "one:k1")
MIRROR = upstream("mirror", "302ai", "http://127.0.0.1:2", "one:k2")
JANUARY, MARCH = 1_798_761_600, 1_803_859_200
TOKENS = {"per": "token", "text_input": "5", "output": 30, "input_tokens_max": 2000, "output_tokens_max": 8000}
CNY = {"currency": "CNY", "usd": "0.14"}


def resolved(
    target: dict[str, object] | None = None, rates: list[dict[str, str]] | None = None, **model: object
) -> Model:
    """The model of a configuration; `target` has fields of its first target."""
    made: dict[str, Any] = document("redis://localhost:1", DIRECT, MIRROR)
    table: dict[str, Any] = made["models"][0]
    del table["price_per_image_usd"]
    table |= model
    table["targets"] = [{"upstream": "direct", "model": "image-01"} | (target or {})]
    made["exchange_rates"] = rates or []
    return resolve(from_document(made, {}, "gate.toml"), environment(made)).catalog.default


def refusal(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        resolved(**given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"per": "image", "amount": "0.04"}, PerImage(40_000)),
        ({"per": "megapixel", "amount": 0.03, "largest_size": "2048x1024"}, PerMegapixel(30_000, Size(2048, 1024))),
        (TOKENS, PerToken(5_000_000, 30_000_000, 2000, 8000)),
        (
            TOKENS | {"image_input": "8", "cached_input": "1.25"},
            PerToken(5_000_000, 30_000_000, 2000, 8000, 8_000_000, 1_250_000),
        ),
        ({"per": "answer", "amount_max": "0.2"}, Stated(200_000)),
        (
            {
                "per": "variant",
                "variants": [{"quality": "low", "amount": "0.01"}, {"size": "512x512", "amount": "0.02"}],
            },
            PerVariant((Variant(10_000, "low"), Variant(20_000, None, Size(512, 512)))),
        ),
        ({"per": "image", "amount": "0.000001", "currency": "CNY"}, PerImage(1)),
        (
            TOKENS | {"currency": "CNY", "image_input": "10"},
            PerToken(700_000, 4_200_000, 2000, 8000, 1_400_000),
        ),
    ],
)
def test_a_price_has_one_of_five_kinds(table: dict[str, object], expected: object) -> None:
    model = resolved(price=table, rates=[CNY])
    assert (Price(0, expected),) == model.prices  # type: ignore[arg-type]


def test_prices_and_exchange_rates_change_on_their_dates() -> None:
    """The first exchange rate of a currency also applies before its date."""
    yuan = {"per": "image", "amount": "0.1", "currency": "CNY"}
    rates = [
        CNY | {"since": "2027-01-01T00:00:00Z"},
        {"currency": "CNY", "usd": "0.2", "since": "2027-03-01T00:00:00Z"},
    ]
    change = {"since": "2027-01-01T00:00:00Z", "price": yuan}
    model = resolved(price_per_image_usd="1", price_changes=[change], rates=rates)
    assert (
        Price(0, PerImage(1_000_000)),
        Price(JANUARY, PerImage(14_000)),
        Price(MARCH, PerImage(20_000)),
    ) == model.prices
    early = resolved(price=yuan, rates=rates[1:])
    assert (Price(0, PerImage(20_000)),) == early.prices


def test_without_a_price_tenants_pay_what_the_provider_takes() -> None:
    known, given = resolved(), resolved({"cost": {"per": "image", "amount": "0.5"}})
    assert ((), (Price(0, PerImage(3500)),)) == (known.prices, known.prices_at(known.targets[0]))
    assert (Price(0, PerImage(500_000)),) == given.prices_at(given.targets[0])
    priced = resolved(price_per_image_usd="0.01")
    assert (Price(0, PerImage(10_000)),) == priced.prices_at(priced.targets[0])
    assert (Price(0, PerImage(3500)),) == priced.targets[0].costs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"target": {"upstream": "mirror", "model": "minimaxi-image-01"}},
            "models[0].price_per_image_usd: missing; the provider's price of 'minimaxi-image-01' is not known; set",
        ),
        ({"price_changes": [{"since": "2027-01-01T00:00:00Z"}]}, "models[0].price_per_image_usd: missing; set it"),
        (
            {"price_per_image_usd": "1", "price_changes": [{"since": "2027-01-01T00:00:00Z"}]},
            "models[0].price_changes[0].price_per_image_usd: missing; set it, or a table `price`",
        ),
        (
            {"price_per_image_usd": "1", "price": {"per": "image", "amount": "1"}},
            "models[0].price: price_per_image_usd is set too; remove one of them",
        ),
        (
            {"price": {"per": "pixel"}},
            "models[0].price.per: Invalid enum value 'pixel'; expected one of image, variant, megapixel, token, answer",
        ),
        ({"price": {"per": "image"}}, 'models[0].price.amount: missing; per = "image" needs it'),
        ({"price": TOKENS | {"output": "x"}}, "models[0].price.output: expected a non-negative decimal"),
        (
            {"price": TOKENS | {"amount": "1"}},
            'models[0].price.amount: per = "token" does not use it; remove it, or set per = "image" or "megapixel"',
        ),
        (
            {"price": {"per": "variant", "variants": [{"amount": "1"}, {"amount": "2"}]}},
            "models[0].price.variants[1]: the same quality and size as variants[0]; remove one",
        ),
        (
            {"price": {"per": "image", "amount": "1", "currency": "CNY"}},
            "models[0].price.currency: there is no exchange rate of CNY; add [[exchange_rates]]",
        ),
        (
            {"target": {"cost": {"per": "answer"}}, "price_per_image_usd": "1"},
            'models[0].targets[0].cost.amount_max: missing; per = "answer" needs it',
        ),
        (
            {"price": {"per": "megapixel", "amount": "1", "largest_size": "1x"}},
            "models[0].price.largest_size: expected WIDTHxHEIGHT",
        ),
    ],
)
def test_a_wrong_price_is_refused_with_its_place_and_the_remedy(given: dict[str, Any], words: str) -> None:
    told = refusal(**given)
    assert words in told
    assert 1 == len(told.splitlines()), told


def test_two_exchange_rates_from_one_moment_are_refused() -> None:
    assert "exchange_rates[1].since: duplicate date 'CNY None', as exchange_rates[0].since has" in refusal(
        rates=[CNY, CNY]
    )
