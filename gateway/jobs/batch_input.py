"""The input file of a batch: its lines, its validation, and an index by which a line is read alone."""

import asyncio
import codecs
import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgspec

from gateway.domain.billing import CUSTOM_ID_CHARS
from gateway.jobs.batches import LineError

ERRORS_MAX: Final = 100
"""Limit on the errors that are reported of one file."""
_ENTRY: Final = struct.Struct("<II")
"""Of the index: offset and length of a line. A file is smaller than 4 GiB."""
_PAUSE_BYTES: Final = 256 * 1024
"""Bytes after which validation lets other requests run. A line of 16 MiB takes up to 30 ms."""
_DIGEST_BYTES: Final = 16

FindModel = Callable[[str | None], str | None]
"""Returns the ID of a model that the tenant may use, by the name in a request; None for another one."""


class BatchRequest(msgspec.Struct, frozen=True):
    """A line of an input file."""

    custom_id: str
    body: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    model: str | None = None
    stream: bool | None = None
    n: msgspec.Raw = msgspec.Raw(b"1")


class _Line(msgspec.Struct, frozen=True):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=CUSTOM_ID_CHARS)]
    method: Literal["POST"]
    url: str
    body: _Body


class _Parts(msgspec.Struct, frozen=True):
    """A line of which nothing is known; values are found and not built."""

    custom_id: msgspec.Raw = msgspec.Raw(b"null")
    method: msgspec.Raw = msgspec.Raw(b"null")
    url: msgspec.Raw = msgspec.Raw(b"null")
    body: msgspec.Raw = msgspec.Raw(b"null")


async def read_lines(
    chunks: AsyncIterator[bytes], line_max_bytes: int
) -> AsyncIterator[tuple[int, int, bytes | bytearray | None]]:
    """Yields offset, length and content of each line, without its end; None for the content of a longer one.

    A byte order mark is no part of the first line.
    """
    offset, length, held = 0, 0, bytearray()
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            length += end - start
            if length <= line_max_bytes:
                yield _behind_mark(offset, length, held + chunk[start:end] if held else chunk[start:end])
            else:
                yield offset, length, None
            offset, length, held, start = offset + length + 1, 0, bytearray(), end + 1
        length += len(chunk) - start
        if length <= line_max_bytes:
            held += chunk[start:]
        else:
            held = bytearray()
    if length:
        yield _behind_mark(offset, length, held) if length <= line_max_bytes else (offset, length, None)


def _behind_mark(offset: int, length: int, content: bytes | bytearray) -> tuple[int, int, bytes | bytearray]:
    mark = len(codecs.BOM_UTF8) if offset == 0 and content.startswith(codecs.BOM_UTF8) else 0
    return offset + mark, length - mark, content[mark:] if mark else content


