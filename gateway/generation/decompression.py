"""Replies that an upstream compresses although it was asked not to."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_PIECE_BYTES: Final = 256 * 1024
"""Inflated at once: a compressed piece may hold a thousand times its size."""
_COMPRESSED_PIECE_BYTES: Final = 16 * 1024
"""Read at once: a compressed piece may hold a thousand blocks, each with tables to build, and no bytes."""
_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Compressed bytes beyond 9/8 of what they inflate to; what cannot be compressed has 5 more bytes in 16 KiB."""


def inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """A function that yields what received bytes inflate to in small pieces, None where nothing is compressed.

    A piece may be empty. Raises: GatewayError INVALID_RESPONSE, also from the function.
    """
    codings = [name for part in encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"content encoding {encoding[:40]!r}")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is
    overhead = 0

    def inflate(received: bytes) -> Iterator[bytes]:
        nonlocal overhead
        for at in range(0, len(received), _COMPRESSED_PIECE_BYTES):
            compressed = received[at : at + _COMPRESSED_PIECE_BYTES]
            overhead += len(compressed)
            while piece := _decompress(stream, compressed):
                overhead = max(0, overhead - len(piece) * 9 // 8)  # zeros, which take no room, buy none
                yield piece
                compressed = stream.unconsumed_tail
            if overhead > _OVERHEAD_BYTES_MAX:
                raise GatewayError(ErrorCode.INVALID_RESPONSE, "the content encoding is mostly overhead")
            yield b""

    return inflate


def _decompress(stream: "zlib._Decompress", compressed: bytes) -> bytes:
    try:
        return stream.decompress(compressed, _PIECE_BYTES)
    except zlib.error as error:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"broken content encoding: {error}") from error
