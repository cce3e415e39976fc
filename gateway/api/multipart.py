"""Reads multipart forms (RFC 7578): texts into memory, and files into memory or, beyond 1 MiB, onto disk.

Invariant: however a form ends, its files are closed, which deletes them, and their bytes are released.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from gateway.api.bodies import BodyLimits, body_timeout, check_head, context_of, too_large
from gateway.api.decoding import BodyDecoder
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format
from gateway.generation.memory_budget import ByteAccount, ByteBudget

_MIB: Final = 1024 * 1024
_IN_MEMORY_BYTES: Final = _MIB
"""Size up to which a file stays in memory."""
_FILE_TYPES: Final = (b"image/", b"application/octet-stream")
"""Types of parts that are files even without a file name."""
_NAME_MAX_CHARS: Final = 64
_START_BYTES: Final = 16
_PARSED_BYTES: Final = 16 * 1024
"""Bytes that are parsed in one step: those that resemble boundaries take up to 10 ms, and others microseconds."""
_ENCODED_BYTES: Final = 3 * 64 * 1024
"""Bytes that are encoded in one step: a multiple of 3, as base64 has no padding within."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Limits of a form."""

    body: BodyLimits
    texts_max_bytes: int
    """All texts together, with their names."""
    file_max_bytes: int = 50 * _MIB
    """OpenAI's limit."""
    files_max: int = 17
    """16 images and a mask."""
    texts_max: int = 64
    """OpenAI's and MiniMax's fields are about 30."""


@dataclass(slots=True, eq=False, repr=False)
class FormFile:
    """A file of a form. It is open as long as its form."""

    name: str
    size_bytes: int = 0
    start: bytes = b""
    """Its first 16 bytes."""
    _file: SpooledTemporaryFile[bytes] = field(default_factory=SpooledTemporaryFile)
    _is_on_disk: bool = False

    async def append(self, data: bytearray, memory: ByteAccount, disk: ByteAccount) -> None:
        """Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL; OSError of the disk."""
        size_bytes = self.size_bytes + len(data)
        if size_bytes <= _IN_MEMORY_BYTES:
            memory.take(len(data))
            self._file.write(data)
        else:
            disk.take(len(data) if self._is_on_disk else size_bytes)
            if not self._is_on_disk:
                await asyncio.to_thread(self._file.rollover)
                self._is_on_disk = True
                memory.note(-self.size_bytes)
            await asyncio.to_thread(self._file.write, data)
        self.size_bytes = size_bytes
        self.start += data[: _START_BYTES - len(self.start)]

    async def to_data_url(self, kind: Format, memory: ByteAccount) -> bytes:
        """Returns the file as a data URL in a JSON string. Its bytes are counted before it is made.

        Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL.
        """
        head = b'"data:image/%b;base64,' % kind.value.encode()
        memory.take(len(head) + (self.size_bytes + 2) // 3 * 4 + 1)
        return await asyncio.to_thread(self._encode, head)

    def _encode(self, head: bytes) -> bytes:
        """Holds the result once: `BytesIO` returns its buffer without copying it."""
        made = BytesIO()
        made.write(head)
        self._file.seek(0)
        while piece := self._file.read(_ENCODED_BYTES):
            made.write(b64encode(piece))
        made.write(b'"')
        return made.getvalue()

    def close(self, memory: ByteAccount) -> None:
        self._file.close()
        if not self._is_on_disk:
            memory.note(-self.size_bytes)


@dataclass(slots=True, eq=False, repr=False)
class Form:
    """The texts and the files of a form. Of two texts of one name the last counts, as in JSON."""

    texts: dict[str, str] = field(default_factory=dict)
    files: list[FormFile] = field(default_factory=list)


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@asynccontextmanager
async def read_form(request: Request, limits: FormLimits, spooled: ByteBudget) -> AsyncIterator[Form]:
    """Reads a form. `spooled` is the budget of bytes on disk.

    Raises: GatewayError INVALID_JSON, INVALID_VALUE, UNSUPPORTED_CONTENT_TYPE, BODY_TOO_LARGE, BODY_TIMEOUT,
    TENANT_MEMORY_FULL, MEMORY_FULL; ClientDisconnect.
    """
    decoder = check_head(request, limits.body, is_form=True)
    context = context_of(request)
    _, parameters = parse_options_header(request.headers["content-type"])
    reader = _FormReader(parameters.get(b"boundary", b""), limits, context.memory, ByteAccount(spooled, context.tenant))
    try:
        if context.transfer:
            await context.transfer.begin()
        await _receive(request, limits.body, decoder, reader)
        yield reader.form
    finally:
        reader.close()


async def _receive(request: Request, limits: BodyLimits, decoder: BodyDecoder | None, reader: "_FormReader") -> None:
    ends_at, received_bytes, has_more = asyncio.get_running_loop().time() + limits.timeout_s, 0, True
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
    if decoder:
        decoder.finish()
    reader.finish()


class _FormReader:
    """Builds a form from the callbacks of the parser, which name the pieces that it has found."""

    def __init__(self, boundary: bytes, limits: FormLimits, memory: ByteAccount, disk: ByteAccount) -> None:
        """Raises: GatewayError INVALID_JSON."""
        self.form = Form()
        self._limits, self._memory, self._disk = limits, memory, disk
        self._texts, self._text_bytes, self._is_complete = 0, 0, False
        self._field, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        self._name, self._text, self._part_bytes = "", bytearray(), 0
        self._file: FormFile | None = None
        self._unwritten: dict[FormFile, bytearray] = {}
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
        """Raises: GatewayError INVALID_JSON, INVALID_VALUE, BODY_TOO_LARGE, TENANT_MEMORY_FULL, MEMORY_FULL."""
        try:
            for at in range(0, len(piece), _PARSED_BYTES):
                self._parser.write(piece[at : at + _PARSED_BYTES])
                await asyncio.sleep(0)
            for file, data in self._unwritten.items():
                await file.append(data, self._memory, self._disk)
        except FormParserError as error:
            raise _malformed("it is not valid multipart/form-data") from error
        except OSError as error:
            raise GatewayError(ErrorCode.MEMORY_FULL, f"a temporary file: {error.strerror}") from error
        self._unwritten.clear()

    def finish(self) -> None:
        """Raises: GatewayError INVALID_JSON if the end of the form is missing."""
        if not self._is_complete:
            raise _malformed("it ends before its last boundary")

    def close(self) -> None:
        for file in self.form.files:
            file.close(self._memory)
        self._memory.note(-self._text_bytes)
        self._disk.close()

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
        form, limits = self.form, self._limits
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not 0 < len(self._name) <= _NAME_MAX_CHARS:
            raise _malformed(f"the name of a part is missing or has more than {_NAME_MAX_CHARS} characters")
        if b"filename" in options or self._headers.get(b"content-type", b"").lower().startswith(_FILE_TYPES):
            if len(form.files) == limits.files_max:
                raise _malformed(f"it has more than {limits.files_max} files")
            self._file = FormFile(self._name)
            form.files.append(self._file)
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
            self.form.texts[self._name] = self._text.decode()
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
