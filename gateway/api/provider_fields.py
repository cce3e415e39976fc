"""MiniMax's request fields in both client formats (reference/minimax.md 1.2), and the choice of targets."""

from typing import Final

import msgspec

from gateway.api.fields import JsonFields, missing, refused_value, unknown_parameter, wrong_type
from gateway.domain.catalog import Model, PlannedTarget, SizePolicy
from gateway.domain.images import URL_MAX_CHARS, ImageJob, InputImage, Role, Size
from gateway.providers.minimax import FIELDS, PIXELS, PRESETS
from gateway.providers.replies import JSON_DECODE_ERRORS

_INT64: Final = 2**63
_STYLES: Final = ("漫画", "元气", "中世纪", "水彩")
_ROLE: Final = Role.CHARACTER
_NAMES: Final = {own: name for name, own in FIELDS.items()}
"""Optional fields, by their name in client requests."""
_REFERENCES_MAX: Final = 16
"""MiniMax documents 1 reference for these models, and 16 for edits (reference/minimax.md 1.2 and 1.5)."""


class _Style(msgspec.Struct, forbid_unknown_fields=True):
    style_type: str
    style_weight: int | float | msgspec.UnsetType = msgspec.UNSET


class _SubjectReference(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    image_file: str


def plan_targets(job: ImageJob, model: Model, policy: SizePolicy) -> tuple[PlannedTarget, ...]:
    """Chooses the targets that can honour a job. Raises: GatewayError with the field that none supports."""
    for name in sorted(_NAMES.get(field, field) for field in job.fields - model.fields):
        raise unknown_parameter(name, f" No upstream of model '{model.id}' supports it.")
    targets = model.plan(job, policy)
    if not targets:
        name = "size" if job.size else "aspect_ratio" if job.aspect_ratio else "width" if job.pixels else "model"
        raise refused_value(name, f"no upstream of model '{model.id}' supports this combination of parameters.")
    return targets


def read_ratio(fields: JsonFields) -> str | None:
    return fields.choice("aspect_ratio", tuple(PRESETS))


def read_pixels(fields: JsonFields) -> Size | None:
    """Reads `width` and `height`, which must be set together."""
    width = fields.integer("width", PIXELS.side_min, PIXELS.side_max)
    height = fields.integer("height", PIXELS.side_min, PIXELS.side_max)
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise missing("width" if width is None else "height")
    for name, side in (("width", width), ("height", height)):
        if side % PIXELS.step:
            raise refused_value(name, f"it must be a multiple of {PIXELS.step}.")
    return Size(width, height)


def read_seed(fields: JsonFields) -> int | None:
    return fields.integer("seed", -_INT64, _INT64 - 1)


def read_options(fields: JsonFields, *, style_is_mapped: bool = True) -> dict[str, bytes]:
    """Reads the MiniMax options that are set."""
    flags = {
        "prompt_optimizer": fields.boolean("prompt_optimizer"),
        "aigc_watermark": fields.boolean("aigc_watermark"),
    }
    options = {FIELDS[name]: msgspec.json.encode(flag) for name, flag in flags.items() if flag is not None}
    style = _read_style(fields) if style_is_mapped else None
    return options | {FIELDS["style"]: style} if style else options


def read_inputs(fields: JsonFields) -> tuple[InputImage, ...]:
    """Reads the images of `subject_reference`."""
    raw = fields.raw("subject_reference")
    if raw is None:
        return ()
    try:
        references = msgspec.json.decode(raw, type=list[_SubjectReference])
    except JSON_DECODE_ERRORS:
        raise refused_value("subject_reference", "expected an array of objects with 'type' and 'image_file'.") from None
    if not references:
        raise refused_value("subject_reference", "the array is empty.")
    if len(references) > _REFERENCES_MAX:
        raise refused_value("subject_reference", f"expected {_REFERENCES_MAX} references at most.")
    for reference in references:
        if reference.type != _ROLE.value or not _is_image_file(reference.image_file):
            raise refused_value(
                "subject_reference",
                f"'type' must be 'character' and 'image_file' a URL of at most {URL_MAX_CHARS} characters or a "
                "data:image/ URL, without control characters.",
            )
    return tuple(InputImage(_ROLE, msgspec.json.encode(reference.image_file)) for reference in references)


def _read_style(fields: JsonFields) -> bytes | None:
    raw = fields.raw("style")
    if raw is None:
        return None
    try:
        style = msgspec.json.decode(raw, type=_Style)
    except JSON_DECODE_ERRORS:
        raise wrong_type("style", "an object with 'style_type' and 'style_weight'", fields.value("style")) from None
    is_weight_valid = style.style_weight is msgspec.UNSET or 0 < style.style_weight <= 1
    if style.style_type not in _STYLES or not is_weight_valid:
        raise refused_value("style", f"'style_type' must be one of {', '.join(_STYLES)} and 'style_weight' in (0, 1].")
    return msgspec.json.encode(style)  # encoded again: parsers differ on duplicate names


def _is_image_file(text: str) -> bool:
    is_url = text.startswith(("http://", "https://")) and len(text) <= URL_MAX_CHARS
    return (is_url or text.startswith("data:image/")) and text.isprintable()
