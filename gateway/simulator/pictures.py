"""The images: drawn from their description alone, so that the same request gives the same bytes."""

import asyncio
import hashlib
import io
import os
import textwrap
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

KNOWN_SKETCHES: Final = 20_000  # small: names of images that can be fetched
KEPT_PICTURES: Final = 64  # large: at most some 300 MB even when padded to 5 MB each
QUALITY: Final = 88  # with the grain below, 1024x1024 comes to some 150 KB, the size of a plain photograph
FONT_SIZES: Final = (72, 60, 48, 40, 32, 26, 22, 18, 15, 12)


@dataclass(frozen=True, slots=True)
class Sketch:
    """All that decides how an image looks."""

    prompt: str
    width: int
    height: int
    index: int
    seed: int | None


class Gallery:
    """Draws images when they are first looked at, in threads, and keeps the latest ones."""

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
        """Make the sketch known under the name; the oldest names are forgotten."""
        self._sketches[name] = sketch
        while len(self._sketches) > self._known_sketches:
            self._sketches.popitem(last=False)

    async def find(self, name: str) -> bytes | None:
        sketch = self._sketches.get(name)
        return None if sketch is None else await self.picture(sketch)

    async def picture(self, sketch: Sketch) -> bytes:
        """The JPEG; one drawn by another request while this one waited is used."""
        if (kept := self._kept(sketch)) is not None:
            return kept
        async with self._brushes:
            if (kept := self._kept(sketch)) is not None:
                return kept
            drawn = await asyncio.to_thread(draw, sketch, image_bytes=self._image_bytes)
        self._pictures[sketch] = drawn
        while len(self._pictures) > self._kept_pictures:
            self._pictures.popitem(last=False)
        return drawn

    def _kept(self, sketch: Sketch) -> bytes | None:
        if sketch in self._pictures:
            self._pictures.move_to_end(sketch)
        return self._pictures.get(sketch)


def draw(sketch: Sketch, *, image_bytes: int | None = None) -> bytes:
    """A JPEG of the sketch, padded to `image_bytes` with zeros after its end marker, which decoders skip."""
    image = _background(sketch)
    _write(image, sketch.prompt)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue().ljust(image_bytes or 0, b"\0")


def _background(sketch: Sketch) -> Image.Image:
    """Six muted colours blended into each other, under a fine grain."""
    size = (sketch.width, sketch.height)
    material = hashlib.shake_256(f"{sketch.prompt}/{sketch.index}/{sketch.seed}".encode("utf-8", "surrogatepass"))
    colours = bytes(40 + byte * 5 // 8 for byte in material.digest(18))
    gradient = Image.frombytes("RGB", (3, 2), colours).resize(size, Image.Resampling.BICUBIC)
    half = (sketch.width // 2, sketch.height // 2)
    grain = Image.frombytes("L", half, material.digest(half[0] * half[1])).resize(size).convert("RGB")
    return Image.blend(gradient, grain, 0.06)


def _write(image: Image.Image, prompt: str) -> None:
    """Set the prompt in the middle, as large as it fits; signs that the font lacks become boxes."""
    for font_size in FONT_SIZES:
        font = ImageFont.load_default(size=font_size)
        char_px = font.getlength(prompt) / len(prompt) or font_size / 2
        lines = textwrap.wrap(prompt, width=max(1, int(image.width * 0.84 / char_px)))
        if len(lines) * font_size * 1.3 <= image.height * 0.84:
            break
    ImageDraw.Draw(image).multiline_text(
        (image.width / 2, image.height / 2),
        "\n".join(lines),
        font=font,
        anchor="mm",
        align="center",
        fill="white",
        stroke_width=max(1, font_size // 16),
        stroke_fill="black",
    )
