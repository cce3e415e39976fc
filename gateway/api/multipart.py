"""Reads multipart forms (RFC 7578): texts into memory, and files into memory or, beyond 1 MiB, onto disk.

Invariant: however a form ends, its files are closed, which deletes them, and their bytes are released. Files of
`receive_form` go where its caller wants them, who closes them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from gateway.api.bodies import BodyLimits, body_timeout, check_head, context_of, too_large
from gateway.api.decoding import BodyDecoder
from gateway.api.form_files import FormFile
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount, ByteBudget

_FILE_TYPES: Final = (b"image/", b"application/octet-stream")
"""Types of parts that are files even without a file name."""
_NAME_MAX_CHARS: Final = 64
_PARSED_BYTES: Final = 16 * 1024
"""Bytes that are parsed in one step: those that resemble boundaries take up to 10 ms, and others microseconds."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Limits of a form."""

    body: BodyLimits
    texts_max_bytes: int
    """All texts together, with their names."""
    file_max_bytes: int = 50 * 1024 * 1024
    """OpenAI's limit."""
    files_max: int = 17
    """16 images and a mask."""
    texts_max: int = 64
    """OpenAI's and MiniMax's fields are about 30."""


class FilePart(Protocol):
    """Receives the content of one file of a form."""

    async def append(self, data: bytearray, /) -> None: ...


OpenFile = Callable[[str, str, Mapping[str, str]], FilePart]
"""Opens a file of a form, by its field, its file name and the texts before it. May raise: GatewayError."""


@dataclass(slots=True, eq=False, repr=False)
class Form:
    """The texts and the files of a form."""

    texts: dict[str, str] = field(default_factory=dict)
    files: list[FormFile] = field(default_factory=list)


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@asynccontextmanager
async def read_form(request: Request, limits: FormLimits, spooled: ByteBudget) -> AsyncIterator[Form]:
    """Reads a form. `spooled` is the budget of bytes on disk.

    Raises: what `receive_form` raises.
    """
    context = context_of(request)
    form, disk = Form(), ByteAccount(spooled, context.tenant)

    def open_file(name: str, file_name: str, texts: Mapping[str, str]) -> FormFile:  # noqa: ARG001 - an OpenFile
        form.files.append(FormFile(name, context.memory, disk))
        return form.files[-1]

    try:
        async with receive_form(request, limits, open_file) as form.texts:
            yield form
    finally:
        for file in form.files:
            file.close()
        disk.close()


@asynccontextmanager
async def receive_form(request: Request, limits: FormLimits, open_file: OpenFile) -> AsyncIterator[dict[str, str]]:
    """Receives a form whose files go to `open_file`. Yields its texts, which count as memory until the end.

    Raises: GatewayError INVALID_JSON, INVALID_VALUE, UNSUPPORTED_CONTENT_TYPE, BODY_TOO_LARGE, BODY_TIMEOUT,
    TENANT_MEMORY_FULL, MEMORY_FULL; ClientDisconnect; what the files raise.
    """
    decoder = check_head(request, limits.body, is_form=True)
    context = context_of(request)
    _, parameters = parse_options_header(request.headers["content-type"])
    reader = _FormReader(parameters.get(b"boundary", b""), limits, context.memory, open_file)
    try:
        if context.transfer:
            await context.transfer.begin()
        await _receive(request, limits.body, decoder, reader)
        yield reader.texts
    finally:
        reader.close()


async def _receive(request: Request, limits: BodyLimits, decoder: BodyDecoder | None, reader: "_FormReader") -> None:
    clock = asyncio.get_running_loop().time
    ends_at, received_bytes, new_bytes, has_more = clock() + limits.timeout_s, 0, 0, True
    while has_more:
        try:
            async with asyncio.timeout_at(ends_at):  # not of a write, which would go on in its thread
                message = await request.receive()
        except TimeoutError as error:
            raise body_timeout(limits) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        received, has_more = message.get("body", b""), message.get("more_body", False)
        for piece in decoder.feed(received) if decoder else (received,):
            received_bytes += len(piece)
            if received_bytes > limits.max_bytes:
                raise too_large(limits)
            await reader.feed(piece)
        new_bytes += len(received)
        if limits.progress_bytes and new_bytes >= limits.progress_bytes:
            ends_at, new_bytes = clock() + limits.timeout_s, 0
    if decoder:
        decoder.finish()
    reader.finish()


