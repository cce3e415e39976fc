"""Replies that an upstream compresses although it was asked not to."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from gateway.domain.faults import Fault, GatewayError

_PIECE_BYTES: Final = 256 * 1024
"""Inflated at once: a compressed piece may hold a thousand times its size."""


def inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """A function that yields what received bytes inflate to in small pieces, None where nothing is compressed.

    Raises: GatewayError ANSWER_UNREADABLE, also from the function.
    """
    codings = [name for part in encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise GatewayError(Fault.ANSWER_UNREADABLE, f"content encoding {encoding[:40]!r}")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is

    def inflate(received: bytes) -> Iterator[bytes]:
        try:
            while piece := stream.decompress(received, _PIECE_BYTES):
                yield piece
                received = stream.unconsumed_tail
        except zlib.error as error:
            raise GatewayError(Fault.ANSWER_UNREADABLE, f"broken content encoding: {error}") from error

    return inflate
