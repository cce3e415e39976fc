"""Parses JSON bodies into typed fields, with OpenAI's own errors (reference/openai-images.md section 1.4).

`null` means absent everywhere, and of two equal names the last counts. No field is dropped silently.
"""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from gateway.domain.catalog import Model, PlannedTarget, SizePolicy
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import URL_MAX_CHARS, Format, ImageJob, InputImage, Operation, Role, Size
from gateway.providers.minimax import FIELDS, PIXELS, PRESETS
from gateway.providers.replies import JSON_DECODE_ERRORS

STYLES: Final = ("漫画", "元气", "中世纪", "水彩")
_ROLE: Final = Role.CHARACTER
_NAMES: Final = {own: name for name, own in FIELDS.items()}
"""Optional fields, by their name in client requests."""
_REFERENCES_MAX: Final = 16
"""MiniMax documents 1 reference for these models, and 16 for edits (reference/minimax.md 1.2 and 1.5)."""
_NULL: Final = msgspec.Raw(b"null")
_SHOWN_MAX_CHARS: Final = 64
_STRUCTURE: Final = (b'"', b",")
_STRUCTURE_MAX: Final = 20_000
"""Limit on commas and quotes in a body, including those in strings. A common body has tens, its prompt up to 1499.
16 MiB of them would parse into objects that take seconds and hundreds of megabytes.
"""
_OUT_OF_BOUNDS: Final = re.compile(r"Expected `int` ((>|<)= -?\d+)")
_BOUNDS: Final = {
    ">": (ErrorCode.INTEGER_BELOW_MIN, "below minimum"),
    "<": (ErrorCode.INTEGER_ABOVE_MAX, "above maximum"),
}
_NOT_MULTIPLE: Final = re.compile(r"Expected `int` that's (a multiple of \d+)")
_WRONG_TYPE: Final = re.compile(r"Expected `(\w+)[^`]*`, got `(\w+)`")
_KINDS: Final = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a decimal number",
    "str": "a string",
    "array": "an array",
    "object": "an object",
}
"""JSON's types by msgspec's names."""
_IMAGES: Final = "a URL, an object with 'image_url', or an array of these"
_EXPECTED: Final = {
    "subject_reference": "an array of objects with 'type' and 'image_file'",
    "image": _IMAGES,
    "images": _IMAGES,
    "mask": "a URL or an object with 'image_url'",
}
"""Forms of the fields whose parts may be wrong."""
_Side = Annotated[int, Meta(ge=PIXELS.side_min, le=PIXELS.side_max, multiple_of=PIXELS.step)]
_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Generation:
    """A valid request for images, in either client format."""

    job: ImageJob
    model: Model
    targets: tuple[PlannedTarget, ...]
    """Targets that can honour the job, in order of preference."""
    name: str
    """The model's name as sent by the caller."""
    is_stream: bool = False
    ignored: tuple[str, ...] = ()
    """Accepted fields without effect, reported back to the caller."""


class Style(msgspec.Struct, forbid_unknown_fields=True):
    """MiniMax's style of image-01-live."""

    style_type: str
    style_weight: int | float | msgspec.UnsetType = msgspec.UNSET


