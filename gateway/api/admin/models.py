"""`/admin/v1/models`: the configured models, with their prices, what they make, and where."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor
from gateway.domain.billing import usd
from gateway.domain.catalog import Catalog, Model
from gateway.domain.pricing import MadeImages, Offer, highest_cost


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
        "targets": [
            {
                "upstream": target.upstream,
                "model": target.model,
                "max_images_per_call": target.capability.max_images_per_call,
            }
            for target in model.targets
        ],
    }
