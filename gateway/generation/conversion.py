"""Converts images to the file format that a client wants and an upstream does not make, or that an upstream takes.

PNG is lossless. WebP and JPEG have the quality that the client sets, 0 to 100. A conversion keeps what a viewer needs:
an ICC profile that fits the pixels, and the EXIF orientation, applied to the pixels. Other metadata is dropped. JPEG
shows transparent parts on white, and of an animation every format has the first frame.

A result has been paid for before it is converted, so every failure leaves the images as they are. An image of a request
is converted before anything is bought, so a failure refuses the request.

Threads suffice, because Pillow decodes and encodes without the interpreter lock. Measured on two busy cores, with one
PNG of 1024x1024 after another: a task of the event loop that wakes every 2 ms is late by 2.0 ms (p99 25 ms) beside a
thread, by 1.5 ms (p99 22 ms) beside a process, and by 0.3 ms (p99 15 ms) beside neither. A process would hold 30 MB and
copy every image twice. A PNG takes 55 ms of CPU at compression level 1; level 3 takes 20 ms more for 10 % fewer bytes,
and level 6 three times as much. A WebP of quality 100 takes 105 ms.
"""

import asyncio
import binascii
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from io import BytesIO
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, InputImage, Picture, decoded_bytes, sniff, sniff_base64
from gateway.generation.memory_budget import ByteAccount
from gateway.observability.metrics import Metrics

if TYPE_CHECKING:
    from PIL import Image

_THREADS: Final = max(1, min(2, (os.cpu_count() or 1) - 1))
"""One leaves a core to the event loop; two convert 2,000 PNG of 1024x1024 a minute, more than most pools make."""
_TIMEOUT_S: Final = 30.0
"""Deadline of one image, from the queue to its last byte."""
_ROOM_TIMEOUT_S: Final = 2.0
"""Wait for memory, in which a thread is idle: a tenant that does not read its responses must not stop the others."""
_QUEUED_MAX: Final = 256
"""Images that wait for a thread. More could not be converted before their deadline."""
_PIXELS_MAX: Final = 2**25
"""Limit on the pixels of an image: twice those of the largest format, 4096x4096. A few kilobytes can declare more."""
_INPUT_PIXELS_MAX: Final = 2**24
"""Limit on the pixels of an image of a request: a PNG of more is larger than upstreams take."""
_INPUTS_QUEUED_MAX: Final = 8
"""Inputs wait for a thread only while the queue is this short: a flood of them must not delay paid images for long."""
_SCANS_MAX: Final = 100
"""Limit on the scans of a progressive JPEG, usually ten. One of a few bytes costs as much as a whole image."""
_BYTES_PER_PIXEL: Final = 12
"""Memory of a conversion: two copies of the pixels of 4 bytes each, and the new file in base64, at most 4 more."""
_QUALITY: Final = 100
"""OpenAI's default of `output_compression` (reference/openai-images.md 1.2)."""
_READABLE: Final = ("JPEG", "PNG", "WEBP", "GIF")
_START_OF_SCAN: Final = b"\xff\xda"
_T = TypeVar("_T")


class _Failure(Enum):
    """Why an image is not converted; the value is the metric label."""

    QUEUE_FULL = "queue_full"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"


