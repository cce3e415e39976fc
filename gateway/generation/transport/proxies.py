"""The HTTP proxy of a URL: an upstream's own, or the one of the environment.

The environment is read as curl and Go do: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, lower case first; an empty
variable is none, and the environment's proxies are never used for this machine's own addresses.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

NO_PROXY: Final = "none"
"""The setting of an upstream that is connected to directly."""
_PORTS: Final = {"http": 80, "https": 443}
_FORM: Final = "expected http://HOST:PORT or http://USER@HOST:PORT, with special characters percent-encoded"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    url: str
    """Without user and password."""
    user: str = ""
    password: str = field(default="", repr=False)
    source: str = ""
    """The setting or variable that names it."""

    @property
    def authorization(self) -> str:
        """The value of Proxy-Authorization; empty without a user."""
        if not self.user:
            return ""
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    @property
    def name(self) -> str:
        """The proxy in a message."""
        return f"the proxy {self.url.partition('://')[2]} ({self.source})"


def parse_proxy(text: str, source: str) -> Proxy:
    """Parses a URL, in which `http://` may be missing.

    Raises: ValueError naming the `source`, without the URL, which may hold a password.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise ValueError(f"{source}: not a proxy's URL; {_FORM}") from error
    if parts.scheme not in _PORTS:
        raise ValueError(
            f"{source}: {parts.scheme}:// proxies are not supported. Use an HTTP proxy (http://HOST:PORT), or connect "
            f'directly by NO_PROXY, or by proxy = "{NO_PROXY}" in [[upstreams]]'
        )
    if not host or parts.path not in {"", "/"} or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", host):
        raise ValueError(f"{source}: not a proxy's URL; {_FORM}")
    literal = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{literal}:{port}"
    return Proxy(url, unquote(parts.username or ""), unquote(parts.password or ""), source)


_Bypass = Callable[[str, int], bool]
"""Returns True for a host and port that are connected to directly."""


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """Which proxy a URL is requested through; by default none."""

    by_scheme: Mapping[str, Proxy | str] = field(default_factory=dict)
    """By the URL's scheme; a text is the problem of an unusable one."""
    bypasses: tuple[_Bypass, ...] = ()

    @classmethod
    def of_upstream(cls, proxy: Proxy | None) -> "ProxyRules":
        """One proxy for all addresses, or none at all."""
        return cls(dict.fromkeys(_PORTS, proxy) if proxy else {})

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "ProxyRules":
        by_scheme = dict[str, Proxy | str]()
        for scheme in _PORTS:
            name = next((name for name in _variables(f"{scheme}_proxy", "all_proxy") if name in environ), "")
            if text := environ.get(name, "").strip():
                try:
                    by_scheme[scheme] = parse_proxy(text, name)
                except ValueError as error:
                    by_scheme[scheme] = str(error)
        excluded = next((environ[name] for name in _variables("no_proxy") if name in environ), "")
        return cls(by_scheme, (_is_own, *filter(None, map(_bypass, re.split(r"[,\s]+", excluded)))))

    def find(self, url: str) -> Proxy | None:
        """Returns the proxy for a URL. Raises: ValueError with the reason and the remedy if it cannot be used."""
        if not self.by_scheme:
            return None
        parts = urlsplit(url)
        found, host = self.by_scheme.get(parts.scheme), _host(parts)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        if found is None or any(is_excluded(host, port) for is_excluded in self.bypasses):
            return None
        if isinstance(found, str):
            raise ValueError(found)  # noqa: TRY004 - not of the type of an argument
        return found


def _variables(*names: str) -> Iterator[str]:
    for name in names:
        yield from (name, name.upper())


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".")


def _is_own(host: str, _: int) -> bool:
    network = _network(host)
    return host == "localhost" or host.endswith(".localhost") or (network is not None and network.is_loopback)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _bypass(entry: str) -> _Bypass | None:
    """Reads an entry of NO_PROXY: `*`, an address, a network, or a name with its subdomains, with or without a port."""
    if entry == "*":
        return lambda _, __: True
    if network := _network(entry.strip("[]")):
        return partial(_is_in, network, None)
    try:
        parts = urlsplit(f"//{entry.lower()}")
        name, port = _host(parts).removeprefix("*").removeprefix("."), parts.port
    except ValueError:
        return None
    if network := _network(name):
        return partial(_is_in, network, port)
    return partial(_is_below, name, port) if name else None


def _is_in(network: IPv4Network | IPv6Network, wanted: int | None, host: str, port: int) -> bool:
    """Returns True for a literal address in the network. Names are not resolved."""
    try:
        return wanted in {None, port} and ip_address(host) in network
    except ValueError:
        return False


def _is_below(name: str, wanted: int | None, host: str, port: int) -> bool:
    return wanted in {None, port} and (host == name or host.endswith(f".{name}"))