class _SubjectReference(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    image_file: str


class ProviderFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """MiniMax's fields, which both client formats have (reference/minimax.md 1.2)."""

    model: str | None = None
    aspect_ratio: str | None = None
    width: _Side | None = None
    height: _Side | None = None
    prompt: str | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    subject_reference: list[_SubjectReference] | None = None

    def read_prompt(self, max_chars: int) -> str:
        if self.prompt is None:
            raise missing("prompt")
        message = "Invalid 'prompt': {}. Expected a string with {}, but got {} instead."
        if not self.prompt.strip():
            text = message.format("empty string", "minimum length 1", "an empty string")
            raise GatewayError(ErrorCode.EMPTY_STRING, text, param="prompt")
        if len(self.prompt) > max_chars:
            got = f"a string with length {len(self.prompt)}"
            text = message.format("string too long", f"maximum length {max_chars}", got)
            raise GatewayError(ErrorCode.STRING_TOO_LONG, text, param="prompt")
        return self.prompt

    def read_shape(self, *, prefers_ratio: bool = False) -> tuple[str | None, Size | None]:
        """Returns `aspect_ratio`, and `width` and `height`, which must be set together.

        `prefers_ratio` ignores the latter two if there is a ratio.
        """
        ratio, width, height = self.aspect_ratio, self.width, self.height
        if ratio is not None and ratio not in PRESETS:
            raise wrong_value("aspect_ratio", ratio, tuple(PRESETS))
        if (ratio and prefers_ratio) or (width is None and height is None):
            return ratio, None
        if width is None or height is None:
            raise missing("width" if width is None else "height")
        return ratio, Size(width, height)

    def read_options(self, style: Style | None) -> dict[str, bytes]:
        """Returns the MiniMax options that are set, encoded again: parsers differ on duplicate names."""
        values = {"prompt_optimizer": self.prompt_optimizer, "aigc_watermark": self.aigc_watermark, "style": style}
        if style:
            is_weight_valid = style.style_weight is msgspec.UNSET or 0 < style.style_weight <= 1
            if style.style_type not in STYLES or not is_weight_valid:
                raise refused_value(
                    "style", f"'style_type' must be one of {', '.join(STYLES)} and 'style_weight' in (0, 1]."
                )
        return {FIELDS[name]: msgspec.json.encode(value) for name, value in values.items() if value is not None}

    def read_inputs(self) -> tuple[InputImage, ...]:
        """Returns the images of `subject_reference`."""
        references = self.subject_reference
        if references is None:
            return ()
        if not references:
            raise refused_value("subject_reference", "the array is empty.")
        if len(references) > _REFERENCES_MAX:
            raise refused_value("subject_reference", f"expected {_REFERENCES_MAX} references at most.")
        for reference in references:
            link = reference.image_file
            is_image_file = is_url(link) or (link.startswith("data:image/") and link.isprintable())
            if reference.type != _ROLE.value or not is_image_file:
                raise refused_value(
                    "subject_reference",
                    f"'type' must be 'character' and 'image_file' a URL of at most {URL_MAX_CHARS} characters or a "
                    "data:image/ URL, without control characters.",
                )
        return tuple(InputImage(_ROLE, msgspec.json.encode(reference.image_file)) for reference in references)


def is_url(link: str) -> bool:
    return link.startswith(("http://", "https://")) and len(link) <= URL_MAX_CHARS and link.isprintable()


def plan_targets(job: ImageJob, model: Model, policy: SizePolicy) -> tuple[PlannedTarget, ...]:
    """Chooses the targets that can honour a job. Raises: GatewayError with the field that none supports."""
    if targets := model.plan(job, policy):
        return targets
    if job.operation is Operation.EDIT:
        _check_edit(job.inputs, model)
    for name in sorted(_NAMES.get(field, field) for field in job.fields - model.fields):
        raise unknown_parameter(name, f" No upstream of model '{model.id}' supports it.")
    name = "size" if job.size else "aspect_ratio" if job.aspect_ratio else "width" if job.pixels else "model"
    raise refused_value(name, f"no upstream of model '{model.id}' supports this combination of parameters.")


def _check_edit(inputs: tuple[InputImage, ...], model: Model) -> None:
    """Raises: GatewayError with the input that no target takes."""
    rules, who, images = model.edits, f"model '{model.id}'", [image for image in inputs if image.role is Role.IMAGE]
    if not rules:
        raise refused_value("model", f"{who} does not edit images. POST /v1/images/generations makes new ones.")
    if len(images) < len(inputs) and not any(rule.supports_mask for rule in rules):
        raise refused_value("mask", f"{who} does not support masks.")
    if len(images) > (most := max(rule.images_max for rule in rules)):
        raise refused_value("image", f"{who} takes {most} image{'s' * (most > 1)} per edit, but got {len(images)}.")
    formats = sorted(kind.value for kind in frozenset[Format]().union(*(rule.formats for rule in rules)))
    max_bytes = max(rule.image_max_bytes for rule in rules)
    for image in inputs:
        if image.format and image.format.value not in formats:
            listed = " and ".join(f"'{kind}'" for kind in formats)
            raise refused_value(image.role.value, f"{who} takes images as {listed}, but got '{image.format.value}'.")
        if image.size_bytes > max_bytes:
            got = f"but got {image.size_bytes}"
            raise refused_value(image.role.value, f"{who} takes images of at most {max_bytes} bytes, {got}.")


def parse_fields(body: bytes | bytearray, kind: type[_T], overridden: Collection[str] = ()) -> _T:
    """Parses a body. `overridden` are fields without effect beside `aspect_ratio`, whatever their value.

    Raises: GatewayError for the first field that is invalid, else for the first unknown one; INVALID_JSON.
    """
    if sum(body.count(mark) for mark in _STRUCTURE) > _STRUCTURE_MAX:
        raise GatewayError(
            ErrorCode.INVALID_JSON, "We could not parse the JSON body of your request: it has too many values."
        )
    with suppress(*JSON_DECODE_ERRORS):
        return msgspec.json.decode(body, type=kind)
    fields = {name: raw for name, raw in _parse_object(body).items() if raw != _NULL}
    if "aspect_ratio" in fields:
        fields = {name: raw for name, raw in fields.items() if name not in overridden}
    types = get_type_hints(kind, include_extras=True)
    values = {name: _parse_field(name, fields[name], types[name]) for name in types if name in fields}
    if unknown := sorted(fields.keys() - types.keys()):
        raise unknown_parameter(unknown[0])
    return kind(**values)


def _parse_object(body: bytes | bytearray) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        reason = "it must be an object"
    except JSON_DECODE_ERRORS as error:
        reason = _reason(error)
    raise GatewayError(ErrorCode.INVALID_JSON, f"We could not parse the JSON body of your request: {reason}.")


def _parse_field(name: str, raw: msgspec.Raw, annotation: type) -> object:
    """Decodes a field. Raises: GatewayError, with msgspec's reason in OpenAI's words."""
    try:
        return msgspec.json.decode(raw, type=annotation)
    except JSON_DECODE_ERRORS as error:
        reason = _reason(error)
    if name in _EXPECTED:
        raise refused_value(name, f"expected {_EXPECTED[name]}.")
    if bound := _OUT_OF_BOUNDS.fullmatch(reason):
        error_code, side = _BOUNDS[bound[2]]
        expected = f"Expected a value {bound[1]}, but got {_shown(bytes(raw).decode())} instead."
        raise GatewayError(error_code, f"Invalid '{name}': integer {side} value. {expected}", param=name)
    if step := _NOT_MULTIPLE.fullmatch(reason):
        raise refused_value(name, f"it must be {step[1]}.")
    if reason.startswith("Invalid enum value"):
        choices = [choice for part in get_args(annotation) for choice in get_args(part)]
        raise wrong_value(name, msgspec.json.decode(raw, type=str), choices)
    wrong_type = _WRONG_TYPE.fullmatch(reason)
    if name == "style" and (wrong_type or "field" in reason or " - at " in reason):
        expected, got = "an object with 'style_type' and 'style_weight'", wrong_type[2] if wrong_type else "object"
    elif wrong_type:
        expected, got = _KINDS[wrong_type[1]], wrong_type[2]
    else:
        raise GatewayError(
            ErrorCode.INVALID_JSON, f"We could not parse '{name}' in the JSON body of your request: {reason}."
        )
    raise GatewayError(
        ErrorCode.INVALID_TYPE,
        f"Invalid type for '{name}': expected {expected}, but got {_KINDS[got]} instead.",
        param=name,
    )


def wrong_value(name: str, value: str, supported: Sequence[str]) -> GatewayError:
    names = [f"'{item}'" for item in supported]
    comma = "," if len(names) > 2 else ""
    listed = f"values are: {', '.join(names[:-1])}{comma} and {names[-1]}" if names[1:] else f"value is: {names[0]}"
    return GatewayError(ErrorCode.INVALID_VALUE, f"Invalid value: '{_shown(value)}'. Supported {listed}.", param=name)


def refused_value(name: str, why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_VALUE, f"Invalid value for '{name}': {why}", param=name)


def missing(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{name}'.", param=name)


def unknown_parameter(name: str, why: str = "") -> GatewayError:
    shown = _shown(name)
    return GatewayError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{shown}'.{why}", param=shown)


def unknown_model(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MODEL_UNKNOWN, f"The model '{_shown(name)}' does not exist. See GET /v1/models.")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}..."


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).removeprefix("JSON is malformed: ").rstrip(".")
