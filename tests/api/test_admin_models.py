"""The configured models, as the admin API shows them."""

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, MakeGateway


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
    assert [{"upstream": "sim", "model": "image-01", "max_images_per_call": 9}] == shown["targets"]
    can = shown["capabilities"]
    assert (True, ["jpeg", "png", "webp"], 1499) == (can["edits"], can["output_formats"], can["prompt_max_chars"])
    assert "16:9" in can["aspect_ratios"]
    assert "1024x1024" in can["sizes"][0]
    printed = run("models", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    assert (0, ["painter", "dall-e-3", "yes", "sim", "0.05"]) == (
        printed.returncode,
        printed.stdout.splitlines()[1].split(),
    )
