"""Client API in OpenAI's images format (reference/openai-images.md)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.api.fields import (
    Generation,
    ProviderFields,
    Style,
    parse_fields,
    plan_targets,
    refused_value,
    unknown_model,
    unknown_parameter,
    wrong_value,
)
from gateway.domain.catalog import Catalog, SizePolicy
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    Base64Image,
    Format,
    ImageJob,
    ImageResult,
    Picture,
    ResponseFormat,
    Size,
    sniff_base64,
)
from gateway.domain.tenants import Tenant

Chunks = list[bytes | memoryview]
"""A body: small rendered pieces, and the images as slices of the received bytes."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""An SSE comment, the only keep-alive that every SDK accepts (reference/openai-images.md 3.2)."""
IMAGES_MAX: Final = 10
"""OpenAI's largest `n`."""

_SIZE: Final = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", re.ASCII)
_SIDE_MIN: Final = 64
_SIDE_MAX: Final = 4096
_RATIO_MAX: Final = 4
"""Limits of a size that the closest supported size may replace. OpenAI's longest edge is 3840, and MiniMax's widest
ratio is 4:1 (2048x512). Beyond that the closest size would show a different image."""
_WITHOUT_EFFECT: Final = (
    *("quality", "moderation", "complexity", "user", "safety_identifier", "style"),
    *("output_compression", "partial_images"),
)
"""Fields that do not change the content of the image."""
_DETAILS: Final = {"text_tokens": 0, "image_tokens": 0}
_EVENT_USAGE: Final = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": _DETAILS}
_USAGE: Final = _EVENT_USAGE | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
"""MiniMax counts images, not tokens; clients fail without these keys (reference/openai-images.md section 7)."""
_COMPLETED: Final = "image_generation.completed"
_MODERATION_STAGES: Final = {
    ErrorCode.CONTENT_INPUT: "input",
    ErrorCode.CONTENT_OUTPUT: "output",
    ErrorCode.CONTENT_MODERATED: "output",
}
_CREATED: Final = 1_741_737_600
"""2025-03-12, the date of 302.AI's page of image-01. Clients need a fixed integer."""


