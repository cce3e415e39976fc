"""The demo's configuration: which models it offers with which keys."""

from datetime import date

import pytest

from gateway.cli.demo_document import PROVIDERS, build_document
from gateway.config import from_document
from gateway.config.resolve import resolve

TODAY = date(2026, 11, 30)
SECRET = "a-secret-of-a-provider-1234"


def models(*variables: str, today: date = TODAY, simulator: str | None = None) -> dict[str, list[str]]:
    """The models of a valid configuration, with the upstreams of each."""
    environ = dict.fromkeys((*variables, "IMAGEGATE_SIMULATOR_KEY"), SECRET) | {
        "IMAGEGATE_ADMIN_KEY": "q7Zt4mXw9LkPv2RnHs6B"
    }
    document = build_document("redis://localhost", simulator, environ, today)
    catalog = resolve(from_document(document, environ, "demo"), environ).catalog
    found = {name: model for name, model in catalog.names() if name == model.id}
    return {name: [target.upstream for target in model.targets] for name, model in found.items()}


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_key_offers_the_models_of_its_provider(provider: object) -> None:
    [known] = [one for one in PROVIDERS if one is provider]
    offered = {name for name in known.models if name != "gemini-3.1-flash-image"}
    assert {name: [known.name] for name in offered} == models(known.variable)


def test_two_keys_offer_a_model_of_both_at_both() -> None:
    found = models("AI302_API_KEY", "MINIMAX_API_KEY", "STABILITY_API_KEY")
    assert (["302ai", "minimax"], ["stability"]) == (found["image-01"], found["sd3.5-large"])


def test_a_model_is_offered_until_the_day_on_which_it_retires() -> None:
    assert "gemini-3.1-flash-image" in models("GEMINI_API_KEY", today=date(2026, 10, 28))
    assert "gemini-3.1-flash-image" not in models("GEMINI_API_KEY", today=date(2026, 10, 29))


def test_without_a_key_the_simulator_makes_the_images() -> None:
    assert {"image-01": ["simulator"]} == models(simulator="http://127.0.0.1:9")
