"""Parses JSON bodies into typed fields, with OpenAI's own errors (reference/openai-images.md section 1.4).

`null` means absent everywhere, and of two equal names the last counts. No field is dropped silently.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from gateway.api.decoding import explain_unreadable, normalize_json
from gateway.api.refusals import (
    excerpt,
    missing,
    refused_value,
    unknown_parameter,
    unknown_parameters,
    wrong_value,
)
from gateway.domain.catalog import Model, PlannedTarget
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import URL_MAX_CHARS, ImageJob, InputImage, Role, Size
from gateway.domain.prompts import shorten
from gateway.providers.minimax import FIELDS, PIXELS
from gateway.providers.replies import JSON_DECODE_ERRORS

STYLES: Final = ("漫画", "元气", "中世纪", "水彩")
_ROLE: Final = Role.CHARACTER
_REFERENCES_MAX: Final = 16
"""MiniMax documents 1 reference for these models, and 16 for edits (reference/minimax.md 1.2 and 1.5)."""
_NULL: Final = msgspec.Raw(b"null")
_OTHER_SPELLINGS: Final = {"aspectRatio": "aspect_ratio"}
"""Names under which clients send a field, and its own: LobeChat knows image-01 by MiniMax's fields in camel case."""
_WAY_OUT: Final = (
    " Shorten it. The operator of this server can have long prompts cut: [images] long_prompt = 'truncate'."
)
_STRUCTURE: Final = (b'"', b",")
_STRUCTURE_MAX: Final = 20_000
"""Limit on commas and quotes in a body, including those in strings. A common body has tens, its prompt up to 1499.
16 MiB of them would parse into objects that take seconds and hundreds of megabytes.
"""
_TRUNCATED: Final = "Input data was truncated"
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
_METADATA_MAX: Final = 16
_NAME_MAX_CHARS, _TEXT_MAX_CHARS = 64, 512
_METADATA: Final = (
    f"an object of at most {_METADATA_MAX} pairs of strings: names of at most {_NAME_MAX_CHARS} characters, and texts "
    f"of at most {_TEXT_MAX_CHARS}"
)
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=_NAME_MAX_CHARS)], Annotated[str, Meta(max_length=_TEXT_MAX_CHARS)]],
    Meta(max_length=_METADATA_MAX, description=_METADATA),
]
"""OpenAI's metadata."""
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
    cut_prompt: tuple[int, int] | None = None
    """Characters used and sent, if the prompt was shortened."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Its tags, beside those of its headers."""
    user: str = ""
    """The end user, as the client names it."""


