"""The configuration of the demo: every provider whose key is in the environment, else the simulator."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from gateway.domain.images import TokenUsage
from gateway.domain.pricing import MadeImages
from gateway.domain.tenants import KEY_PREFIX
from gateway.providers import bfl, fal, google, ideogram, luma, replicate, stability
from gateway.providers.openai.profiles import PROFILES
from gateway.providers.protocol import ModelFacts

_REDIS_TIMEOUT_MS: Final = 2000
"""A machine that runs everything itself may be busy."""
RPM: Final = 600
_SIMULATOR_LIMITS: Final = {"requests_per_minute": RPM, "images_per_minute": 9 * RPM, "max_concurrency": 100}
_ALIASES: Final = ["dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2"]
"""Names of the first model, as clients send them."""
_SIMULATOR_VARIABLE: Final = "IMAGEGATE_SIMULATOR_KEY"
_IMAGE: Final = MadeImages(1, usage=TokenUsage(0, 1290))
"""An image of the largest size that a model with a price per token makes (reference/providers.md section 10)."""
_IMAGE_01_USD: Final = "0.0035"


@dataclass(frozen=True, slots=True)
class DemoProvider:
    """A provider, the variable of its key, and its models: names at the provider by name here."""

    variable: str
    name: str
    base_url: str
    models: Mapping[str, str]
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)
    prices: Mapping[str, str] = field(default_factory=dict)
    """Estimates in USD for an image of models without a rate per image."""


def _of(variable: str, name: str, base_url: str, facts: Mapping[str, ModelFacts]) -> DemoProvider:
    return DemoProvider(variable, name, base_url, {model: model for model in facts}, facts)


def _of_profile(variable: str, name: str, prices: Mapping[str, str]) -> DemoProvider:
    profile = PROFILES[name]
    return DemoProvider(variable, name, profile.base_url, {model: model for model in prices}, profile.facts, prices)


PROVIDERS: Final = (
    DemoProvider("AI302_API_KEY", "302ai", "https://api.302.ai", {"image-01": "minimaxi-image-01"}),
    DemoProvider("MINIMAX_API_KEY", "minimax", "https://api.minimax.io", {"image-01": "image-01"}),
    _of("STABILITY_API_KEY", "stability", "https://api.stability.ai", stability.MODELS),
    _of("GEMINI_API_KEY", "google", "https://generativelanguage.googleapis.com", google.MODELS),
    _of("IDEOGRAM_API_KEY", "ideogram", "https://api.ideogram.ai", ideogram.MODELS),
    _of("LUMA_API_KEY", "luma", "https://agents.lumalabs.ai", luma.MODELS),
    # A megapixel (reference/providers.md 4.1).
    DemoProvider(
        *("BFL_API_KEY", "bfl", "https://api.bfl.ai", {model: model for model in bfl.MODELS}, bfl.MODELS),
        dict.fromkeys(bfl.MODELS, "0.03")
        | {"flux-2-max": "0.07", "flux-2-flex": "0.05", "flux-pro-1.1": "0.04"}
        | {"flux-2-klein-4b": "0.014", "flux-2-klein-9b": "0.015", "flux-2-klein-9b-preview": "0.015"}
        | {"flux-kontext-pro": "0.04", "flux-kontext-max": "0.08"},
    ),
    # Two megapixels, as a square counts as more than one (reference/providers.md 4.2).
    DemoProvider(
        *("FAL_KEY", "fal", "https://queue.fal.run", {model: model for model in fal.MODELS}),
        {model: known.facts for model, known in fal.MODELS.items()},
        {"fal-ai/flux/dev": "0.05", "fal-ai/flux/schnell": "0.006", "fal-ai/flux-pro/v1.1": "0.08"},
    ),
    DemoProvider(
        *("REPLICATE_API_TOKEN", "replicate", "https://api.replicate.com"),
        {model: model for model, known in replicate.MODELS.items() if known.facts.rate},
        {model: known.facts for model, known in replicate.MODELS.items()},
    ),
    # A square of the highest quality of 2; the others can cost as much (reference/providers.md 1.2).
    _of_profile(
        *("OPENAI_API_KEY", "openai"),
        dict.fromkeys(("gpt-image-2.5-flare", "gpt-image-2.5-sunburst", "gpt-image-2"), "0.211"),
    ),
    # Resellers' prices, or yuan at 0.14 USD (reference/providers.md sections 9, 12, 13 and 7).
    _of_profile(
        *("ARK_API_KEY", "ark"),
        {
            "doubao-seedream-5-0-260128": "0.035",
            "doubao-seedream-5-0-pro-260628": "0.09",
            "doubao-seedream-4-5-251128": "0.035",
            "doubao-seedream-4-0-250828": "0.028",
        },
    ),
    _of_profile("ZHIPU_API_KEY", "zhipu", {"glm-image": "0.014", "cogview-4": "0.0084", "cogview-3-flash": "0"}),
    _of_profile("QIANFAN_API_KEY", "qianfan", {"qwen-image": "0.035", "musesteamer-air-image": "0.007"}),
    _of_profile("RECRAFT_API_KEY", "recraft", {"recraftv4_1": "0.04", "recraftv4_1_pro": "0.25", "recraftv3": "0.04"}),
)


def find_providers(environ: Mapping[str, str]) -> list[DemoProvider]:
    """Returns the providers whose keys are in the environment. A client's OPENAI_API_KEY may be this gateway's own."""
    keys = [(provider, environ.get(provider.variable, "")) for provider in PROVIDERS]
    return [provider for provider, key in keys if key and not key.startswith(KEY_PREFIX)]


def build_document(
    redis_url: str, simulator_url: str | None, environ: Mapping[str, str], today: date
) -> dict[str, object]:
    """Builds the configuration. A model that its provider refuses from `today` on is left out."""
    chosen = find_providers(environ)
    if simulator_url:
        chosen = [DemoProvider(_SIMULATOR_VARIABLE, "minimax", simulator_url, {"image-01": "image-01"})]
    return {
        "redis": {"url": redis_url, "timeout_ms": _REDIS_TIMEOUT_MS},
        "admin": {"key": {"env": "IMAGEGATE_ADMIN_KEY"}},
        "upstreams": [_upstream(provider, is_simulator=bool(simulator_url)) for provider in chosen],
        "models": list(_models(chosen, "simulator" if simulator_url else "", today)),
    }


def _upstream(provider: DemoProvider, *, is_simulator: bool) -> dict[str, object]:
    account: dict[str, object] = {"name": "demo", "keys": [{"name": "demo-1", "secret": {"env": provider.variable}}]}
    url = provider.base_url
    upstream: dict[str, object] = {"name": provider.name, "provider": provider.name, "base_url": url}
    if is_simulator:
        account |= _SIMULATOR_LIMITS
        upstream |= {"name": "simulator", "result_hosts": [url]}
    return upstream | {"accounts": [account]}


def _models(chosen: Iterable[DemoProvider], upstream: str, today: date) -> Iterator[dict[str, object]]:
    """Yields each model once, with its targets at all providers. The first one has the names that clients know."""
    targets: dict[str, list[dict[str, str]]] = {}
    prices: dict[str, str] = {}
    for provider in chosen:
        for name, native in provider.models.items():
            facts = provider.facts.get(name)
            if facts is None or facts.retires_on is None or facts.retires_on > today:
                targets.setdefault(name, []).append({"upstream": upstream or provider.name, "model": native})
                prices.setdefault(name, provider.prices.get(name) or _price(facts))
    for index, (name, offered) in enumerate(targets.items()):
        model: dict[str, object] = {"id": name, "price_per_image_usd": prices[name], "targets": offered}
        yield model if index else model | {"aliases": [alias for alias in _ALIASES if alias not in targets]}


def _price(facts: ModelFacts | None) -> str:
    """Returns the price of an image in USD: what the provider takes."""
    if facts is None or facts.rate is None:
        return _IMAGE_01_USD
    return f"{float(facts.rate.cost(_IMAGE) / 1_000_000):.6f}"