@dataclass(slots=True, eq=False)
class ImageConverter:
    """Converts images in a few threads of its own."""

    _metrics: Metrics
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "conversion"))
    _timeout_s: float = _TIMEOUT_S
    _queued_max: int = _QUEUED_MAX
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_THREADS), init=False)
    _queued: int = field(default=0, init=False)

    async def convert(
        self, pictures: tuple[Picture, ...], form: Format, quality: int | None, memory: ByteAccount
    ) -> tuple[Picture, ...] | None:
        """Returns the images in a format; None if one of them cannot be converted, as a response states one format.

        `quality` is that of JPEG and WebP; None is the best. Images that already have the format are encoded again only
        for a lower quality. Links stay as they are. The new images count against `memory` in place of the former ones.
        """
        converted = await asyncio.gather(*(self._convert(picture, form, quality, memory) for picture in pictures))
        replaced = [(old, new) for old, new in zip(pictures, converted, strict=True) if old is not new]
        made = tuple(picture for picture in converted if picture)
        is_whole = len(made) == len(pictures)
        memory.note(-sum(_held_bytes(old if is_whole else new) for old, new in replaced))
        return made if is_whole else None

    async def convert_input(self, image: InputImage, memory: ByteAccount) -> InputImage:
        """Returns an image of a request as PNG, which counts in `memory` beside the former one.

        Raises: GatewayError INVALID_VALUE, or MEMORY_FULL if the threads or the memory are in use.
        """
        data = memoryview(image.link)[image.link.index(b",") + 1 : -1]  # of a data URL in a JSON string
        encoded = await self._encode_in_turn(data, Format.PNG, None, memory, is_input=True)
        if encoded in {_Failure.TOO_LARGE, _Failure.UNREADABLE}:
            text = f"Invalid file '{image.role.value}': it is damaged, or has more than {_INPUT_PIXELS_MAX} pixels."
            raise GatewayError(ErrorCode.INVALID_VALUE, text, param=image.role.value)
        if isinstance(encoded, _Failure):
            raise GatewayError(ErrorCode.MEMORY_FULL, f"conversion of an input: {encoded.value}")
        link = b'"data:image/png;base64,%b"' % encoded
        memory.note(len(link) - len(encoded))
        return replace(image, link=link, format=Format.PNG, size_bytes=decoded_bytes(memoryview(encoded)))

    async def close(self) -> None:
        """Ends the threads. Images that wait are left as they are."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _convert(
        self, picture: Picture, form: Format, quality: int | None, memory: ByteAccount
    ) -> Picture | None:
        """Returns the image in the format, counted in `memory`; the image itself if it is right; None if it cannot."""
        if not isinstance(picture, Base64Image):
            return picture
        has_format = sniff_base64(picture.base64) is form
        if has_format and (form is Format.PNG or quality is None or quality >= _QUALITY):
            return picture
        encoded = await self._encode_in_turn(picture.base64, form, quality, memory)
        if isinstance(encoded, _Failure):
            return None
        if has_format and len(encoded) >= len(picture.base64):
            memory.note(-len(encoded))
            return picture
        return replace(picture, base64=memoryview(encoded))

    async def _encode_in_turn(
        self, data: memoryview, form: Format, quality: int | None, memory: ByteAccount, *, is_input: bool = False
    ) -> "bytes | _Failure":
        """Returns an image of base64 as base64 in another format, which counts in `memory`."""
        encoded: bytes | _Failure
        if self._queued >= (_INPUTS_QUEUED_MAX if is_input else self._queued_max):
            encoded = _Failure.QUEUE_FULL
        else:
            self._queued += 1
            try:
                async with asyncio.timeout(self._timeout_s), self._slots:
                    encoded = await self._encode(data, form, quality, memory, is_input=is_input)
            except TimeoutError:
                encoded = _Failure.TIMEOUT
            except Exception:  # noqa: BLE001 - a broken file raises anything in Pillow, and the image is paid for
                encoded = _Failure.UNREADABLE
            finally:
                self._queued -= 1
        result = encoded.value if isinstance(encoded, _Failure) else "converted"
        self._metrics.conversions.labels(form.value, result).inc()
        return encoded

    async def _encode(
        self, data: memoryview, form: Format, quality: int | None, memory: ByteAccount, *, is_input: bool
    ) -> "bytes | _Failure":
        image = await self._run(lambda: _open(data))
        pixels = image.width * image.height
        if pixels > (_INPUT_PIXELS_MAX if is_input else _PIXELS_MAX):
            return _Failure.TOO_LARGE
        room_bytes = pixels * _BYTES_PER_PIXEL
        async with asyncio.timeout(_ROOM_TIMEOUT_S):
            await memory.wait_for(room_bytes)
        encoded = b""
        try:
            encoded = await self._run(lambda: _save(image, form, _QUALITY if quality is None else quality))
        finally:
            memory.note(len(encoded) - room_bytes)
        return encoded

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _held_bytes(picture: Picture | None) -> int:
    return len(picture.base64) if isinstance(picture, Base64Image) else 0


def _open(encoded: memoryview) -> "Image.Image":
    """Reads the header of an image. Raises: any exception of Pillow, for data that is not an image too."""
    from PIL import Image, WebPImagePlugin  # noqa: F401, PLC0415 - Pillow takes 45 ms, and would load 40 other formats

    data = binascii.a2b_base64(encoded)
    if sniff(data) is Format.JPEG and data.count(_START_OF_SCAN) > _SCANS_MAX:
        raise OSError("too many scans")
    return Image.open(BytesIO(data), formats=_READABLE)


def _save(image: "Image.Image", form: Format, quality: int) -> bytes:
    """Returns an image in another format, in base64. Raises: any exception of Pillow."""
    from PIL import ImageOps  # noqa: PLC0415

    profile = image.info.get("icc_profile") or b""
    ImageOps.exif_transpose(image, in_place=True)
    image = _with_eight_bits(image, is_opaque=form is Format.JPEG)
    colours = b"GRAY" if image.mode == "L" else b"RGB "
    options: dict[str, object] = {"icc_profile": profile if profile[16:20] == colours else None}
    options |= {"compress_level": 1} if form is Format.PNG else {"quality": quality}
    file = BytesIO()
    image.save(file, form.value, **options)
    return binascii.b2a_base64(file.getbuffer(), newline=False)


def _with_eight_bits(image: "Image.Image", *, is_opaque: bool) -> "Image.Image":
    """Returns an image in RGB, RGBA or grey, which every format has. Raises: OSError for deeper pixels."""
    from PIL import Image  # noqa: PLC0415

    if image.mode.startswith(("I", "F")):
        raise OSError(f"mode {image.mode}")
    if image.has_transparency_data:
        coloured = image if image.mode == "RGBA" else image.convert("RGBA")
        if not is_opaque:
            return coloured
        canvas = Image.new("RGB", coloured.size, "white")
        canvas.paste(coloured, mask=coloured)
        return canvas
    mode = "L" if image.mode in {"1", "L"} else "RGB"
    return image if image.mode == mode else image.convert(mode)
