"""Converts images to the file format that a client wants and an upstream does not make, or that an upstream takes.

It also cuts the pictures of upstreams that make several images as one grid.

PNG is lossless. WebP and JPEG have the quality that the client sets, 0 to 100. A conversion keeps what a viewer needs:
an ICC profile that fits the pixels, and the EXIF orientation, applied to the pixels. Other metadata is dropped. JPEG
shows transparent parts on white, and of an animation every format has the first frame.

A result has been paid for before it is converted, so every failure leaves the images as they are. An image of a request
is converted before anything is bought, so a failure refuses the request.

Child processes convert, at a low priority. Threads hold up the event loop: base64 and parts of Pillow keep the
interpreter lock, and the kernel knows no priority between threads that wait for it. Beside 200 conversions on two
processors, the p99 of other requests is 25 to 36 ms with a thread and 18 to 21 ms with a process; it is 19 ms beside a
program that uses one processor, and 13 ms beside none (bench/scenarios/conversion.py). The images are in memory that
both processes share, so none is copied. A PNG of 1024x1024 takes 55 ms of CPU at compression level 1; level 3 takes
20 ms more for 10 % fewer bytes, and level 6 three times as much. A WebP of quality 100 takes 105 ms.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, InputImage, Picture, decoded_bytes, sniff_base64
from gateway.generation.codec_process import CodecProcess
from gateway.generation.memory_budget import ByteAccount
from gateway.observability.metrics import Metrics

_PROCESSES: Final = max(1, min(2, (os.cpu_count() or 1) - 1))
"""One leaves a core to the event loop; two convert 2,000 PNG of 1024x1024 a minute, more than most pools make."""
_TIMEOUT_S: Final = 30.0
"""Deadline of one image, from the queue to its last byte."""
_ROOM_TIMEOUT_S: Final = 2.0
"""Wait for memory, in which a process is idle: a tenant that does not read its responses must not stop the others."""
_QUEUED_MAX: Final = 256
"""Images that wait for a process. More could not be converted before their deadline."""
_PIXELS_MAX: Final = 2**25
"""Limit on the pixels of an image: twice those of the largest format, 4096x4096. A few kilobytes can declare more."""
_INPUT_PIXELS_MAX: Final = 2**24
"""Limit on the pixels of an image of a request: a PNG of more is larger than upstreams take."""
_INPUTS_QUEUED_MAX: Final = 8
"""Inputs wait for a process only while the queue is this short: a flood of them must not delay paid images for long."""
_BYTES_PER_PIXEL: Final = 12
"""Memory of a conversion: two copies of the pixels of 4 bytes each, and the new file in base64, at most 4 more."""
_QUALITY: Final = 100
"""OpenAI's default of `output_compression` (reference/openai-images.md 1.2)."""


class _Failure(Enum):
    """Why an image is not converted; the value is the metric label."""

    QUEUE_FULL = "queue_full"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"


@dataclass(slots=True, eq=False)
class ImageConverter:
    """Converts images in a few child processes of its own, which start with the first image."""

    _metrics: Metrics
    _timeout_s: float = _TIMEOUT_S
    _queued_max: int = _QUEUED_MAX
    _processes: list[CodecProcess] = field(default_factory=lambda: [CodecProcess() for _ in range(_PROCESSES)])
    """The idle ones."""
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(2 * _PROCESSES, "conversion"), init=False
    )
    """They wait for the processes. An abandoned one may still wait for its process to end."""
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PROCESSES), init=False)
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

        Raises: GatewayError INVALID_VALUE, or MEMORY_FULL if the processes or the memory are in use.
        """
        encoded = await self._encode_in_turn(image.base64, Format.PNG, None, memory, is_input=True)
        if encoded is _Failure.TOO_LARGE or encoded is _Failure.UNREADABLE:
            text = f"Invalid file '{image.role.value}': it is damaged, or has more than {_INPUT_PIXELS_MAX} pixels."
            raise GatewayError(ErrorCode.INVALID_VALUE, text, param=image.role.value)
        if isinstance(encoded, _Failure):
            raise GatewayError(ErrorCode.MEMORY_FULL, f"conversion of an input: {encoded.value}")
        link = b"".join((b'"data:image/png;base64,', encoded, b'"'))
        memory.note(len(link) - len(encoded))
        return replace(image, link=link, format=Format.PNG, size_bytes=decoded_bytes(encoded))

    async def cut(self, grid: Base64Image, count: int, memory: ByteAccount) -> tuple[Base64Image, ...]:
        """Returns the first quarters of an image, by rows, as PNG; those that cannot be cut are left out.

        They count against `memory` in place of the image.
        """
        parts = await asyncio.gather(
            *(self._encode_in_turn(grid.base64, Format.PNG, None, memory, quarter=index) for index in range(count))
        )
        memory.note(-_held_bytes(grid))
        return tuple(Base64Image(part) for part in parts if not isinstance(part, _Failure))

    async def close(self) -> None:
        """Ends the processes. Images that wait are left as they are."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(asyncio.to_thread(process.close) for process in self._processes))

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
        return replace(picture, base64=encoded)

    async def _encode_in_turn(
        self,
        data: memoryview,
        form: Format,
        quality: int | None,
        memory: ByteAccount,
        *,
        is_input: bool = False,
        quarter: int | None = None,
    ) -> "memoryview | _Failure":
        """Returns an image of base64, or a quarter of it, as base64 in a format, which counts in `memory`."""
        encoded: memoryview | _Failure
        if self._queued >= (_INPUTS_QUEUED_MAX if is_input else self._queued_max):
            encoded = _Failure.QUEUE_FULL
        else:
            self._queued += 1
            try:
                async with asyncio.timeout(self._timeout_s), self._slots:
                    encoded = await self._encode(data, form, quality, memory, is_input=is_input, quarter=quarter)
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
        self,
        data: memoryview,
        form: Format,
        quality: int | None,
        memory: ByteAccount,
        *,
        is_input: bool,
        quarter: int | None,
    ) -> "memoryview | _Failure":
        loop, process = asyncio.get_running_loop(), self._processes.pop()
        try:
            given = (data, form, _QUALITY if quality is None else quality, quarter)
            pixels = await loop.run_in_executor(self._threads, process.open, *given)
            if pixels > (_INPUT_PIXELS_MAX if is_input else _PIXELS_MAX):
                process.refuse()
                return _Failure.TOO_LARGE
            room_bytes, encoded = pixels * _BYTES_PER_PIXEL, memoryview(b"")
            try:
                async with asyncio.timeout(_ROOM_TIMEOUT_S):
                    await memory.wait_for(room_bytes)
            except TimeoutError:
                process.refuse()
                raise
            try:
                encoded = await loop.run_in_executor(self._threads, process.save)
            finally:
                memory.note(len(encoded) - room_bytes)
            return encoded
        finally:
            self._processes.append(process.reuse())


def _held_bytes(picture: Picture | None) -> int:
    return len(picture.base64) if isinstance(picture, Base64Image) else 0
