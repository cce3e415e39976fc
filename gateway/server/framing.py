"""Bounds on the framing of requests, and rejection of heads that allow request smuggling.

Servers that read one head differently disagree where the next request begins, or whose it is (RFC 9112 section 11.2).
Heads that allow this are rejected, and an Upgrade is removed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.api.openai import render_error
from gateway.api.security_headers import Headers
from gateway.domain.errors import GatewayError

_PER_BODY_BYTE: Final = 16
"""Framing bytes allowed per body byte, beyond the size of a head: a chunk of one byte has five."""
_HEADS_PER_SECTION: Final = 2
"""Heads' sizes allowed after a chunk: trailers are as large as a head, and count with the end of their chunk."""
_HOST: Final = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""Stricter than RFC 3986 section 3.2.2, as a comma joins two hosts."""
_SINGLE: Final = frozenset({b"host", b"authorization", b"api-key", b"x-api-key", b"content-type", b"content-encoding"})
_OURS: Final = b"x-imagegate-"
_REASONS: Final = {400: "Bad Request", 431: "Request Header Fields Too Large"}

Fields = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Framing:
    """Counts the bytes of a connection that are neither a complete head nor a body, by received segment."""

    head_max_bytes: int
    held_bytes: int = 0
    """Upper bound of what the parser buffers of an incomplete head, chunk size or trailer."""
    section_bytes: int = 0
    """Bytes of an incomplete head. After a complete one, all non-body bytes since: chunk sizes, trailers."""
    body_bytes: int = 0
    """Of the request in progress."""
    accounted_bytes: int = 0
    """Complete heads and bodies in this segment."""
    has_head_boundary: bool = False
    """True if a head began or ended in this segment."""
    has_chunk: bool = False
    """True if a chunk size was complete in this segment."""

    def end_segment(self, segment_bytes: int) -> bool:
        """Returns whether the framing up to the end of this segment exceeds a head's size, or the body's needs."""
        framing_bytes = max(segment_bytes - self.accounted_bytes, 0)
        self.section_bytes = framing_bytes + (0 if self.has_head_boundary else self.section_bytes)
        if self.has_chunk:
            self.held_bytes = min(framing_bytes, self.head_max_bytes)
        else:
            self.held_bytes = framing_bytes + (0 if self.has_head_boundary else self.held_bytes)
        self.accounted_bytes, self.has_head_boundary, self.has_chunk = 0, False, False
        return (
            self.section_bytes > self.head_max_bytes + _PER_BODY_BYTE * self.body_bytes
            or self.held_bytes > _HEADS_PER_SECTION * self.head_max_bytes
        )


def find_problem(version: str, fields: Fields) -> str:
    """Returns: the reason to reject a head; empty if there is none."""
    if version not in {"1.0", "1.1"}:
        return "HTTP version"
    seen: set[bytes] = set()
    codings = []
    for name, value in fields:
        if name in _SINGLE or name.startswith(_OURS):
            if name in seen:  # RFC 9110 section 5.3
                return f"several {name.decode().title() if name in _SINGLE else 'x-imagegate-*'} fields"
            seen.add(name)
            if name == b"host" and not _HOST.fullmatch(value.strip(b" \t")):
                return "Host"
        elif name == b"transfer-encoding":
            codings.append(value.strip().lower())
    if codings and (codings != [b"chunked"] or version == "1.0"):
        return "Transfer-Encoding"  # RFC 9112 section 6.1
    return "no Host" if b"host" not in seen and version == "1.1" else ""  # RFC 9112 section 3.2


def build_without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """Rebuilds a head without its Upgrade, which a server may ignore (RFC 9110 section 7.8)."""
    lines = b"".join(b"%b: %b\r\n" % field for field in fields if field[0] != b"upgrade")
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode("ascii"), lines)


def build_rejection(error: GatewayError, request_id: str, security: Headers) -> bytes:
    """The complete response to a request that the program does not see."""
    body, status = render_error(error), error.row.status
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nx-should-retry: false\r\n"
        "connection: close\r\n"
    )
    return head.encode("ascii") + b"".join(b"%b: %b\r\n" % field for field in security) + b"\r\n" + body
