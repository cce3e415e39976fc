"""Opens the connections of the commands that call the gateway's API."""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from gateway.cli.output import SOCKS, fail

if TYPE_CHECKING:
    import ssl

    import httpx

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts called without the proxies of the environment, which would see the admin key."""


def read_url(text: str) -> "httpx.URL":
    """Ends the command if the text is no URL."""
    import httpx

    try:
        url = httpx.URL(text)
        url.raw_host.decode().encode("idna")  # as the resolver does, which refuses empty labels
    except (httpx.InvalidURL, ValueError):  # their messages may repeat a password
        fail("--url or IMAGEGATE_URL is no URL; expected http:// or https:// and a host, as http://127.0.0.1:8081")
    return url


def open_response(
    opened: ExitStack, method: str, url: "httpx.URL", body: dict[str, object] | None, secret: str, timeout_s: float
) -> "httpx.Response":
    """Sends a request; `opened` closes its response. Ends the command if a proxy of the environment is unusable.

    Raises: httpx.HTTPError.
    """
    import httpx

    stream = httpx.stream(
        method,
        url,
        content=None if body is None else json.dumps(body),
        headers={"authorization": f"Bearer {secret}", "content-type": "application/json"},
        timeout=timeout_s,
        trust_env=url.host not in _LOCAL,
        verify=_trusted() if url.scheme == "https" else False,  # loading authorities takes 20 ms of CPU
    )
    try:
        return opened.enter_context(stream)
    except ImportError:  # of the package for SOCKS
        fail(SOCKS)
    except (httpx.InvalidURL, ValueError):  # their messages may repeat a password
        fail(
            "the environment names a proxy that cannot be used. Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; "
            "expected http://HOST:PORT for a proxy"
        )


def _trusted() -> "ssl.SSLContext":
    """Trusts httpx's and this machine's certificate authorities, including SSL_CERT_FILE."""
    import httpx

    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
