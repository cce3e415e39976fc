"""Headers of every answer, hand-written ones too: a browser is to guess, keep, frame and tell others nothing of it."""

from typing import Final

Headers = tuple[tuple[bytes, bytes], ...]

SECURITY_HEADERS: Final[Headers] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
TLS_HEADERS: Final[Headers] = (*SECURITY_HEADERS, (b"strict-transport-security", b"max-age=31536000"))
"""Where the gateway itself speaks TLS, whatever a proxy says of its own: a year without plain HTTP (RFC 6797)."""
