"""The base URL under which a client reaches this server, for links in responses.

`[server] public_url` decides. Without it the base is that of the request: its Host header, or what a trusted proxy says
in X-Forwarded-Host and X-Forwarded-Prefix. A client that forges its Host header gets links that only it receives.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

IS_PROXIED: Final = "is_proxied"
"""The key of the request's state that is true if the connection is one of `[server] trusted_proxies`."""
_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII)
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){0,8}", re.ASCII)


def base_url(request: Request, public_url: str = "") -> str:
    """Returns scheme, host and path prefix without a slash at the end; empty if the request names no valid host."""
    if public_url:
        return public_url.rstrip("/")
    headers, prefix = request.headers, ""
    candidates = [headers.get("host", "")]
    if request.scope["state"].get(IS_PROXIED):  # uvicorn has read X-Forwarded-Proto
        candidates.insert(0, headers.get("x-forwarded-host", "").partition(",")[0].strip())
        prefix = headers.get("x-forwarded-prefix", "").partition(",")[0].strip().rstrip("/")
    host = next(filter(_HOST.fullmatch, candidates), "")
    return f"{request.scope['scheme']}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}" if host else ""


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address is always this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_protected(url: str) -> bool:
    """Returns whether a URL is https or on this machine, so that the network cannot read what is sent to it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
