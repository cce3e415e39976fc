"""Recognises web pages: a response of a proxy, a firewall or a captive portal, and not of a provider."""

import html
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_READ_BYTES: Final = 16 * 1024
_START: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<!--.{0,2000}?-->\s*+)?<(?:!doctype\s+html|html|head|body|title)\b",
    re.IGNORECASE | re.DOTALL,
)
_TITLE: Final = re.compile(rb"<title[^>]{0,200}>(.{0,1000}?)</title", re.IGNORECASE | re.DOTALL)
_TITLE_MAX_CHARS: Final = 80
_LOCATION_MAX_CHARS: Final = 200


def is_web_page(body: bytes | bytearray) -> bool:
    return _START.match(body[:_READ_BYTES]) is not None


def describe_page(body: bytes | bytearray) -> str:
    """Describes a web page with its title."""
    found = _TITLE.search(body[:_READ_BYTES])
    text = html.unescape(found[1].decode("utf-8", "replace")) if found else ""
    title = "".join(filter(str.isprintable, " ".join(text.split())))[:_TITLE_MAX_CHARS]
    shown = f' titled "{title}"' if title else ""
    return f"a web page{shown}, not the provider: a proxy, a captive portal or a wrong base_url"


def describe_redirect(headers: Mapping[str, str]) -> str:
    """Describes the target of a redirect, without user and query, which may be secret; empty without one."""
    try:
        parts = urlsplit(headers.get("location", "").strip())
    except ValueError:
        return ""
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    target = f"{origin}{parts.path}"[:_LOCATION_MAX_CHARS]
    return f" to {target}" if target and target.isprintable() else ""
