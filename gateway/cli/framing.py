"""What comes on a connection and is neither a complete head nor a body: bounded, as nothing else ends it."""

from dataclasses import dataclass
from typing import Final

_PER_BODY_BYTE: Final = 16
"""Framing may be so much larger than the body, beside a head's bound: a chunk of one byte comes with five."""
_HEADS_A_SECTION: Final = 2
"""What follows a chunk may have the bytes of two heads: trailers are a head, and count with the end of their chunk."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection."""

    head_max_bytes: int = 64 * 1024
    """Request line and headers together: OpenAI's own budget (reference/openai-images.md 6.2)."""
    head_timeout_s: float = 30.0
    """For a head to arrive."""
    send_timeout_s: float = 300.0
    """For a full write buffer to be read, and for the rest of it once the connection is to be closed."""
    fields_max: int = 256
    """Header fields of one request. Browsers send about 20; each costs more than its bytes."""
    pipelined_max: int = 32
    """Requests that wait for the answer before theirs. No usual client sends even one so (RFC 9112 section 9.3.2)."""


class Framing:
    """Counts the bytes of one connection, by the pieces in which they are received."""

    __slots__ = (
        "_accounted_bytes",
        "_body_bytes",
        "_bytes",
        "_has_chunk",
        "_has_turned",
        "_head_max_bytes",
        "held_bytes",
    )

    def __init__(self, head_max_bytes: int) -> None:
        self._head_max_bytes = head_max_bytes
        self._bytes = 0
        """Of an incomplete head; of a complete one what came since and is no body: sizes of chunks, trailers."""
        self._body_bytes = 0
        self.held_bytes = 0
        """At most what the parser keeps of an incomplete head, size of a chunk, or trailer; more of one piece if that
        has chunks."""
        self.begin_piece()

    def begin_piece(self) -> None:
        self._accounted_bytes = 0
        """Complete heads and bodies in this piece."""
        self._has_turned = False
        """Whether a head began or was completed in it."""
        self._has_chunk = False

    def note_turn(self) -> None:
        """A head begins or is complete."""
        self._has_turned = True
        self._body_bytes = 0

    def note_head(self, head_bytes: int) -> None:
        self._accounted_bytes += head_bytes

    def note_chunk(self) -> None:
        """The size of a chunk is complete."""
        self._has_chunk = True

    def note_body(self, body_bytes: int) -> None:
        self._accounted_bytes += body_bytes
        self._body_bytes += body_bytes

    def is_too_large(self, piece_bytes: int) -> bool:
        """Whether more came, up to the end of this piece, than a head may have or a body of such a size needs."""
        more_bytes = max(piece_bytes - self._accounted_bytes, 0)
        self._bytes = more_bytes + (0 if self._has_turned else self._bytes)
        if self._has_chunk:
            self.held_bytes = min(more_bytes, self._head_max_bytes)
        else:
            self.held_bytes = more_bytes + (0 if self._has_turned else self.held_bytes)
        return (
            self._bytes > self._head_max_bytes + _PER_BODY_BYTE * self._body_bytes
            or self.held_bytes > _HEADS_A_SECTION * self._head_max_bytes
        )
