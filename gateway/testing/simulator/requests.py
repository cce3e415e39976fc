"""Requests: MiniMax's rules for every field, and the resulting pixels."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.parsing import describe

MODELS_BY_PATH: Final = {
    "/v1/image_generation": frozenset({"image-01", "image-01-live"}),
    "/minimaxi/v1/image_generation": frozenset({"minimaxi-image-01"}),
}
PROMPT_LIMIT_CHARS: Final = 1500  # the live text says "less than", so 1499 is the longest prompt
PIXELS: Final = {
    "1:1": (1024, 1024),
    "16:9": (1280, 720),
    "4:3": (1152, 864),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "3:4": (864, 1152),
    "9:16": (720, 1280),
    "21:9": (1344, 576),
}


class Style(msgspec.Struct, frozen=True):
    """Style of image-01-live: comic, lively, medieval or watercolour."""

    style_type: Literal["漫画", "元气", "中世纪", "水彩"]
    style_weight: Annotated[float, Meta(gt=0, le=1)] = 0.8


class Reference(msgspec.Struct, frozen=True):
    """A portrait of the person to show."""

    type: Literal["character"]
    image_file: Annotated[str, Meta(min_length=1)]


class ImageRequest(msgspec.Struct, frozen=True):
    """The fields that MiniMax documents; unknown ones are ignored."""

    model: str
    prompt: Annotated[str, Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=9)] = 1
    aspect_ratio: str | None = None
    width: int | None = None
    height: int | None = None
    response_format: Literal["url", "base64"] = "url"
    seed: int | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    style: Style | None = None
    subject_reference: list[Reference] | None = None

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height; an aspect ratio overrides pixels, which only image-01 accepts."""
        if self.aspect_ratio is not None:
            return PIXELS[self.aspect_ratio]
        if self.width is None or self.height is None or self.model == "image-01-live":
            return PIXELS["1:1"]
        return self.width, self.height


def parse_request(body: object, path: str) -> ImageRequest:
    """Validates a parsed body by the rules of the route.

    Raises: RefusedError 2013, naming the first error.
    """
    if not isinstance(body, dict):
        raise _invalid("body must be a JSON object")
    try:
        order = msgspec.convert(body, ImageRequest)
    except msgspec.ValidationError as error:
        raise _invalid(describe(error)) from error
    if order.model not in MODELS_BY_PATH[path]:
        raise _invalid("model is unknown")
    if len(order.prompt) >= PROMPT_LIMIT_CHARS:
        raise _invalid(f"prompt length must be less than {PROMPT_LIMIT_CHARS}")
    _check_size(order)
    return order


def _check_size(order: ImageRequest) -> None:
    if order.aspect_ratio is not None:
        if order.aspect_ratio not in PIXELS or (order.aspect_ratio == "21:9" and order.model == "image-01-live"):
            raise _invalid("aspect_ratio is not supported")
        return
    if order.width is None and order.height is None:
        return
    for name, side in (("width", order.width), ("height", order.height)):
        if side is None:
            raise _invalid(f"{name} is missing, width and height must come together")
        if not 512 <= side <= 2048 or side % 8:
            raise _invalid(f"{name} must be in 512..2048 and a multiple of 8")


def _invalid(what: str) -> RefusedError:
    return RefusedError(INVALID_PARAMS, f"invalid params, {what}")
