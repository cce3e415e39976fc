"""Converts images to the file format that a client wants and an upstream does not make.

PNG is lossless. WebP and JPEG have the quality that the client sets, 0 to 100. A conversion keeps what a viewer needs:
an ICC profile that fits the pixels, and the EXIF orientation, applied to the pixels. Other metadata is dropped. JPEG
shows transparent parts on white, and of an animation every format has the first frame.

An image has been paid for before it is converted, so every failure leaves the images as they are.

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
from io import BytesIO
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.domain.images import Base64Image, Format, Picture, sniff, sniff_base64
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
_SCANS_MAX: Final = 100
"""Limit on the scans of a progressive JPEG, usually ten. One of a few bytes costs as much as a whole image."""
_BYTES_PER_PIXEL: Final = 12
"""Memory of a conversion: two copies of the pixels of 4 bytes each, and the new file in base64, at most 4 more."""
_QUALITY: Final = 100
"""OpenAI's default of `output_compression` (reference/openai-images.md 1.2)."""
_READABLE: Final = ("JPEG", "PNG", "WEBP", "GIF")
_START_OF_SCAN: Final = b"\xff\xda"
_T = TypeVar("_T")


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
        encoded: bytes | None = None
        if self._queued >= self._queued_max:
            result = "queue_full"
        else:
            self._queued += 1
            try:
                async with asyncio.timeout(self._timeout_s), self._slots:
                    encoded = await self._encode(picture, form, quality, memory)
                result = "converted" if encoded else "too_large"
            except TimeoutError:
                result = "timeout"
            except Exception:  # noqa: BLE001 - a broken file raises anything in Pillow, and the image is paid for
                result = "unreadable"
            finally:
                self._queued -= 1
        self._metrics.conversions.labels(form.value, result).inc()
        if encoded and has_format and len(encoded) >= len(picture.base64):
            memory.note(-len(encoded))
            return picture
        return replace(picture, base64=memoryview(encoded)) if encoded else None

    async def _encode(
        self, picture: Base64Image, form: Format, quality: int | None, memory: ByteAccount
    ) -> bytes | None:
        """Returns base64 that counts in `memory`; None if the image has too many pixels."""
        image = await self._run(lambda: _open(picture.base64))
        room_bytes = image.width * image.height * _BYTES_PER_PIXEL
        if image.width * image.height > _PIXELS_MAX:
            return None
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
