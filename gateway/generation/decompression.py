"""Decompresses replies of upstreams that ignore `accept-encoding: identity`."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_PIECE_BYTES: Final = 256 * 1024
"""Output per step: a compressed piece may expand a thousandfold."""
_COMPRESSED_PIECE_BYTES: Final = 16 * 1024
"""Input per step: it may hold a thousand blocks, each with tables to build and no output."""
_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Limit on compressed bytes beyond 9/8 of their output; incompressible data adds 5 bytes per 16 KiB."""


def inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """Returns a function that yields the decompressed data in small pieces; None for uncompressed replies.

    A piece may be empty. Raises: GatewayError INVALID_RESPONSE, also from the function.
    """
    codings = [name for part in encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"content encoding {encoding[:40]!r}")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, detected automatically
    overhead = 0

    def inflate(received: bytes) -> Iterator[bytes]:
        nonlocal overhead
        for at in range(0, len(received), _COMPRESSED_PIECE_BYTES):
            compressed = received[at : at + _COMPRESSED_PIECE_BYTES]
            overhead += len(compressed)
            try:
                while piece := stream.decompress(compressed, _PIECE_BYTES):
                    # Zero bytes compress to nothing and earn no allowance.
                    overhead = max(0, overhead - len(piece) * 9 // 8)
                    yield piece
                    compressed = stream.unconsumed_tail
            except zlib.error as error:
                raise GatewayError(ErrorCode.INVALID_RESPONSE, f"broken content encoding: {error}") from error
            if overhead > _OVERHEAD_BYTES_MAX:
                raise GatewayError(ErrorCode.INVALID_RESPONSE, "the content encoding is mostly overhead")
            yield b""

    return inflate
