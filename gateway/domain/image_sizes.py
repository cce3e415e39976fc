"""Reads the size of an image from its file's first bytes: what a provider made, which it need not say."""

from base64 import b64decode
from typing import Final, Literal

from gateway.domain.images import Format, Size, sniff

_HEAD_CHARS: Final = 4 * 64 * 1024
"""Base64 that is read: 192 KiB. Metadata may precede the size of a JPEG."""
_SEGMENTS_MAX: Final = 200
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, which has the size."""


def read_size(base64: memoryview) -> Size | None:
    """Returns the pixels of a PNG, JPEG or WebP; None if they cannot be found."""
    try:
        size = _read(b64decode(base64[: min(_HEAD_CHARS, len(base64) // 4 * 4)]))
    except (ValueError, IndexError):
        return None
    return size if size and min(size) > 0 else None


def _read(head: bytes) -> Size | None:
    match sniff(head):
        case Format.PNG:
            return _of(head[16:20], head[20:24], "big")
        case Format.WEBP:
            return _webp(head)
        case Format.JPEG:
            return _jpeg(head)
    return None


def _of(width: bytes, height: bytes, order: Literal["big", "little"]) -> Size:
    return Size(int.from_bytes(width, order), int.from_bytes(height, order))


def _webp(head: bytes) -> Size | None:
    """Reads the first chunk: extended, lossy or lossless (RFC 9649)."""
    match head[12:16]:
        case b"VP8X":
            width, height = _of(head[24:27], head[27:30], "little")
            return Size(width + 1, height + 1)
        case b"VP8 ":
            width, height = _of(head[26:28], head[28:30], "little")
            return Size(width & 0x3FFF, height & 0x3FFF)
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return None


def _jpeg(head: bytes) -> Size | None:
    at = 2
    for _ in range(_SEGMENTS_MAX):
        if head[at] != 0xFF:
            return None
        if head[at + 1] in _FRAMES:
            return _of(head[at + 7 : at + 9], head[at + 5 : at + 7], "big")
        at += 1 if head[at + 1] == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
