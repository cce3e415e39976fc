"""The configured models, as the admin API shows them."""

from datetime import date, timedelta

import msgspec
import pytest

from gateway.api.admin.models import describe_model
from gateway.cli.model_findings import retiring
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.catalog import Capability, Catalog, Model, Target
from gateway.domain.pricing import PerImage, Price
from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, MakeGateway, document, environment, upstream


def test_a_model_has_its_prices_and_what_it_makes_where(make_gateway: MakeGateway) -> None:
    changes = [{"since": "2020-01-01T00:00:00Z", "price_per_image_usd": "0.05"}]
    changes += [{"since": "2999-01-01T00:00:00Z", "price_per_image_usd": "0.07"}]
    targets = [{"upstream": "sim", "model": "image-01"}]
    model = {"id": "painter", "aliases": ["dall-e-3"], "price_per_image_usd": "0.0035", "price_changes": changes}
    gateway = make_gateway(models=[{**model, "targets": targets}])
    [shown] = gateway.admin("GET", "/models").json()["data"]
    assert ("painter", ["dall-e-3"], "0.05") == (shown["id"], shown["aliases"], shown["price_per_image_usd"])
    assert [(None, "0.0035"), (1_577_836_800, "0.05"), (32_472_144_000, "0.07")] == [
        (price["since"], price["price_per_image_usd"]) for price in shown["prices"]
    ]
    [target] = shown["targets"]
    sizes = target.pop("sizes")
    assert ["1024x1024", "any with sides from 512 to 2048 in steps of 8"] == [sizes[0][:9], sizes[1]]
    assert {
        "upstream": "sim",
        "model": "image-01",
        "max_images_per_call": 9,
        "output_formats": ["jpeg", "png", "webp"],
        "edits": True,
        "mask": False,
        "price": "0.05 an image",
        "cost": "0.0035 an image",
        "retires_on": None,
    } == target
    can = shown["capabilities"]
    assert (True, ["jpeg", "png", "webp"], 1499) == (can["edits"], can["output_formats"], can["prompt_max_chars"])
    assert "16:9" in can["aspect_ratios"]
    assert "1024x1024" in can["sizes"][0]
    printed = run("models", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    assert (0, ["painter", "dall-e-3", "sim", "image-01", "9", "yes", "no"]) == (
        printed.returncode,
        printed.stdout.splitlines()[1].split()[:7],
    )


TODAY = date(2026, 11, 30)


@pytest.mark.parametrize(
    ("retires_on", "words"),
    [
        (None, None),
        (TODAY + timedelta(days=61), None),
        (TODAY + timedelta(days=60), "retires on 2027-01-29, in 60 days"),
        (TODAY + timedelta(days=1), "retires on 2026-12-01, in 1 day"),
        (TODAY, "retired on 2026-11-30"),
    ],
)
def test_a_model_that_retires_within_60_days_is_reported(retires_on: date | None, words: str | None) -> None:
    target = Target("up", "old", Capability(()), retires_on=retires_on)
    model = Model("image-01", ("dall-e-3",), (Price(0, PerImage(1)),), (target,))
    expected = f"'old' of upstream 'up' {words}; use another model in [[models.targets]]"
    assert ([("image-01", expected)] if words else []) == list(retiring(Catalog([model]), TODAY))


@pytest.mark.parametrize(
    ("price", "words"),
    [
        (
            {"per": "variant", "variants": [{"quality": "low", "amount": "0.01"}, {"amount": 2}]},
            "0.01 to 2.00 an image",
        ),
        ({"per": "megapixel", "amount": "0.03", "largest_size": "9x9"}, "0.03 a megapixel"),
        (
            {"per": "token", "text_input": 5, "output": 30, "input_tokens_max": 1, "output_tokens_max": 1},
            "5.00 in, 30.00 out a million tokens",
        ),
        ({"per": "answer", "amount_max": "0.2"}, "as stated, at most 0.20 an image"),
    ],
)
def test_a_price_is_told_in_words(price: dict[str, object], words: str) -> None:
    made = document("redis://localhost:1", upstream("sim", "minimax", "http://127.0.0.1:1"))
    made["models"] = [{"id": "m", "price": price, "targets": [{"upstream": "sim", "model": "image-01"}]}]
    model = resolve(from_document(made, {}, "test"), environment(made)).catalog.default
    [target] = msgspec.json.decode(msgspec.json.encode(describe_model(model, 1.0)))["targets"]
    assert words == target["price"]
