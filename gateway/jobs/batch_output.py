"""The output and error files of a batch.

An output file is stored as a manifest: its lines, with a reference to a stored picture in the place of its base64. It
is rendered while it is read, with the exact length, because the length of base64 follows from that of the picture. A
reference is enclosed in U+0001, which JSON never holds unescaped.
"""

import base64
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.images import Format
from gateway.jobs.batch_input import read_lines
from gateway.jobs.file_records import FileRecord
from gateway.jobs.files import no_file
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage
from gateway.storage.pictures import EXTENSIONS, PictureName, PictureStore, StoredPicture, object_name, tag_of

OUTPUT: Final = "batch"
"""The kind of files that are rendered here. The only object of such a file is its manifest."""
_MARK: Final = b"\x01"
_LINK: Final = re.compile(rf"/files/([0-9a-f]{{40}})\.({'|'.join(EXTENSIONS)})\?expires=(\d{{1,12}})&[^/]*", re.ASCII)
LINE_MAX_BYTES: Final = 1024 * 1024
"""A manifest's line has at most ten references and links."""


class _Image(msgspec.Struct, frozen=True):
    url: str | None = None


class _Body(msgspec.Struct, frozen=True):
    data: tuple[_Image, ...] = ()


class _Response(msgspec.Struct, frozen=True):
    body: _Body


class _Line(msgspec.Struct, frozen=True):
    response: _Response | None = None


def refer(picture: StoredPicture) -> bytes:
    """Renders the reference that stands for the base64 of a picture."""
    text = f"{picture.id} {picture.format.value} {picture.size_bytes} {picture.expires_s}"
    return _MARK + text.encode() + _MARK


def rendered_bytes(line: bytes) -> int:
    """Returns the length of a manifest's line once it is rendered."""
    return sum(_size(part, index) for index, part in enumerate(line.split(_MARK)))


def find_pictures(line: bytes, tenant: str) -> Iterator[PictureName]:
    """Yields the stored pictures of a manifest's line, by reference or link; none of another tenant's.

    A link in a text of the client, as its custom ID, names no picture of this line.
    """
    parts = line.split(_MARK)
    for reference in parts[1::2]:
        picture = _read(reference)
        yield PictureName(picture.id, picture.format, picture.expires_s)
    response = msgspec.json.decode(b"".join(parts[::2]), type=_Line).response
    for image in response.body.data if response else ():
        path = (image.url or "").rpartition("/files/")
        if (link := _LINK.fullmatch("".join(path[1:]))) and link[1].startswith(tag_of(tenant)):
            yield PictureName(link[1], EXTENSIONS[link[2]], int(link[3]))


def _size(part: bytes, index: int) -> int:
    return _base64_size(_read(part).size_bytes) if index % 2 else len(part)


def _base64_size(size_bytes: int) -> int:
    return -(-size_bytes // 3) * 4


def _read(reference: bytes) -> StoredPicture:
    name, form, size, expires = reference.decode().split(" ")
    return StoredPicture(name, Format(form), int(size), int(expires))


def manifest_name(tenant: str, stored_until: int, token: str) -> str:
    """Returns the name of the object that holds a manifest; `token` is 32 random hexadecimal digits."""
    return object_name("files", stored_until, tag_of(tenant) + token, ".manifest")


@dataclass(frozen=True, slots=True)
class OutputRenderer:
    """Renders manifests, as a ContentRenderer of the kind OUTPUT."""

    objects: ObjectStorage
    pictures: PictureStore

    async def __call__(self, record: FileRecord, start: int, end: int, /) -> AsyncIterator[bytes]:
        """Yields bytes of the rendered file. Memory: one line and one chunk of a picture.

        A picture outside the range is not read.
        Raises: GatewayError STORAGE_UNAVAILABLE, NOT_FOUND.
        """
        try:
            manifest = aiter(await self.objects.get(record.objects[0]))
            async for piece in self._render(manifest, start, end):
                yield piece
        except ObjectNotFoundError:
            raise no_file(record.id) from None

    async def _render(self, manifest: AsyncIterator[bytes], start: int, end: int) -> AsyncIterator[bytes]:
        at = 0
        async for _, _, content in read_lines(manifest, LINE_MAX_BYTES):
            assert content is not None
            for index, part in enumerate((bytes(content) + b"\n").split(_MARK)):
                size = _size(part, index)
                first, last = max(start - at, 0), min(end - at, size)
                if first < last and index % 2:
                    async for piece in self._encode(_read(part), first, last):
                        yield piece
                elif first < last:
                    yield part[first:last]
                at += size
            if at >= end:
                return

    async def _encode(self, picture: StoredPicture, first: int, last: int) -> AsyncIterator[bytes]:
        """Yields characters `first` up to `last` of a picture's base64."""
        begin, skipped, left = first // 4 * 3, first % 4, last - first
        stop = min(picture.size_bytes, -(-last // 4) * 3)
        stored = await self.pictures.open(picture.id, picture.format, picture.expires_s, begin, stop)
        rest = b""
        async for chunk in stored:
            data = rest + bytes(chunk)
            whole = len(data) // 3 * 3
            rest = data[whole:]
            if not whole:
                continue
            encoded = base64.b64encode(data[:whole])[skipped:]
            skipped = 0
            yield encoded[:left]
            left -= len(encoded)
        if left > 0:
            yield base64.b64encode(rest)[skipped:][:left]


def render_line(
    batch_id: str, number: int, custom_id: str, response: tuple[int, str, Iterable[bytes | memoryview]]
) -> bytes:
    """Renders a line with an HTTP response: status, request ID and the parts of the body."""
    status, request_id, body = response
    head = {"id": _line_id(batch_id, number), "custom_id": custom_id}
    inner = {"status_code": status, "request_id": request_id}
    return b"".join((_opened(head), b',"response":', _opened(inner), b',"body":', *body, b'},"error":null}\n'))


def render_unsent(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """Renders the line of a request that never ran."""
    error = {"code": code, "message": message}
    line = {"id": _line_id(batch_id, number), "custom_id": custom_id, "response": None, "error": error}
    return msgspec.json.encode(line) + b"\n"


def _opened(value: Mapping[str, object]) -> bytes:
    """Renders an object without its closing brace."""
    return msgspec.json.encode(value)[:-1]


def _line_id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
