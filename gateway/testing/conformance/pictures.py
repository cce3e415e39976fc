"""Detects image formats and sizes."""

import base64
import binascii
import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from gateway.testing.conformance.checks import BrokenError
from gateway.testing.conformance.responses import shown


@dataclass(frozen=True, slots=True)
class Picture:
    """Detected format and size, whatever the response claims; an SVG has no size."""

    kind: str
    size: str | None


def decode(encoded: object) -> Picture:
    """Decodes `b64_json` of a response. Raises: BrokenError."""
    if not isinstance(encoded, str) or not encoded:
        raise BrokenError(f"b64_json is {shown(encoded)}")
    if encoded.startswith("data:"):
        raise BrokenError("b64_json begins with 'data:'")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenError(f"b64_json is no base64 without line breaks: {error}") from error
    return measure(content)


def measure(content: bytes) -> Picture:
    """Measures an image. Raises: BrokenError."""
    if content.lstrip()[:5] in {b"<svg ", b"<?xml"}:
        return Picture("svg", None)
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = (image.format or "").lower(), image.size
            image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenError(f"the bytes are no picture that opens ({len(content)} bytes)") from error
    return Picture(kind, f"{width}x{height}")
