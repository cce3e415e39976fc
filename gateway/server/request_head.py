"""Validation of a parsed request head against request smuggling.

Servers that read one head differently disagree where the next request begins, or whose it is (RFC 9112 section 11.2).
Heads that allow this are rejected, and an Upgrade is removed.
"""

import re
from collections.abc import Sequence
from typing import Final

from gateway.api.openai import render_error
from gateway.api.security_headers import Headers
from gateway.domain.errors import GatewayError

Fields = Sequence[tuple[bytes, bytes]]

_HOST: Final = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""Stricter than RFC 3986 section 3.2.2, as a comma joins two hosts."""
_SINGLE: Final = frozenset({b"host", b"authorization", b"content-type", b"content-encoding"})
_OURS: Final = b"x-imagegate-"
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_REASONS: Final = {400: "Bad Request", 431: "Request Header Fields Too Large"}


def find_problem(version: str, fields: Fields) -> str:
    """Returns: the reason to reject a head; empty if there is none."""
    if version not in _VERSIONS:
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