class _FormReader:
    """Builds a form from the callbacks of the parser, which name the pieces that it has found."""

    def __init__(self, boundary: bytes, limits: FormLimits, memory: ByteAccount, open_file: OpenFile) -> None:
        """Raises: GatewayError INVALID_JSON."""
        self.texts: dict[str, str] = {}
        """Of two texts of one name the last counts, as in JSON."""
        self._limits, self._memory, self._open_file = limits, memory, open_file
        self._texts, self._files, self._text_bytes, self._is_complete = 0, 0, 0, False
        self._field, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        self._name, self._text, self._part_bytes = "", bytearray(), 0
        self._file: FilePart | None = None
        self._unwritten: dict[FilePart, bytearray] = {}
        if not boundary:
            raise _malformed("its content type has no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_field,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._add_content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed("its boundary is too long") from error

    async def feed(self, piece: bytes) -> None:
        """Raises: GatewayError INVALID_JSON, INVALID_VALUE, BODY_TOO_LARGE, and those of the files."""
        try:
            for at in range(0, len(piece), _PARSED_BYTES):
                self._parser.write(piece[at : at + _PARSED_BYTES])
                await asyncio.sleep(0)
        except FormParserError as error:
            raise _malformed("it is not valid multipart/form-data") from error
        for file, data in self._unwritten.items():
            await file.append(data)
        self._unwritten.clear()

    def finish(self) -> None:
        """Raises: GatewayError INVALID_JSON if the end of the form is missing."""
        if not self._is_complete:
            raise _malformed("it ends before its last boundary")

    def close(self) -> None:
        self._memory.note(-self._text_bytes)

    def _begin_part(self) -> None:
        self._headers, self._text, self._file, self._part_bytes = {}, bytearray(), None, 0

    def _add_to_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _begin_content(self) -> None:
        limits = self._limits
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not 0 < len(self._name) <= _NAME_MAX_CHARS:
            raise _malformed(f"the name of a part is missing or has more than {_NAME_MAX_CHARS} characters")
        if b"filename" in options or self._headers.get(b"content-type", b"").lower().startswith(_FILE_TYPES):
            if self._files == limits.files_max:
                raise _malformed(f"it has more than {limits.files_max} file{'s' if limits.files_max > 1 else ''}")
            self._files += 1
            file_name = options.get(b"filename", b"").decode("utf-8", "replace")
            self._file = self._open_file(self._name, file_name, self.texts)
        elif self._texts == limits.texts_max:
            raise _malformed(f"it has more than {limits.texts_max} text fields")
        else:
            self._texts += 1
            self._count_text(len(self._name))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if not self._file:
            self._count_text(end - start)
            self._text += data[start:end]
            return
        self._part_bytes += end - start
        if self._part_bytes > self._limits.file_max_bytes:
            text = f"Invalid file '{self._name}': it is larger than {self._limits.file_max_bytes} bytes."
            raise GatewayError(ErrorCode.BODY_TOO_LARGE, text, param=self._name)
        self._unwritten.setdefault(self._file, bytearray()).extend(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if self._file:
            return
        try:
            self.texts[self._name] = self._text.decode()
        except UnicodeDecodeError as error:
            raise GatewayError(
                ErrorCode.INVALID_VALUE,
                f"Invalid value for '{self._name}': its text is not UTF-8. Send a file with a file name.",
                param=self._name,
            ) from error

    def _end(self) -> None:
        self._is_complete = True

    def _count_text(self, size_bytes: int) -> None:
        self._memory.take(size_bytes)
        self._text_bytes += size_bytes
        if self._text_bytes > self._limits.texts_max_bytes:
            text = f"The text fields of the form are larger than {self._limits.texts_max_bytes} bytes."
            raise GatewayError(ErrorCode.BODY_TOO_LARGE, text)


def _malformed(why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_JSON, f"We could not parse the multipart form of your request: {why}.")
