"""Client API in OpenAI's images format (reference/openai-images.md)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.api.fields import Generation, ProviderFields, Style, plan_targets, split_fields, without_unsupported
from gateway.api.refusals import (
    header_names,
    refused_value,
    unknown_model,
    unknown_parameter,
    unknown_parameters,
    wrong_value,
)
from gateway.domain.catalog import Catalog, Model, SizePolicy
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    Base64Image,
    Format,
    ImageJob,
    ImageResult,
    InputImage,
    Operation,
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
"""Limits of a size that the closest supported size may replace. OpenAI's longest edge is 3840."""
_RATIO_MAX: Final = 4
"""MiniMax's widest ratio is 4:1 (2048x512). Beyond that the closest size would show a different image."""
_NEAREST: Final = (
    f"each side {_SIDE_MIN} to {_SIDE_MAX} pixels, at most {_RATIO_MAX} to 1. The closest size of another shape "
    "would show a different image"
)
_RESPONSE_FORMATS: Final = {"url": ResponseFormat.URL, "b64_json": ResponseFormat.BASE64}
_WITHOUT_EFFECT: Final = (
    *("quality", "moderation", "complexity", "user", "safety_identifier", "style"),
    *("output_compression", "partial_images"),
)
"""Fields that do not change the content of the image."""
_FORMAT_NAMES: Final = {"jpg": "jpeg"}
"""Common names of formats that are not OpenAI's."""
_COMPRESSED: Final = (Format.JPEG, Format.WEBP)
"""Formats with a quality, which `output_compression` sets (reference/openai-images.md 1.2)."""
_IMAGES: Final = frozenset(
    (
        *("image", "images", "image[]", "mask", "image_url", "image_urls", "input_image", "input_images"),
        *("init_image", "init_images", "mask_image", "control_image", "image_prompt"),
        *("reference_image", "reference_images"),
    )
)
"""Fields for images, OpenAI's and other servers': they are never ignored, because another image would be bought."""
_EDITS: Final = (
    " Images are edited at POST /v1/images/edits. Here, 'subject_reference' takes the image of a person or figure to "
    "show."
)
_DETAILS: Final = {"text_tokens": 0, "image_tokens": 0}
_EVENT_USAGE: Final = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": _DETAILS}
_USAGE: Final = _EVENT_USAGE | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
"""MiniMax counts images, not tokens; clients fail without these keys (reference/openai-images.md section 7)."""
_COMPLETED: Final = {
    Operation.GENERATE: "image_generation.completed",
    Operation.EDIT: "image_edit.completed",
}
_MODERATION_STAGES: Final = {
    ErrorCode.CONTENT_INPUT: "input",
    ErrorCode.CONTENT_OUTPUT: "output",
    ErrorCode.CONTENT_MODERATED: "output",
}
_CREATED: Final = 1_741_737_600
"""2025-03-12, the date of 302.AI's page of image-01. Clients need a fixed integer."""


