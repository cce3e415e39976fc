"""Security headers added to every response (nosniff, no-store, frame-ancestors, referrer policy)."""

from typing import Final

Headers = tuple[tuple[bytes, bytes], ...]

SECURITY_HEADERS: Final[Headers] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
TLS_HEADERS: Final[Headers] = (*SECURITY_HEADERS, (b"strict-transport-security", b"max-age=31536000"))
"""HSTS for a year (RFC 6797), added if the gateway itself serves TLS."""
DEFAULTS: Final = "default_headers"
"""The key of the request's state with the list that the server adds to its response, less what the response has."""
