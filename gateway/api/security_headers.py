"""Security headers added to every response (nosniff, no-store, frame-ancestors, referrer policy)."""

from collections.abc import Iterable
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


class DefaultHeaders(list[tuple[bytes, bytes]]):
    """Headers that uvicorn puts before those of each response, less those that the response has itself."""

    def __add__(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        own = list(headers)
        names = {name for name, _ in own}
        return [header for header in self if header[0] not in names] + own
