"""Trust in result URLs: which ones the gateway may download, and the URL given to the client.

A URL comes from outside. It is followed only to an allow-listed host (`PUBLIC`) or a configured origin (`NAMED`).
Such an origin may be private and unencrypted.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

_HTTP: Final = re.compile(r"^http://([^/?#:]*)(?::80(?=[/?#]|$))?", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"https?://[^/?#]+", re.ASCII)


class LinkTrust(Enum):
    """Trust in the host of a result URL."""

    NONE = "none"
    PUBLIC = "public"
    """An allow-listed name, which must resolve to a public address."""
    NAMED = "named"
    """An origin that the operator configured; any address."""


class LinkPolicy:
    """The result hosts of one upstream: names with `*` wildcards, or whole origins."""

    def __init__(self, hosts: Iterable[str]) -> None:
        hosts = tuple(hosts)
        self._origins = frozenset(host.lower().rstrip("/") for host in hosts if _ORIGIN.match(host))
        patterns = (re.escape(host.lower()).replace(r"\*", "[a-z0-9.-]*") for host in hosts if not _ORIGIN.match(host))
        self._names = tuple(re.compile(pattern, re.ASCII) for pattern in patterns)

    def trust(self, url: str) -> LinkTrust:
        parts = _split(url)
        if parts is None:
            return LinkTrust.NONE
        origin, host, is_default_port = parts
        if origin in self._origins:
            return LinkTrust.NAMED
        if is_default_port and any(name.fullmatch(host) for name in self._names):
            return LinkTrust.PUBLIC
        return LinkTrust.NONE

    def client_url(self, url: str) -> str:
        """Returns the client's URL: https, unless the operator configured its origin (reference/minimax.md 1.4)."""
        return url if self.trust(url) is LinkTrust.NAMED else secured(url)


def secured(url: str) -> str:
    """Replaces `http://` by `https://`. The rest of a signed URL stays unchanged."""
    return _HTTP.sub(r"https://\1", url, count=1)


def host_of(url: str) -> str:
    """Returns the host for the log: the path and query of a signed URL are credentials."""
    parts = _split(url)
    return parts[1] if parts else "?"


def _split(url: str) -> tuple[str, str, bool] | None:
    """Returns origin, host, and whether the port is the scheme's default. None for any other URL."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError:
        return None
    has_login = parts.username is not None or parts.password is not None
    if parts.scheme not in {"http", "https"} or not host or has_login or "\\" in url:
        return None
    return f"{parts.scheme}://{parts.netloc}".lower(), host, port in {None, 80, 443}
