"""Images, drawn from their description alone, so that equal requests give equal bytes."""

import asyncio
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

KNOWN_SKETCHES: Final = 20_000  # small: names of images that can be fetched
KEPT_PICTURES: Final = 64  # large: at most about 300 MB even when padded to 5 MB each


@dataclass(frozen=True, slots=True)
class Sketch:
    """Everything that determines an image."""

    prompt: str
    width: int
    height: int
    index: int
    seed: int | None
    reference: bytes = b""
    """Six colours of the reference image, 3 bytes each; empty without one."""
    is_grid: bool = False
    """Four images in one, by rows."""


class Gallery:
    """Draws images on first access, in threads, and caches the latest."""

    def __init__(
        self,
        *,
        image_bytes: int | None,
        known_sketches: int = KNOWN_SKETCHES,
        kept_pictures: int = KEPT_PICTURES,
        brushes: int | None = None,
    ) -> None:
        self._image_bytes = image_bytes
        self._known_sketches = known_sketches
        self._kept_pictures = kept_pictures
        self._sketches: OrderedDict[str, Sketch] = OrderedDict()
        self._pictures: OrderedDict[Sketch, bytes] = OrderedDict()
        self._brushes = asyncio.Semaphore(brushes or os.cpu_count() or 1)

    def hang(self, name: str, sketch: Sketch) -> None:
        """Registers a sketch under a name; the oldest names are dropped."""
        self._sketches[name] = sketch
        while len(self._sketches) > self._known_sketches:
            self._sketches.popitem(last=False)

    async def find(self, name: str) -> bytes | None:
        sketch = self._sketches.get(name)
        return None if sketch is None else await self.picture(sketch)

    async def picture(self, sketch: Sketch) -> bytes:
        """Returns the JPEG, reusing one drawn by a concurrent request."""
        if (kept := self._kept(sketch)) is not None:
            return kept
        async with self._brushes:
            if (kept := self._kept(sketch)) is not None:
                return kept
            drawn = await asyncio.to_thread(_draw, sketch, self._image_bytes)
        self._pictures[sketch] = drawn
        while len(self._pictures) > self._kept_pictures:
            self._pictures.popitem(last=False)
        return drawn

    async def reduce_reference(self, link: str) -> bytes:
        """Returns the six colours of a reference image that an image shows."""
        async with self._brushes:
            return await asyncio.to_thread(_reduce_reference, link)

    def _kept(self, sketch: Sketch) -> bytes | None:
        if sketch in self._pictures:
            self._pictures.move_to_end(sketch)
        return self._pictures.get(sketch)


def convert(file: bytes, form: str, *, blur: bool = False) -> bytes:
    """Returns an image in a format, blurred if a safety check withholds it. Runs in a thread."""
    from gateway.testing.simulator.drawing import convert as converted  # noqa: PLC0415 - as for drawing

    return converted(file, form, blur=blur)


def _reduce_reference(link: str) -> bytes:
    """Runs in a thread."""
    from gateway.testing.simulator.drawing import reduce_reference  # noqa: PLC0415 - as for drawing

    return reduce_reference(link)


def _draw(sketch: Sketch, image_bytes: int | None) -> bytes:
    """Runs in a thread."""
    from gateway.testing.simulator.drawing import draw  # noqa: PLC0415 - 4 MB, in every process that could be a simulator

    return draw(sketch, image_bytes=image_bytes)
