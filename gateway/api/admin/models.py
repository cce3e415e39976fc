"""`/admin/v1/models`: the configured models, with their prices, what they make, and where."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor
from gateway.domain.billing import usd
from gateway.domain.catalog import EMULATED_FIELDS, Catalog, Model, Target
from gateway.domain.pricing import (
    MadeImages,
    Offer,
    PerImage,
    PerMegapixel,
    PerToken,
    PerVariant,
    Rate,
    Stated,
    highest_cost,
    rate_at,
)

_FORMAT: Final = "output_format."


@dataclass(frozen=True, slots=True, repr=False)
class ModelSection:
    """The route of models."""

    catalog: Catalog
    clock: Callable[[], float]

    def handlers(self) -> Handlers:
        return {"/models": {"GET": self.list_models}}

    async def list_models(self, _: Request, __: Actor) -> Response:
        """Returns every model in the order of the configuration. Redis: not used."""
        models = {model.id: model for _, model in self.catalog.names()}
        return json_response({"data": [describe_model(model, self.clock()) for model in models.values()]})


def describe_model(model: Model, now_s: float) -> dict[str, object]:
    """Describes a model. A capability is in the list if at least one target has it."""
    offers = [Offer(model.prices_at(target), MadeImages(1)) for target in model.targets]
    moments = sorted({price.since_s for offer in offers for price in offer.prices})
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "price_per_image_usd": usd(highest_cost(offers, now_s)),
        "prices": [
            {"since": since_s or None, "price_per_image_usd": usd(highest_cost(offers, since_s))} for since_s in moments
        ],
        "capabilities": {
            "sizes": list(dict.fromkeys(str(rule) for target in model.targets for rule in target.capability.sizes)),
            "aspect_ratios": list(model.aspect_ratios),
            "output_formats": model.choices("output_format"),
            "edits": bool(model.edits),
            "prompt_max_chars": max((target.capability.prompt_max_chars for target in model.targets), default=0),
        },
        "prefers_cheapest": model.prefers_cheapest,
        "targets": [_describe_target(model, target, now_s) for target in model.targets],
    }


def _describe_target(model: Model, target: Target, now_s: float) -> dict[str, object]:
    able = target.capability
    return {
        "upstream": target.upstream,
        "model": target.model,
        "max_images_per_call": able.max_images_per_call,
        "sizes": [str(rule) for rule in able.sizes],
        "output_formats": sorted(
            name.removeprefix(_FORMAT) for name in able.fields | EMULATED_FIELDS if name.startswith(_FORMAT)
        ),
        "edits": able.edits is not None,
        "mask": able.edits is not None and able.edits.supports_mask,
        "price": _describe_rate(rate_at(model.prices_at(target), now_s)),
        "cost": _describe_rate(rate_at(target.costs, now_s)) if target.costs else None,
        "retires_on": target.retires_on,
    }


def _describe_rate(rate: Rate) -> str:
    """Describes a rate in dollars."""
    match rate:
        case PerImage():
            return f"{usd(rate.usd_micros)} an image"
        case PerVariant():
            prices = [variant.usd_micros for variant in rate.variants]
            return f"{usd(min(prices))} to {usd(max(prices))} an image"
        case PerMegapixel():
            return f"{usd(rate.usd_micros)} a megapixel"
        case PerToken():
            return f"{usd(rate.input_usd_micros)} in, {usd(rate.output_usd_micros)} out a million tokens"
        case Stated():
            return f"as stated, at most {usd(rate.usd_micros_max)} an image"
