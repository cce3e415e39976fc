"""Edits in OpenAI's images format: a JSON body, or a form with files (reference/openai-images.md 4.1)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_type_hints

import msgspec

from gateway.api.fields import Generation, is_url, split_fields
from gateway.api.openai import OpenAIOptions, RequestFields, build_generation
from gateway.api.refusals import missing, refused_value, unknown_parameter
from gateway.domain.catalog import Catalog
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format, InputImage, Role, decoded_bytes, is_base64, sniff, sniff_base64
from gateway.domain.tenants import Tenant
from gateway.providers.replies import JSON_DECODE_ERRORS

IMAGES_MAX: Final = 16
"""OpenAI's largest number of images in one edit."""
CHARACTER_ONLY: Final = "image (character reference only)"
"""Reported as ignored if the model takes only the person or figure from the image, and not its composition."""

_FORMATS: Final = frozenset({Format.JPEG, Format.PNG, Format.WEBP})
_IMAGE: Final = re.compile(r"images?(\[[0-9]{0,3}\])?", re.ASCII)
"""Names of image files. SDKs send `image` for one and `image[]` for a list; PHP numbers them."""
_DATA_URL: Final = re.compile(r"data:[a-z0-9.+/-]*(;[a-z0-9.=-]+)*;base64,", re.ASCII | re.IGNORECASE)
_PAIR: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
"""How SDKs write a pair of an object in a form."""
_BLANKS: Final = frozenset({"", "null"})
"""How SDKs write null in a form. Python's writes "", and Node's documentation says "null"."""
_BOOLEANS: Final = frozenset({"true", "false"})


class _ImageReference(msgspec.Struct, forbid_unknown_fields=True):
    image_url: str | None = None
    file_id: str | None = None


_Images = str | _ImageReference | list[str | _ImageReference] | None


class EditFields(RequestFields):
    """The body of `POST /v1/images/edits`, or the text fields of a form."""

    image: _Images = None
    images: _Images = None
    mask: str | _ImageReference | None = None
    input_fidelity: Literal["high", "low"] | None = None


@dataclass(frozen=True, slots=True)
class FileHead:
    """A file of a form: the name of its field, its size and its first 16 bytes."""

    name: str
    size_bytes: int
    start: bytes


def parse_edit(
    body: bytes | bytearray,
    catalog: Catalog,
    tenant: Tenant,
    options: OpenAIOptions,
    *,
    deployment: str | None = None,
    files: Sequence[FileHead] = (),
    is_batch_line: bool = False,
) -> Generation:
    """Parses an edit.

    Returns: the first inputs of its job are `files`, in their order, still without their content.
    Raises: GatewayError for an invalid request, with the parameter's name.
    """
    fields, unknown = split_fields(body, EditFields)
    if fields.subject_reference is not None:
        raise refused_value("subject_reference", "it cannot be combined with 'image'.")
    other = "the 'file_id' of an uploaded image" if is_batch_line else "a file of a form"
    inputs = (*map(_read_file, files), *_read_links(fields, other))
    images = sum(image.role is Role.IMAGE for image in inputs)
    if not images:
        raise missing("images" if is_batch_line else "image")
    if images > IMAGES_MAX:
        raise refused_value("image", f"expected at most {IMAGES_MAX} images, but got {images}.")
    if len(inputs) > images + 1:
        raise refused_value("mask", f"expected one mask, but got {len(inputs) - images}.")
    generation = build_generation(fields, unknown, catalog, tenant, options, deployment, inputs)
    ignored = [*generation.ignored, *(["input_fidelity"] if fields.input_fidelity else [])]
    if any(rule and rule.is_character_only for rule in (target.capability.edits for target in generation.targets)):
        ignored.append(CHARACTER_ONLY)
    return replace(generation, ignored=tuple(ignored))


def render_texts(texts: Mapping[str, str]) -> bytes:
    """Renders the text fields of a form as a JSON body. A form has neither numbers nor booleans nor null."""
    kinds = get_type_hints(EditFields, include_extras=True)
    given = {name: text for name, text in texts.items() if name == "prompt" or text not in _BLANKS}
    fields = {name: _as_json(text, kinds.get(name, str)) for name, text in given.items() if not _PAIR.fullmatch(name)}
    pairs = {match[1]: text for name, text in texts.items() if (match := _PAIR.fullmatch(name))}
    return msgspec.json.encode(fields | ({"metadata": pairs} if pairs else {}))


def _as_json(text: str, kind: type) -> msgspec.Raw:
    """Renders a text as the JSON value that its field takes; if it takes neither, as the one with the clearer error."""
    quoted = msgspec.json.encode(text)
    try:
        msgspec.json.decode(quoted, type=kind)
    except JSON_DECODE_ERRORS:
        plain = text.lower() if text.lower() in _BOOLEANS else text  # Python writes True
        try:
            msgspec.json.decode(plain)
        except JSON_DECODE_ERRORS:
            return msgspec.Raw(quoted)
        return msgspec.Raw(plain.encode())
    return msgspec.Raw(quoted)


def _read_file(file: FileHead) -> InputImage:
    name = file.name
    if name != Role.MASK.value and not _IMAGE.fullmatch(name):
        if name in EditFields.__struct_fields__:
            text = f"Invalid type for '{name}': expected a text field, but got a file instead."
            raise GatewayError(ErrorCode.INVALID_TYPE, text, param=name)
        raise unknown_parameter(name)
    role = Role.MASK if name == Role.MASK.value else Role.IMAGE
    if not file.size_bytes:
        raise GatewayError(ErrorCode.INVALID_VALUE, f"Invalid file '{role.value}': it is empty.", param=role.value)
    return InputImage(role, b"", _checked(role, sniff(file.start)), file.size_bytes)


def _checked(role: Role, kind: Format | None) -> Format:
    """Returns the format that the content has, whatever its name says. Raises: GatewayError if it is another one."""
    if kind in _FORMATS:
        return kind
    found = f"image/{kind.value}" if kind else "application/octet-stream"
    raise GatewayError(
        ErrorCode.INVALID_VALUE,
        f"Invalid file '{role.value}': unsupported mimetype ('{found}'). Supported file formats are 'image/jpeg', "
        "'image/png', and 'image/webp'.",
        param=role.value,
    )


def _read_links(fields: EditFields, other: str) -> Iterator[InputImage]:
    """`other` names what else an image may be, for an error."""
    for name, value in (("image", fields.image), ("images", fields.images), ("mask", fields.mask)):
        role = Role.MASK if name == "mask" else Role.IMAGE
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(item, _ImageReference) and item.file_id is not None:
                raise refused_value(name, "'file_id' is not supported. Send 'image_url', which takes data URLs too.")
            link = item if isinstance(item, str) else item.image_url
            if link is None:
                raise missing(f"{name}.image_url")
            yield _read_link(role, name, link, other)


def _read_link(role: Role, name: str, link: str, other: str) -> InputImage:
    if is_url(link):
        return InputImage(role, msgspec.json.encode(link))
    if not (header := _DATA_URL.match(link)):
        raise refused_value(name, f"expected an http:// or https:// URL, a data URL in base64, or {other}.")
    data = memoryview(link.encode())[header.end() :]
    kind = _checked(role, sniff_base64(data))
    if not is_base64(data):
        raise refused_value(name, "the base64 of its data URL is not valid.")
    link_in_json = b"".join((b'"data:image/%b;base64,' % kind.value.encode(), data, b'"'))
    return InputImage(role, link_in_json, kind, decoded_bytes(data))
