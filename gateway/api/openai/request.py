"""Requests of `POST /v1/images/generations` (reference/openai-images.md section 1).

Every field is mapped, refused, or reported back in `Generation.ignored`; none is dropped silently.
"""

import re
from dataclasses import dataclass
from typing import Final

from gateway.api.fields import (
    JsonFields,
    empty,
    missing,
    refused_value,
    too_long,
    unknown_model,
    unknown_parameter,
    wrong_value,
)
from gateway.api.provider_fields import plan_targets, read_inputs, read_options, read_pixels, read_ratio, read_seed
from gateway.domain.catalog import Catalog, Model, PlannedTarget, SizePolicy
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageJob, ResponseFormat, Size
from gateway.domain.tenants import Tenant

IMAGES_MAX: Final = 10
"""OpenAI's largest `n`."""

_SIZE: Final = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", re.ASCII)
_SIDE_MIN: Final = 64
_SIDE_MAX: Final = 4096
_RATIO_MAX: Final = 4
"""Limits of a size that the closest supported size may replace. OpenAI's longest edge is 3840, and MiniMax's widest
ratio is 4:1 (2048x512). Beyond that the closest size would show a different image."""

_QUALITIES: Final = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
_IGNORED_CHOICES: Final = (
    ("quality", _QUALITIES),
    ("moderation", ("low", "auto")),
    ("complexity", ("low", "medium", "high")),
)
_IGNORED_STRINGS: Final = ("user", "safety_identifier")
_FORMATS: Final = ("png", "jpeg", "webp", "gif", "svg")


@dataclass(frozen=True, slots=True)
class Generation:
    """A valid request in OpenAI's format."""

    job: ImageJob
    model: Model
    targets: tuple[PlannedTarget, ...]
    """Targets that can honour the job, in order of preference."""
    name: str
    """The model's name as sent by the caller."""
    is_stream: bool
    ignored: tuple[str, ...]
    """Accepted fields without effect, reported back to the caller."""


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Settings of the OpenAI endpoints."""

    size_policy: SizePolicy = SizePolicy.NEAREST
    refuses_response_format_on_gpt_image: bool = False
    """OpenAI's behaviour. Off by default, as several clients send it (reference/openai-images.md section 7)."""


def is_dall_e(name: str) -> bool:
    """Returns whether the model returns URLs by default and uses `content_policy_violation`."""
    return name.startswith("dall-e-")


def parse_generation(body: bytes | bytearray, catalog: Catalog, tenant: Tenant, options: OpenAIOptions) -> Generation:
    """Parses the body of a generation request.

    Raises: GatewayError for an invalid request, with the parameter's name.
    """
    fields = JsonFields(body)
    model, name = _read_model(fields, catalog, tenant)
    ignored = _read_ignored(fields, model)
    is_stream = fields.boolean("stream") or False
    output_format, background = _read_output(fields, model)
    size, ratio, pixels = _read_shape(fields)
    job = ImageJob(
        prompt=_read_prompt(fields, model),
        count=fields.integer("n", 1, IMAGES_MAX) or 1,
        delivery=_read_delivery(fields, name, options, is_stream=is_stream),
        size=size,
        aspect_ratio=ratio,
        pixels=pixels,
        quality=None if "quality" in ignored else fields.string("quality"),
        output_format=output_format,
        background=background,
        seed=read_seed(fields),
        options=read_options(fields, style_is_mapped=_style_is_object(fields, ignored)),
        inputs=read_inputs(fields),
    )
    fields.reject_unknown()
    targets = plan_targets(job, model, options.size_policy)
    return Generation(job, model, targets, name, is_stream, tuple(ignored))


def _read_model(fields: JsonFields, catalog: Catalog, tenant: Tenant) -> tuple[Model, str]:
    name = fields.string("model")
    if name is None:
        name = catalog.default.id
    model = catalog.find(name)
    if model is None or not tenant.may_use(model.id):
        raise unknown_model(name)
    return model, name


