"""The exact map from aiohttp's errors to httpx's, each with its reason and remedy in words."""

import errno
from typing import Final

import aiohttp
import httpx

from gateway.generation.transport.connections import TlsPortError, UnreadRequestError
from gateway.generation.transport.proxies import Proxy

_ERRORS: Final[tuple[tuple[type[BaseException], type[httpx.TransportError]], ...]] = (
    # Most specific first. First block: nothing was sent, or no byte of it was read.
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ServerFingerprintMismatch, httpx.ConnectError),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (TlsPortError, httpx.ConnectError),
    (UnreadRequestError, httpx.ConnectError),
    # Second block: something may have been sent.
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ClientError, httpx.ReadError),
    (TimeoutError, httpx.ReadTimeout),
    (ValueError, httpx.UnsupportedProtocol),  # an invalid host name
    (OSError, httpx.ReadError),
)
"""Map from aiohttp's exceptions to httpx's."""

TRIES: Final = 3
"""Connections tried for a request of which no byte was read. Servers close idle connections at any time."""
_PLAIN_PORT: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)
"""OpenSSL's reasons for bytes that are not TLS."""
_TRUST: Final = (
    "if a proxy of this network or a private authority signs it, set SSL_CERT_FILE or [requests] ca_file to the "
    "authority's PEM file"
)

_CERTIFICATE_REMEDIES: Final = {
    9: "check this machine's clock",  # not valid yet
    10: "check this machine's clock; the owner of the host must renew it",  # has expired
    62: "check the host in {setting}",  # another name
    64: "check the host in {setting}",  # another address
}
"""By OpenSSL's X509_V_ERR codes (openssl-verification-options(1))."""


def kind_of(error: BaseException) -> type[httpx.TransportError]:
    return next(to for kind, to in _ERRORS if isinstance(error, kind))


def map_error(
    error: BaseException, host: str = "", proxy: Proxy | None = None, setting: str = "base_url"
) -> httpx.TransportError:
    """Returns httpx's error with reason and remedy. `host`: with port, since the URL may be signed and is not shown.

    `setting` names the URL.
    """
    text = f"{type(error).__name__}: {error}"
    match error:
        case aiohttp.ClientHttpProxyError():
            text = _refused_by_proxy(error, host, proxy, setting)
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
            text = type(error).__name__  # the rest holds the URL
        case aiohttp.ConnectionTimeoutError() if proxy:
            text = f"no connection to {host} through {proxy.name} in time; check that the proxy can reach it"
        case aiohttp.ConnectionTimeoutError():
            text = (
                f"no connection to {host} in time; a firewall may drop it, or this network needs a proxy (HTTPS_PROXY)"
            )
        case aiohttp.ClientConnectorCertificateError():
            text = f"the certificate of {host} is not trusted ({_verification(error.certificate_error, setting)}"
        case aiohttp.ClientConnectorError():
            text = _unreachable(error, host, proxy, setting)
        case TlsPortError():
            text = f"{host} expects TLS on this port; use https:// in {setting}"
        case UnreadRequestError():
            text = f"{host} closed {TRIES} connections before it had read the request"
    return kind_of(error)(text)


def _verification(error: Exception, setting: str) -> str:
    """Returns OpenSSL's reason, a closing bracket, and the remedy."""
    reason = str(getattr(error, "verify_message", "")) or str(error)[:200]
    remedy = _CERTIFICATE_REMEDIES.get(getattr(error, "verify_code", 0), _TRUST)
    return f"{reason}); {remedy.format(setting=setting)}"


def _refused_by_proxy(error: aiohttp.ClientHttpProxyError, host: str, proxy: Proxy | None, setting: str) -> str:
    name = proxy.name if proxy else "the proxy"
    remedy = "ask its operators to allow this host"
    if error.status in {401, 407}:  # tinyproxy sends 401
        schemes = error.headers.getall("proxy-authenticate", []) if error.headers else []
        accepted = ", ".join(scheme.split(maxsplit=1)[0][:20] for scheme in schemes if scheme.strip())
        offer = f"; the proxy accepts {accepted}" if accepted else ""
        remedy = f"check its user and password (the gateway sends Basic{offer})"
    elif error.status >= 500:
        remedy = f"check {setting}, and that the proxy can reach this host"
    return f"{name} refuses CONNECT to {host} with {error.status} {error.message[:80]}; {remedy}"


def _unreachable(error: aiohttp.ClientConnectorError, host: str, proxy: Proxy | None, own: str) -> str:
    """Explains an error of DNS, TCP or TLS. Behind a proxy, only TLS concerns the host itself."""
    is_tls = isinstance(error, aiohttp.ClientConnectorSSLError)
    is_proxy = proxy is not None and not (is_tls and proxy.url.startswith("http://"))
    name = proxy.name if proxy and is_proxy else host
    setting = proxy.source if proxy and is_proxy else own
    cause = error.os_error
    text = str(cause.strerror or cause)[:200]
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        remedy = f"check {setting} and DNS" + ("" if is_proxy else ", and if this network needs a proxy (HTTPS_PROXY)")
        return f"the name of {name} is not resolved ({text}); {remedy}"
    if is_tls:
        if getattr(cause, "reason", None) in _PLAIN_PORT:
            return f"{name} does not speak TLS on this port; use http:// or another port in {setting}"
        return f"the TLS handshake with {name} failed ({getattr(cause, 'reason', None) or text}); check {setting}"
    if cause.errno == errno.ECONNREFUSED:
        return f"{name} refuses the connection; check host and port in {setting}, and the firewall"
    if isinstance(cause, ConnectionError):
        return f"{name} closes the connection before the request is sent ({text}); check {setting} and the firewall"
    return f"{name} is unreachable ({text}); check {setting}, the route and the firewall"