class Style(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """MiniMax's style of image-01-live."""

    style_type: str
    style_weight: int | float | None = None


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

    def read_prompt(self, max_chars: int, *, shortens: bool = False) -> str:
        """Returns the prompt, shortened to `max_chars` code points or refused if it is longer."""
        if self.prompt is None:
            raise missing("prompt")
        message = "Invalid 'prompt': {}. Expected a string with {}, but got {} instead."
        if not self.prompt.strip():
            text = message.format("empty string", "minimum length 1", "an empty string")
            raise GatewayError(ErrorCode.EMPTY_STRING, text, param="prompt")
        if shortens:
            return shorten(self.prompt, max_chars)
        if len(self.prompt) > max_chars:
            got = f"a string with length {len(self.prompt)}"
            text = message.format("string too long", f"maximum length {max_chars}", got) + _WAY_OUT
            raise GatewayError(ErrorCode.STRING_TOO_LONG, text, param="prompt")
        return self.prompt

    def read_shape(self, model: Model, name: str, *, prefers_ratio: bool = False) -> tuple[str | None, Size | None]:
        """Returns `aspect_ratio`, and `width` and `height`, which must be set together.

        `name` is the model as the client wrote it. `prefers_ratio` ignores the latter two if there is a ratio.
        """
        ratio, width, height = self.aspect_ratio, self.width, self.height
        if ratio is not None and ratio not in model.aspect_ratios:
            if not model.aspect_ratios:
                raise unknown_parameter("aspect_ratio", f" No upstream of model '{name}' supports it.")
            raise wrong_value("aspect_ratio", ratio, model.aspect_ratios)
        if (ratio and prefers_ratio) or (width is None and height is None):
            return ratio, None
        if width is None or height is None:
            raise missing("width" if width is None else "height")
        return ratio, Size(width, height)

    def read_options(self, style: Style | None) -> dict[str, bytes]:
        """Returns the MiniMax options that are set, encoded again: parsers differ on duplicate names."""
        values = {"prompt_optimizer": self.prompt_optimizer, "aigc_watermark": self.aigc_watermark, "style": style}
        if style:
            is_weight_valid = style.style_weight is None or 0 < style.style_weight <= 1
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


def parse_fields(body: bytes | bytearray, kind: type[_T], overridden: Collection[str] = ()) -> _T:
    """Parses a body. `overridden` are fields without effect beside `aspect_ratio`, whatever their value.

    Raises: GatewayError for the first field that is invalid, else for all unknown ones; INVALID_JSON.
    """
    fields, unknown = split_fields(body, kind, overridden)
    if unknown:
        raise unknown_parameters(unknown)
    return fields


def split_fields(
    body: bytes | bytearray, kind: type[_T], overridden: Collection[str] = ()
) -> tuple[_T, tuple[str, ...]]:
    """Parses a body, and returns the names of its unknown fields.

    Raises: GatewayError for the first field that is invalid; INVALID_JSON.
    """
    if sum(body.count(mark) for mark in _STRUCTURE) > _STRUCTURE_MAX:
        raise GatewayError(
            ErrorCode.INVALID_JSON, "We could not parse the JSON body of your request: it has too many values."
        )
    with suppress(*JSON_DECODE_ERRORS):
        return msgspec.json.decode(body, type=kind), ()
    fields = {name: raw for name, raw in _parse_object(normalize_json(body)).items() if raw != _NULL}
    for other, name in _OTHER_SPELLINGS.items():
        if other in fields and fields.setdefault(name, fields[other]) != fields.pop(other):
            raise refused_value(other, f"it differs from '{name}'.")
    if "aspect_ratio" in fields:
        fields = {name: raw for name, raw in fields.items() if name not in overridden}
    types = get_type_hints(kind, include_extras=True)
    values = {name: _parse_field(name, fields[name], types[name]) for name in types if name in fields}
    return kind(**values), tuple(sorted(fields.keys() - types.keys()))


def _parse_object(body: bytes | bytearray) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        reason = "it must be an object"
    except JSON_DECODE_ERRORS as error:
        reason = explain_unreadable(body) or _reason(error)
    raise GatewayError(ErrorCode.INVALID_JSON, f"We could not parse the JSON body of your request: {reason}.")


def _parse_field(name: str, raw: msgspec.Raw, annotation: type) -> object:
    """Decodes a field. Raises: GatewayError, with msgspec's reason in OpenAI's words."""
    try:
        return msgspec.json.decode(raw, type=annotation)
    except JSON_DECODE_ERRORS as error:
        reason = _reason(error)
    if expected := _EXPECTED.get(name) or _description(annotation):
        raise refused_value(name, f"expected {expected}.")
    if bound := _OUT_OF_BOUNDS.fullmatch(reason):
        error_code, side = _BOUNDS[bound[2]]
        expected = f"Expected a value {bound[1]}, but got {excerpt(bytes(raw).decode())} instead."
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


def _description(annotation: type) -> str:
    """Returns the description of a field's valid values, of `Annotated[..., Meta(description=...)] | None`."""
    notes = (note for part in get_args(annotation) for note in getattr(part, "__metadata__", ()))
    return next((note.description for note in notes if isinstance(note, Meta) and note.description), "")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    reason = str(error).removeprefix("JSON is malformed: ").rstrip(".")
    return "it ends too early" if reason == _TRUNCATED else reason