def _read_prompt(fields: JsonFields, model: Model) -> str:
    prompt = fields.string("prompt")
    if prompt is None:
        raise missing("prompt")
    if not prompt.strip():
        raise empty("prompt")
    if len(prompt) > model.prompt_max_chars:
        raise too_long("prompt", model.prompt_max_chars, len(prompt))
    return prompt


def _read_delivery(fields: JsonFields, name: str, options: OpenAIOptions, *, is_stream: bool) -> ResponseFormat:
    requested = fields.choice("response_format", ("url", "b64_json"))
    is_gpt_image = name.startswith(("gpt-image-", "chatgpt-image-"))
    if requested and is_gpt_image and options.refuses_response_format_on_gpt_image:
        raise unknown_parameter("response_format")
    if is_stream:
        if requested == "url":
            raise refused_value("response_format", "a stream supports 'b64_json' only.")
        return ResponseFormat.BASE64
    if requested is None:
        return ResponseFormat.URL if is_dall_e(name) else ResponseFormat.BASE64
    return ResponseFormat.URL if requested == "url" else ResponseFormat.BASE64


def _read_shape(fields: JsonFields) -> tuple[Size | None, str | None, Size | None]:
    """Reads `size`, or MiniMax's `aspect_ratio` or `width` and `height`."""
    size, ratio, pixels = _read_size(fields), read_ratio(fields), read_pixels(fields)
    if size and (ratio or pixels):
        field = "aspect_ratio" if ratio else "width"
        raise refused_value(field, f"'{field}' cannot be combined with 'size'.")
    if ratio and pixels:
        raise refused_value("width", "'width' and 'height' cannot be combined with 'aspect_ratio'.")
    return size, ratio, pixels


def _read_size(fields: JsonFields) -> Size | None:
    text = fields.string("size")
    if text is None or text == "auto":
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise _wrong_size(text)
    width, height = int(match[1]), int(match[2])
    shortest, longest = sorted((width, height))
    if shortest < _SIDE_MIN or longest > _SIDE_MAX or longest > _RATIO_MAX * shortest:
        raise _wrong_size(text)
    return Size(width, height)


def _wrong_size(text: str) -> GatewayError:
    return GatewayError(
        ErrorCode.INVALID_VALUE,
        f"Invalid value: '{text[:64]}'. Supported values are: 'auto' and 'WIDTHxHEIGHT', as '1024x1024': "
        f"each side {_SIDE_MIN} to {_SIDE_MAX} pixels, at most {_RATIO_MAX} to 1.",
        param="size",
    )


def _read_ignored(fields: JsonFields, model: Model) -> list[str]:
    """Reads fields that no upstream of the model supports and that do not change the content of the image."""
    ignored = [name for name, supported in _IGNORED_CHOICES if fields.choice(name, supported) is not None]
    if fields.string("quality") in model.choices("quality"):
        ignored.remove("quality")
    ignored += [name for name in _IGNORED_STRINGS if fields.string(name) is not None]
    if isinstance(fields.value("style"), str):
        fields.choice("style", ("vivid", "natural"))
        ignored.append("style")
    if fields.integer("output_compression", 0, 100) is not None:
        ignored.append("output_compression")
    if fields.integer("partial_images", 0, 3):
        ignored.append("partial_images")
    return ignored


def _style_is_object(fields: JsonFields, ignored: list[str]) -> bool:
    return "style" not in ignored and fields.value("style") is not None


def _read_output(fields: JsonFields, model: Model) -> tuple[str | None, str | None]:
    """Reads file format and background, which change the image: refused if the model does not support them."""
    form = fields.choice("output_format", _FORMATS)
    if form is not None and form not in model.choices("output_format"):
        raise wrong_value("output_format", form, model.choices("output_format"))
    background = fields.choice("background", ("transparent", "opaque", "auto"))
    if background == "auto":
        background = None
    if background is not None and background not in model.choices("background"):
        raise wrong_value("background", background, (*model.choices("background"), "auto"))
    return form, background
