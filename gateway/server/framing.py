"""Bounds on the bytes of a connection that are neither a complete head nor a body: incomplete heads, chunk framing."""

from typing import Final

_PER_BODY_BYTE: Final = 16
"""Framing bytes allowed per body byte, beyond the size of a head: a chunk of one byte has five."""
_HEADS_PER_SECTION: Final = 2
"""Heads' sizes allowed after a chunk: trailers are as large as a head, and count with the end of their chunk."""


class Framing:
    """Counts the framing bytes of one connection, by received segment."""

    __slots__ = (
        "_accounted_bytes",
        "_body_bytes",
        "_bytes",
        "_has_chunk",
        "_has_head_boundary",
        "_head_max_bytes",
        "held_bytes",
    )

    def __init__(self, max_header_bytes: int) -> None:
        self._head_max_bytes = max_header_bytes
        self._bytes = 0
        """Bytes of an incomplete head. After a complete one, all non-body bytes since: chunk sizes, trailers."""
        self._body_bytes = 0
        self.held_bytes = 0
        """Upper bound of what the parser buffers of an incomplete head, chunk size or trailer."""
        self.begin_segment()

    def begin_segment(self) -> None:
        self._accounted_bytes = 0
        """Complete heads and bodies in this segment."""
        self._has_head_boundary = False
        """True if a head began or ended in this segment."""
        self._has_chunk = False

    def note_head_boundary(self) -> None:
        """A head begins or is complete."""
        self._has_head_boundary = True
        self._body_bytes = 0

    def note_head(self, head_bytes: int) -> None:
        self._accounted_bytes += head_bytes

    def note_chunk(self) -> None:
        """A chunk size is complete."""
        self._has_chunk = True

    def note_body(self, body_bytes: int) -> None:
        self._accounted_bytes += body_bytes
        self._body_bytes += body_bytes

    def is_too_large(self, segment_bytes: int) -> bool:
        """Returns whether the framing up to the end of this segment exceeds a head's size, or the body's needs."""
        framing_bytes = max(segment_bytes - self._accounted_bytes, 0)
        self._bytes = framing_bytes + (0 if self._has_head_boundary else self._bytes)
        if self._has_chunk:
            self.held_bytes = min(framing_bytes, self._head_max_bytes)
        else:
            self.held_bytes = framing_bytes + (0 if self._has_head_boundary else self.held_bytes)
        return (
            self._bytes > self._head_max_bytes + _PER_BODY_BYTE * self._body_bytes
            or self.held_bytes > _HEADS_PER_SECTION * self._head_max_bytes
        )
