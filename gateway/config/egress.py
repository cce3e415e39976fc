"""How upstreams are reached: base URLs, proxies and certificate authorities."""

import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.config.secrets import read_password
from gateway.config.upstreams import SettingsError, Upstream
from gateway.generation.transport.proxies import NO_PROXY, ProxyRules, parse_proxy
from gateway.providers.protocol import Provider

_PASSWORD_FORM: Final = 'proxy_password = { env = "VARIABLE" } or { file = "/path" }'  # noqa: S105 - names the setting

_URL_FORM: Final = "http:// or https:// and a host"


def read_base_url(upstream: Upstream, provider: Provider, where: str) -> str:
    """Returns the base URL without a final slash, by default the provider's own.

    Raises: SettingsError if there is none, or if the API's own path follows it twice.
    """
    base_url = (upstream.base_url or provider.base_url).rstrip("/")
    if not base_url:
        raise SettingsError(f"{where}: missing required field `base_url`; expected {_URL_FORM}")
    try:
        if "\\" in base_url:
            raise ValueError("it has a backslash")  # noqa: TRY301 - reported as the others
        httpx.URL(base_url)
        _ = urlsplit(base_url).port  # raises for one out of range
    except (httpx.InvalidURL, ValueError) as error:
        raise SettingsError(f"{where}.base_url: '{upstream.base_url}' is no address ({error})") from error
    path = urlsplit(base_url).path.lower()
    for own in sorted(_beginnings(provider), key=len, reverse=True):
        if path.endswith(own):
            raise SettingsError(
                f"{where}.base_url: '{upstream.base_url}' ends in {own}, which the gateway appends itself. "
                f"Use '{base_url[: -len(own)].rstrip('/')}'"
            )
    return base_url


def _beginnings(provider: Provider) -> Iterator[str]:
    """Yields the provider's paths and their beginnings: /v1/models and /v1."""
    for route in provider.paths:
        steps = route.lower().split("/")
        yield from ("/".join(steps[:end]) for end in range(2, len(steps) + 1))


def read_proxies(upstream: Upstream, environ: Mapping[str, str], base_url: str, where: str) -> ProxyRules:
    """Returns the upstream's own proxy, else the environment's. Raises: SettingsError if it cannot be used."""
    try:
        rules = _own_proxy(upstream, environ, where)
        rules.find(base_url)
    except ValueError as error:
        is_own = str(error).startswith("proxy")  # otherwise a variable is named
        raise SettingsError(f"{where}{'.' if is_own else ': '}{error}") from error
    return rules


def _own_proxy(upstream: Upstream, environ: Mapping[str, str], where: str) -> ProxyRules:
    if upstream.proxy is None or upstream.proxy == NO_PROXY:
        if upstream.proxy_password:
            raise ValueError('proxy_password: needs proxy = "http://USER@HOST:PORT"')
        return ProxyRules() if upstream.proxy else ProxyRules.of_environment(environ)
    proxy = parse_proxy(upstream.proxy, "proxy")
    if proxy.password:
        raise ValueError(f"proxy: never write the password here; use {_PASSWORD_FORM}")
    if upstream.proxy_password is None:
        return ProxyRules.of_upstream(proxy)
    if not proxy.user:
        raise ValueError('proxy_password: proxy has no user; write proxy = "http://USER@HOST:PORT"')
    secret = read_password(upstream.proxy_password, environ, f"{where}.proxy_password")
    return ProxyRules.of_upstream(replace(proxy, password=secret.plaintext))


def unreadable_authorities(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields OpenSSL's variables that name nothing readable, with their values; OpenSSL ignores them silently."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = environ.get(name)
        if path and not os.access(path, os.R_OK):
            yield name, path


def check_authorities(path: str, where: str) -> None:
    """Raises: SettingsError if a PEM file holds no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(Path(path))
    except ssl.SSLError as error:
        raise SettingsError(f"{where}: {path} holds no certificate in PEM format") from error
    except OSError as error:
        raise SettingsError(f"{where}: {path} cannot be read ({error.strerror})") from error