class RequestFields(ProviderFields):
    """The body of `POST /v1/images/generations`."""

    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    moderation: Literal["low", "auto"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    style: Literal["vivid", "natural"] | Style | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    stream: bool | None = None
    output_format: Literal["png", "jpeg", "webp", "gif", "svg"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    size: str | None = None
    n: Annotated[int, Meta(ge=1, le=IMAGES_MAX)] | None = None
    response_format: Literal["url", "b64_json"] | None = None


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Settings of the OpenAI endpoints."""

    size_policy: SizePolicy = SizePolicy.NEAREST
    refuses_response_format_on_gpt_image: bool = False
    """OpenAI's behaviour. Off by default, as several clients send it (reference/openai-images.md section 7)."""


def is_dall_e(name: str) -> bool:
    """Returns whether the model returns URLs by default and uses `content_policy_violation`."""
    return name.startswith("dall-e-")


def parse_generation(
    body: bytes | bytearray, catalog: Catalog, tenant: Tenant, options: OpenAIOptions, deployment: str | None = None
) -> Generation:
    """Parses the body of a generation request. Every field is mapped, refused, or reported back as ignored.

    A `deployment` is the model that Azure's path names. It decides, and another `model` in the body is ignored.
    Raises: GatewayError for an invalid request, with the parameter's name.
    """
    fields = parse_fields(body, RequestFields)
    name = deployment or (catalog.default.id if fields.model is None else fields.model)
    model = catalog.find(name)
    if model is None or (tenant.models is not None and model.id not in tenant.models):
        raise unknown_model(name)
    style = fields.style if isinstance(fields.style, Style) else None
    quality = fields.quality if f"quality.{fields.quality}" in model.fields else None
    honoured = {"quality": quality, "style": style, "partial_images": fields.partial_images == 0}
    ignored = [name for name in _WITHOUT_EFFECT if getattr(fields, name) is not None and not honoured.get(name)]
    if fields.model not in {None, name}:
        ignored.append("model")
    form, background = fields.output_format, None if fields.background == "auto" else fields.background
    if form and form not in model.choices("output_format"):
        raise wrong_value("output_format", form, model.choices("output_format"))
    if background and background not in model.choices("background"):
        raise wrong_value("background", background, (*model.choices("background"), "auto"))
    size, ratio, pixels = _read_shape(fields)
    job = ImageJob(
        prompt=fields.read_prompt(model.prompt_max_chars),
        count=fields.n or 1,
        delivery=_read_delivery(fields, name, options),
        size=size,
        aspect_ratio=ratio,
        pixels=pixels,
        quality=quality,
        output_format=form,
        background=background,
        seed=fields.seed,
        options=fields.read_options(style),
        inputs=fields.read_inputs(),
    )
    targets = plan_targets(job, model, options.size_policy)
    return Generation(job, model, targets, name, bool(fields.stream), tuple(ignored))


def _read_shape(fields: RequestFields) -> tuple[Size | None, str | None, Size | None]:
    """Reads `size`, or MiniMax's `aspect_ratio` or `width` and `height`."""
    text, size = fields.size, None
    if text is not None and text != "auto":
        match = _SIZE.fullmatch(text)
        shortest, longest = sorted(map(int, match.groups())) if match else (0, 0)
        if match is None or shortest < _SIDE_MIN or longest > min(_SIDE_MAX, _RATIO_MAX * shortest):
            raise GatewayError(
                ErrorCode.INVALID_VALUE,
                f"Invalid value: '{text[:64]}'. Supported values are: 'auto' and 'WIDTHxHEIGHT', as '1024x1024': "
                f"each side {_SIDE_MIN} to {_SIDE_MAX} pixels, at most {_RATIO_MAX} to 1.",
                param="size",
            )
        size = Size(int(match[1]), int(match[2]))
    ratio, pixels = fields.read_shape()
    if size and (ratio or pixels):
        field = "aspect_ratio" if ratio else "width"
        raise refused_value(field, f"'{field}' cannot be combined with 'size'.")
    if ratio and pixels:
        raise refused_value("width", "'width' and 'height' cannot be combined with 'aspect_ratio'.")
    return size, ratio, pixels


def _read_delivery(fields: RequestFields, name: str, options: OpenAIOptions) -> ResponseFormat:
    requested = fields.response_format
    is_gpt_image = name.startswith(("gpt-image-", "chatgpt-image-"))
    if requested and is_gpt_image and options.refuses_response_format_on_gpt_image:
        raise unknown_parameter("response_format")
    if fields.stream and requested == "url":
        raise refused_value("response_format", "a stream supports 'b64_json' only.")
    is_url = requested == "url" or (requested is None and is_dall_e(name) and not fields.stream)
    return ResponseFormat.URL if is_url else ResponseFormat.BASE64


def render_generation(result: ImageResult, created: int) -> Chunks:
    """Renders a response without streaming. The images are not copied."""
    kind, size = _format(result.pictures), str(result.made)
    tail = {"background": "opaque", "output_format": kind, "size": size, "usage": _USAGE}
    chunks: Chunks = [b'{"created":%d,"data":[' % created]
    for index, image in enumerate(result.pictures):
        chunks.append(b"," if index else b"")
        chunks += _item(image)
    chunks.append(b"]," + msgspec.json.encode(tail)[1:])
    return chunks


def render_events(result: ImageResult, created: int) -> Iterable[Chunks]:
    """Renders one `image_generation.completed` event per image."""
    tail = {
        "created_at": created,
        "size": str(result.made),
        "quality": "auto",
        "background": "opaque",
        "output_format": _format(result.pictures),
        "usage": _EVENT_USAGE,
    }
    head = f'event: {_COMPLETED}\ndata: {{"type":"{_COMPLETED}",'.encode()
    end = b"," + msgspec.json.encode(tail)[1:] + b"\n\n"
    for image in result.pictures:
        first, *middle, last = _item(image)
        yield [head + bytes(first)[1:], *middle, bytes(last)[:-1] + end]


def render_error(error: GatewayError, model_name: str = "") -> bytes:
    """Renders `{"error": {...}}` with all four fields."""
    return msgspec.json.encode({"error": _error(error, model_name)})


def render_error_event(error: GatewayError, model_name: str) -> bytes:
    """Renders an error after the stream has begun. SDKs raise only for a nested `error` (3.3)."""
    body = msgspec.json.encode({"type": "error", "error": _error(error, model_name)})
    return b"event: error\ndata: " + body + b"\n\n"


def render_model(name: str) -> bytes:
    return msgspec.json.encode({"id": name, "object": "model", "created": _CREATED, "owned_by": "minimax"})


def render_models(names: Iterable[str]) -> bytes:
    return b'{"object":"list","data":[' + b",".join(map(render_model, names)) + b"]}"


def _item(image: Picture) -> Chunks:
    if isinstance(image, Base64Image):
        return [b'{"b64_json":"', image.base64, b'"}']
    return [b'{"url":', msgspec.json.encode(image.url), b"}"]


def _format(images: Iterable[Picture]) -> Format:
    """Detects the file format. The default is MiniMax's JPEG (reference/minimax.md 1.4)."""
    kinds = (sniff_base64(image.base64) for image in images if isinstance(image, Base64Image))
    return next((kind for kind in kinds if kind), Format.JPEG)


def _error(error: GatewayError, model_name: str) -> dict[str, object]:
    stage = _MODERATION_STAGES.get(error.error_code)
    body: dict[str, object] = {
        "message": error.message,
        "type": error.row.type,
        "param": error.param,
        "code": error.row.code,
    }
    if stage is None or is_dall_e(model_name):
        return body
    details = {"moderation_stage": stage, "categories": []}
    kind, code = "image_generation_user_error", "moderation_blocked"
    return body | {"type": kind, "code": code, "moderation_details": details}
