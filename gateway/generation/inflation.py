"""Decompresses gzip and deflate in small steps, for bodies from outside: upstreams' responses and clients' requests."""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from gateway.domain.errors import GatewayError

_INFLATED_BYTES: Final = 256 * 1024
"""Output per step: a compressed piece may expand a thousandfold."""
_DEFLATED_BYTES: Final = 16 * 1024
"""Input per step: it may hold a thousand blocks, each with tables to build and no output."""
_OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Limit on compressed bytes beyond 9/8 of their output; incompressible data adds 5 bytes per 16 KiB."""
_GZIP: Final = b"\x1f\x8b"


class Inflater:
    """One body in gzip, also of several members, or in deflate, also without the zlib header that some clients omit.

    `fail` builds the error from a reason, if the data is broken or mostly overhead.
    """

    def __init__(self, fail: Callable[[str], GatewayError]) -> None:
        self._fail = fail
        self._stream: zlib._Decompress | None = None  # None before the data and after each member
        self._head = b""  # the first bytes after that, too few or of nothing known
        self._has_ended = False
        self._overhead_bytes = 0

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Yields the decompressed data in pieces of at most 256 KiB, some of them empty.

        Yield to other tasks after each piece: few bytes may take long to decompress.
        """
        for at in range(0, len(received), _DEFLATED_BYTES):
            compressed = received[at : at + _DEFLATED_BYTES]
            self._overhead_bytes += len(compressed)
            is_done = False
            while not is_done:
                piece, compressed = self._step(compressed)
                # Zero bytes compress to nothing and earn no allowance.
                self._overhead_bytes = max(0, self._overhead_bytes - len(piece) * 9 // 8)
                is_done = not piece and not compressed
                yield piece
            if self._overhead_bytes > _OVERHEAD_BYTES_MAX:
                raise self._fail("it is mostly overhead")

    def finish(self) -> None:
        """Checks that the data is complete, and that nothing else follows it. A body without a byte passes."""
        if self._stream or (self._head and not self._has_ended):
            raise self._fail("it is truncated")
        if self._head:
            raise self._fail("other data follows its end")

    def _step(self, compressed: bytes) -> tuple[bytes, bytes]:
        """Returns the next piece, and the input that is left."""
        if self._stream is None:
            compressed = self._head + compressed
            if len(compressed) < 2 or (self._has_ended and not compressed.startswith(_GZIP)):
                self._head = compressed[:2]
                return b"", b""
            self._head, self._stream = b"", _begin(compressed)
        try:
            piece = self._stream.decompress(compressed, _INFLATED_BYTES)
        except zlib.error as error:
            raise self._fail(str(error)) from error
        if not self._stream.eof:
            return piece, self._stream.unconsumed_tail
        compressed, self._stream, self._has_ended = self._stream.unused_data, None, True
        return piece, compressed


def _begin(data: bytes) -> "zlib._Decompress":
    has_header = data.startswith(_GZIP) or (data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0)
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32 if has_header else -zlib.MAX_WBITS)