class RequestFields(ProviderFields):
    """The fields that generations and edits share."""

    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    moderation: Literal["low", "auto"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    style: Literal["vivid", "natural"] | Style | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    stream: bool | None = None
    output_format: str | None = None
    background: str | None = None
    size: str | None = None
    n: Annotated[int, Meta(ge=1, le=IMAGES_MAX)] | None = None
    response_format: str | None = None


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Settings of the OpenAI endpoints."""

    size_policy: SizePolicy = SizePolicy.NEAREST
    refuses_response_format_on_gpt_image: bool = False
    """OpenAI's behaviour. Off by default, as several clients send it (reference/openai-images.md section 7)."""
    default_output_format: Format | None = None
    """Of images in base64; None leaves them as the upstream makes them."""
    delivers_both: bool = True
    """Link and base64 without `response_format`, for all names but gpt-image ones: clients read either."""
    shortens_prompts: bool = False
    ignores_unknown_parameters: bool = False


def is_dall_e(name: str) -> bool:
    """Returns whether the model returns URLs by default and uses `content_policy_violation`."""
    return name.startswith("dall-e-")


def parse_generation(
    body: bytes | bytearray, catalog: Catalog, tenant: Tenant, options: OpenAIOptions, deployment: str | None = None
) -> Generation:
    """Parses the body of a generation request. Every field is mapped, refused, or reported back as ignored.

    Raises: GatewayError for an invalid request, with the parameter's name.
    """
    fields, unknown = split_fields(body, RequestFields)
    return build_generation(fields, unknown, catalog, tenant, options, deployment)


def build_generation(
    fields: RequestFields,
    unknown: Sequence[str],
    catalog: Catalog,
    tenant: Tenant,
    options: OpenAIOptions,
    deployment: str | None,
    edited: tuple[InputImage, ...] = (),
) -> Generation:
    """Builds the job of parsed fields, an edit if there are images to edit, and plans its targets.

    `unknown` are the names of other fields. A `deployment` is the model that Azure's path names. It decides, and
    another `model` in the body is ignored.
    Raises: GatewayError with the parameter that is unknown, invalid, or supported by no target.
    """
    if refused := [name for name in unknown if name in _IMAGES or not options.ignores_unknown_parameters]:
        raise unknown_parameters(refused, "" if edited or _IMAGES.isdisjoint(refused) else _EDITS)
    named = deployment or fields.model
    name = catalog.default.id if named is None else named
    model = catalog.find(name)
    if model is None or (tenant.models is not None and model.id not in tenant.models):
        raise unknown_model(name)
    style = fields.style if isinstance(fields.style, Style) else None
    quality = fields.quality if f"quality.{fields.quality}" in model.fields else None
    delivery, form = _read_output(fields, named, model, options)
    compression = fields.output_compression if form in _COMPRESSED else None
    honoured = {"quality": quality, "style": style, "partial_images": fields.partial_images == 0}
    honoured["output_compression"] = compression is not None
    ignored = [name for name in _WITHOUT_EFFECT if getattr(fields, name) is not None and not honoured.get(name)]
    if fields.model not in {None, name}:
        ignored.append("model")
    size, ratio, pixels = _read_shape(fields, model, options.size_policy)
    job = ImageJob(
        prompt=fields.read_prompt(model.prompt_max_chars, shortens=options.shortens_prompts),
        count=fields.n or 1,
        delivery=delivery,
        size=size,
        aspect_ratio=ratio,
        pixels=pixels,
        quality=quality,
        output_format=form,
        output_compression=compression,
        background=_read_background(fields, model, form),
        seed=fields.seed,
        options=fields.read_options(style),
        operation=Operation.EDIT if edited else Operation.GENERATE,
        inputs=edited or fields.read_inputs(),
    )
    if options.ignores_unknown_parameters:
        job, unsupported = without_unsupported(job, model)
        ignored += [*unsupported, *header_names(unknown)]
    targets, prompt = plan_targets(job, model, options.size_policy), fields.prompt or ""
    cut = (len(job.prompt), len(prompt)) if job.prompt != prompt else None
    return Generation(job, model, targets, name, bool(fields.stream), tuple(ignored), cut)


def _read_shape(fields: RequestFields, model: Model, policy: SizePolicy) -> tuple[Size | None, str | None, Size | None]:
    """Reads `size`, or MiniMax's `aspect_ratio` or `width` and `height`."""
    text, size = fields.size, None
    if text is not None and text != "auto":
        match = _SIZE.fullmatch(text)
        shortest, longest = sorted(map(int, match.groups())) if match else (0, 0)
        if match is None or shortest < _SIDE_MIN or longest > min(_SIDE_MAX, _RATIO_MAX * shortest):
            raise GatewayError(
                ErrorCode.INVALID_VALUE,
                f"Invalid value: '{text[:64]}'. Supported values are: 'auto' and 'WIDTHxHEIGHT', as '1024x1024': "
                f"{_NEAREST if policy is SizePolicy.NEAREST else model.sizes}.",
                param="size",
            )
        size = Size(int(match[1]), int(match[2]))
    ratio, pixels = fields.read_shape(model)
    if size and (ratio or pixels):
        field = "aspect_ratio" if ratio else "width"
        raise refused_value(field, f"'{field}' cannot be combined with 'size'.")
    if ratio and pixels:
        raise refused_value("width", "'width' and 'height' cannot be combined with 'aspect_ratio'.")
    return size, ratio, pixels


def _read_delivery(fields: RequestFields, name: str | None, options: OpenAIOptions) -> ResponseFormat:
    """Reads `response_format`, or chooses what clients of such a request read.

    `output_format` is a field of gpt-image models, whose clients read base64. A stream has base64 alone.
    """
    requested = fields.response_format
    is_gpt_image = name is not None and name.startswith(("gpt-image-", "chatgpt-image-"))
    if requested is not None:
        if is_gpt_image and options.refuses_response_format_on_gpt_image:
            raise unknown_parameter("response_format")
        if fields.stream and requested != "b64_json":
            raise refused_value("response_format", "a stream supports 'b64_json' only.")
        if requested not in _RESPONSE_FORMATS:
            raise wrong_value("response_format", requested, tuple(_RESPONSE_FORMATS))
        return _RESPONSE_FORMATS[requested]
    if fields.stream or is_gpt_image or fields.output_format:
        return ResponseFormat.BASE64
    if options.delivers_both:
        return ResponseFormat.BOTH
    return ResponseFormat.URL if name is None or is_dall_e(name) else ResponseFormat.BASE64


def _read_output(
    fields: RequestFields, name: str | None, model: Model, options: OpenAIOptions
) -> tuple[ResponseFormat, Format | None]:
    """Reads the delivery and the file format. Links lead to the images as made, so the default format is not theirs."""
    delivery, asked = _read_delivery(fields, name, options), fields.output_format
    if asked is None:
        return delivery, None if delivery is ResponseFormat.URL else options.default_output_format
    form = _FORMAT_NAMES.get(asked, asked)
    if form not in model.choices("output_format"):
        raise wrong_value("output_format", asked, model.choices("output_format"))
    return delivery, Format(form)


def _read_background(fields: RequestFields, model: Model, form: Format | None) -> str | None:
    background = fields.background
    if background is None or background == "auto":
        return None
    if background not in model.choices("background"):
        raise wrong_value("background", background, (*model.choices("background"), "auto"))
    if background == "transparent" and form is Format.JPEG:
        raise refused_value("background", "JPEG has no transparency. Set 'output_format' to 'png' or 'webp'.")
    return background


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


def render_events(result: ImageResult, created: int, operation: Operation = Operation.GENERATE) -> Iterable[Chunks]:
    """Renders one `image_generation.completed` or `image_edit.completed` event per image."""
    kind = _COMPLETED[operation]
    tail = {
        "created_at": created,
        "size": str(result.made),
        "quality": "auto",
        "background": "opaque",
        "output_format": _format(result.pictures),
        "usage": _EVENT_USAGE,
    }
    head = f'event: {kind}\ndata: {{"type":"{kind}",'.encode()
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
    link = b'"url":' + msgspec.json.encode(image.url) if image.url else b""
    if isinstance(image, Base64Image):
        return [b"{" + link + (b"," if link else b"") + b'"b64_json":"', image.base64, b'"}']
    return [b"{" + link, b"}"]


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
