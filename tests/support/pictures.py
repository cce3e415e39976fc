"""Small pictures, also such as declare any size."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def drawn(form: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    """Returns a file of coloured noise in a format of Pillow's."""
    file = io.BytesIO()
    Image.effect_noise(size, 64).convert("RGB").save(file, form, **options)
    return file.getvalue()


def declared(width: int, height: int) -> bytes:
    """Returns a PNG of 69 bytes that declares a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 7)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in pieces
    )


def declared_webp(width: int, height: int) -> bytes:
    """Returns a lossless WebP of about 40 bytes that declares a size."""
    data = bytearray(drawn("WEBP", (1, 1), lossless=True))
    at = data.index(b"VP8L") + 9  # behind the size of the chunk and a signature (RFC 9649 section 3.4)
    [declaration] = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, declaration >> 28 << 28 | (height - 1) << 14 | width - 1)
    return bytes(data)
