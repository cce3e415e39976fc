"""Draws the images."""

import hashlib
import io
import textwrap
from base64 import b64decode
from typing import Final

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gateway.testing.simulator.pictures import Sketch

QUALITY: Final = 88  # with the grain below, 1024x1024 comes to about 150 KB, the size of a plain photograph
FONT_SIZES: Final = (72, 60, 48, 40, 32, 26, 22, 18, 15, 12)
REFERENCE_MAX_PIXELS: Final = 50_000_000  # larger references are not decoded


def draw(sketch: Sketch, *, image_bytes: int | None = None) -> bytes:
    """Draws a JPEG, padded to `image_bytes` with zeros after its end marker, which decoders skip."""
    image = _grid(sketch) if sketch.is_grid else _single(sketch)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue().ljust(image_bytes or 0, b"\0")


def reduce_reference(link: str) -> bytes:
    """Returns six colours of a reference image, 3 bytes each. They are derived from its text if it cannot be opened."""
    try:
        with Image.open(io.BytesIO(b64decode(link.partition(",")[2]))) as image:
            if image.width * image.height <= REFERENCE_MAX_PIXELS:
                return image.convert("RGB").resize((3, 2), Image.Resampling.BOX).tobytes()
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass
    return hashlib.shake_256(link.encode("utf-8", "surrogatepass")).digest(18)


def _grid(sketch: Sketch) -> Image.Image:
    width, height = sketch.width // 2, sketch.height // 2
    grid = Image.new("RGB", (2 * width, 2 * height))
    for index in range(4):
        single = Sketch(sketch.prompt, width, height, index, sketch.seed, sketch.reference)
        grid.paste(_single(single), (index % 2 * width, index // 2 * height))
    return grid


def _single(sketch: Sketch) -> Image.Image:
    image = _background(sketch)
    _write(image, sketch.prompt)
    return image


def _background(sketch: Sketch) -> Image.Image:
    """Blends six muted colours, those of the reference if there is one, under a fine grain."""
    size = (sketch.width, sketch.height)
    material = hashlib.shake_256(f"{sketch.prompt}/{sketch.index}/{sketch.seed}".encode("utf-8", "surrogatepass"))
    colours = sketch.reference or bytes(40 + byte * 5 // 8 for byte in material.digest(18))
    gradient = Image.frombytes("RGB", (3, 2), colours).resize(size, Image.Resampling.BICUBIC)
    half = (sketch.width // 2, sketch.height // 2)
    grain = Image.frombytes("L", half, material.digest(half[0] * half[1])).resize(size).convert("RGB")
    return Image.blend(gradient, grain, 0.06)


def _write(image: Image.Image, prompt: str) -> None:
    """Centres the prompt as large as it fits; characters missing in the font become boxes."""
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


def convert(file: bytes, form: str, *, blur: bool = False) -> bytes:
    """Returns an image in a format, "jpeg", "png" or "webp"; blurred as a safety check does it."""
    if form == "jpeg" and not blur:
        return file
    converted = io.BytesIO()
    with Image.open(io.BytesIO(file)) as image:
        shown = image.filter(ImageFilter.BoxBlur(40)) if blur else image
        shown.save(converted, form.upper(), **({"compress_level": 1} if form == "png" else {}))
    return converted.getvalue()