@dataclass(slots=True)
class Validation:
    """What the validation of an input file found."""

    model: str | None = None
    images: int = 0
    """Requested by all lines, at most `images_max` by each: more are refused when the line runs."""
    errors: list[LineError] = field(default_factory=list)
    index: bytearray = field(default_factory=bytearray)
    custom_ids: set[bytes] = field(default_factory=set, repr=False)
    """Their hashes, so that long ones need no more memory."""

    @property
    def total(self) -> int:
        return len(self.index) // _ENTRY.size

    def refuse(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        self.errors.append(LineError(code, message, line, param))


@dataclass(frozen=True, slots=True)
class InputRules:
    """What every line of a file must be."""

    endpoint: str
    lines_max: int
    line_max_bytes: int
    images_max: int
    """Limit of the endpoint on the images of one request, below 1000."""
    find_model: FindModel


async def validate(chunks: AsyncIterator[bytes], rules: InputRules) -> Validation:
    """Validates a file. Memory: the index, the hashes of the custom IDs, one line and one chunk.

    A byte order mark and empty lines are skipped; these count in the numbers of lines.
    The bodies are parsed when they run: a field that the endpoint refuses is that line's fault, and not the file's.
    """
    found, number, blank_lines, seen_bytes = Validation(), 0, 0, 0
    async for offset, length, content in read_lines(chunks, rules.line_max_bytes):
        number, seen_bytes = number + 1, seen_bytes + length
        if content is not None and not content.strip():
            blank_lines += 1
        elif found.total < rules.lines_max:
            line = _too_long(rules, number) if content is None else _decode(content, number)
            if isinstance(line, _Line):
                _check_line(found, number, line, rules)
            else:
                found.errors += line
            found.index += _ENTRY.pack(offset, length)
        if number - blank_lines > rules.lines_max or blank_lines > rules.lines_max:
            text = f"This server takes {rules.lines_max} requests per batch, and as many empty lines. Split the file."
            found.refuse("too_many_tasks", text)
            break
        if len(found.errors) >= ERRORS_MAX:
            break
        if seen_bytes >= _PAUSE_BYTES:
            seen_bytes = 0
            await asyncio.sleep(0)
    if not found.total and not found.errors:
        found.refuse("empty_file", "The input file has no requests.")
    del found.errors[ERRORS_MAX:]
    return found


def _too_long(rules: InputRules, number: int) -> list[LineError]:
    return [LineError("invalid_request", f"This line is longer than {rules.line_max_bytes} bytes.", number)]


def _decode(content: bytes | bytearray, number: int) -> _Line | list[LineError]:
    """Returns a line, or its problems. Its memory is small, whatever the line holds."""
    try:
        try:
            return msgspec.json.decode(content, type=_Line)
        except msgspec.ValidationError:
            return _explain(content, number)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [LineError("invalid_json_line", "This line is not parseable as valid JSON.", number)]


def _check_line(found: Validation, number: int, line: _Line, rules: InputRules) -> None:
    if line.url != rules.endpoint:
        text = f"The URL provided for this request does not match the batch endpoint '{rules.endpoint}'."
        found.refuse("invalid_url", text, number, "url")
    if line.body.stream:
        found.refuse("streaming_unsupported", "Streaming is not supported in a batch.", number, "body.stream")
    if len(msgspec.json.encode(line.custom_id)) > CUSTOM_ID_CHARS + len('""'):
        text = f"'custom_id' must have at most {CUSTOM_ID_CHARS} bytes as JSON."
        found.refuse("invalid_request", text, number, "custom_id")
    digest = hashlib.blake2b(line.custom_id.encode(), digest_size=_DIGEST_BYTES).digest()
    if digest in found.custom_ids:
        text = f"The custom_id '{line.custom_id[:64]}' is used by another line of this file."
        found.refuse("duplicate_custom_id", text, number, "custom_id")
    found.custom_ids.add(digest)
    found.images += _count_images(line.body.n, rules.images_max)
    model, name = rules.find_model(line.body.model), line.body.model
    if model is None:
        found.refuse("model_not_found", f"The model '{(name or '')[:64]}' does not exist.", number, "body.model")
    elif found.model not in {None, model}:
        text = f"All requests of a batch must have the same model: expected '{found.model}'."
        found.refuse("model_mismatch", text, number, "body.model")
    else:
        found.model = model


def _count_images(n: msgspec.Raw, images_max: int) -> int:
    """Returns the images of a request with this `n`: any JSON value, a number with a million digits too."""
    digits = bytes(memoryview(n)[:3])
    return min(max(int(digits), 1), images_max) if digits.isdigit() else 1


_STRING, _OBJECT = b'"', b"{"
_KINDS: Final = {_STRING: "a string", _OBJECT: "an object"}
_FIELDS: Final = {"custom_id": _STRING, "method": _STRING, "url": _STRING, "body": _OBJECT}


def _explain(content: bytes | bytearray, number: int) -> list[LineError]:
    """Returns the problems of a line that is no request. Raises: msgspec.DecodeError, UnicodeError, RecursionError."""
    try:
        parts = msgspec.json.decode(content, type=_Parts)
    except msgspec.ValidationError:
        return [LineError("invalid_request", "Each line must be a JSON object.", number)]
    errors = []
    for name, kind in _FIELDS.items():
        value = bytes(memoryview(getattr(parts, name))[:4])
        if value == b"null":
            text = f"Missing required parameter: '{name}'."
            errors.append(LineError("missing_required_parameter", text, number, name))
        elif not value.startswith(kind):
            errors.append(LineError("invalid_request", f"'{name}' must be {_KINDS[kind]}.", number, name))
    if errors:
        return errors
    if msgspec.json.decode(parts.method) != "POST":
        return [LineError("invalid_request", "'method' must be 'POST'.", number, "method")]
    if not 0 < len(msgspec.json.decode(parts.custom_id, type=str)) <= CUSTOM_ID_CHARS:
        text = f"'custom_id' must have 1 to {CUSTOM_ID_CHARS} characters."
        return [LineError("invalid_request", text, number, "custom_id")]
    return [LineError("invalid_request", "'body' has a field of the wrong type.", number, "body")]


def read_entry(index: bytes) -> tuple[int, int]:
    """Returns offset and length of a line, from its entry of the index."""
    offset, length = _ENTRY.unpack(index)
    return int(offset), int(length)


def entry_range(line: int) -> tuple[int, int]:
    """Returns the first and last byte of a line's entry in the index; lines count from 1."""
    return (line - 1) * _ENTRY.size, line * _ENTRY.size - 1
