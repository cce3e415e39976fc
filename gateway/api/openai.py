"""Requests in OpenAI's images format (reference/openai-images.md)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.api.fields import Generation, Metadata, ProviderFields, Style, split_fields
from gateway.api.openai_responses import is_dall_e
from gateway.api.refusals import (
    header_names,
    refused_value,
    unknown_model,
    unknown_parameter,
    unknown_parameters,
    wrong_value,
)
from gateway.api.targets import plan_targets, without_unsupported
from gateway.domain.catalog import Catalog, Model
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    Format,
    ImageJob,
    InputImage,
    Operation,
    ResponseFormat,
    Size,
)
from gateway.domain.sizes import SizePolicy
from gateway.domain.tenants import Tenant

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
_WITHOUT_EFFECT: Final = (*("quality", "moderation", "complexity", "style", "output_compression", "partial_images"),)
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


class RequestFields(ProviderFields):
    """The fields that generations and edits share."""

    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    moderation: Literal["low", "auto"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Metadata | None = None
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
    job, ignored = _read_job(fields, named, model, options, edited)
    if fields.model not in {None, name}:
        ignored.append("model")
    if options.ignores_unknown_parameters:
        job, unsupported = without_unsupported(job, model)
        ignored += [*unsupported, *header_names(unknown)]
    targets, prompt = plan_targets(job, model, options.size_policy, name), fields.prompt or ""
    cut = (len(job.prompt), len(prompt)) if job.prompt != prompt else None
    user, metadata = fields.safety_identifier or fields.user or "", fields.metadata or {}
    if fields.user not in {None, user}:
        ignored.append("user")
    return Generation(job, model, targets, name, bool(fields.stream), tuple(ignored), cut, metadata, user)


def _read_job(
    fields: RequestFields, name: str | None, model: Model, options: OpenAIOptions, edited: tuple[InputImage, ...]
) -> tuple[ImageJob, list[str]]:
    """Returns the job, and the names of the fields without effect. `name` is the model as the client wrote it."""
    style = fields.style if isinstance(fields.style, Style) else None
    quality = fields.quality if f"quality.{fields.quality}" in model.fields else None
    delivery, form = _read_output(fields, name, model, options)
    compression = fields.output_compression if form in _COMPRESSED else None
    moderation = fields.moderation if f"moderation.{fields.moderation}" in model.fields else None
    honoured = {"quality": quality, "style": style, "partial_images": fields.partial_images == 0}
    honoured["moderation"] = moderation
    honoured["output_compression"] = compression is not None
    ignored = [field for field in _WITHOUT_EFFECT if getattr(fields, field) is not None and not honoured.get(field)]
    size, ratio, pixels = _read_shape(fields, model, options.size_policy, name or model.id)
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
        moderation=moderation,
        end_user=fields.safety_identifier or fields.user or "",
        seed=fields.seed,
        options=fields.read_options(style),
        operation=Operation.EDIT if edited else Operation.GENERATE,
        inputs=edited or fields.read_inputs(),
    )
    return job, ignored


def _read_shape(
    fields: RequestFields, model: Model, policy: SizePolicy, name: str
) -> tuple[Size | None, str | None, Size | None]:
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
    ratio, pixels = fields.read_shape(model, name)
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
