"""Unsafe settings and files: `imagegate check` lists them, and the log warns of exposed operators' ports at startup."""

import stat
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.config import SecretSource, Settings, Table
from gateway.server.limits import find_room

_READ_OR_WRITTEN_BY_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
_WRITTEN_BY_OTHERS: Final = stat.S_IWOTH | stat.S_IWGRP
_PRIVATE_NAMES: Final = (".internal", ".local", ".localhost", ".lan", ".home.arpa", ".svc", ".test")
_IN_THE_CLEAR: Final = frozenset({"http", "redis"})
_IPV4_BITS_MIN: Final = 10
_IPV6_BITS_MIN: Final = 24
"""The largest networks of CDNs are a /12 and a /29."""
_OWN_IPV4: Final = (IPv4Network("10.0.0.0/8"), IPv4Network("127.0.0.0/8"))
_OWN_IPV6: Final = IPv6Network("fc00::/7")
_IPV4_INSIDE: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

_Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Exposure:
    """One unsafe setting or file. No text holds a secret."""

    where: str
    what: str
    remedy: str


def find_exposures(settings: Settings, path: str, *, has_admin_key: bool) -> list[Exposure]:
    """Everything unsafe in the configuration read from `path`. Reads files' modes."""
    return [
        *exposed_ports(settings, has_admin_key=has_admin_key),
        *_unfit_connections(settings),
        *_clear_listener(settings),
        *_clear_connections(settings),
        *_open_result_hosts(settings),
        *_passwords(path),
        *_loose_files(settings, path),
    ]


def exposed_ports(settings: Settings, *, has_admin_key: bool) -> Iterator[Exposure]:
    """Operators' routes that other machines can reach."""
    if not is_loopback(settings.metrics.host if settings.metrics.port else settings.server.host):
        what = "other machines can read /metrics without a key: names of tenants and keys, spend"
        if settings.metrics.port:
            yield Exposure("metrics.host", what, "allow only Prometheus to reach the port, or use 127.0.0.1")
        else:
            yield Exposure("metrics.port", what, "remove the setting: /metrics then has a port of its own on 127.0.0.1")
    if not has_admin_key or is_loopback(settings.admin.host if settings.admin.port else settings.server.host):
        return
    if not settings.admin.port:
        what = "other machines can reach the admin API, on the clients' port"
        yield Exposure("admin.port", what, "remove the setting: it then has a port of its own on 127.0.0.1")
    elif settings.server.tls is None:
        yield Exposure("admin.host", "admin keys cross the network in the clear", "set [server.tls], or use 127.0.0.1")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _unfit_connections(settings: Settings) -> Iterator[Exposure]:
    """More connections than fit within the limit on open files, which may differ for a service."""
    room, limit = find_room(settings), settings.server.max_connections
    if room.connections < limit:
        what = (
            f"{limit} do not fit below the {room.files} open files allowed here; the gateway takes {room.connections}"
        )
        remedy = f"allow the service {room.wanted_files} (ulimit -Hn, LimitNOFILE), or lower the setting"
        yield Exposure("server.max_connections", what, remedy)


def _clear_listener(settings: Settings) -> Iterator[Exposure]:
    """A proxy with TLS is assumed on another machine: with one on this machine the listener would be on loopback."""
    server = settings.server
    proxies = list(_read_networks(server.trusted_proxies))
    wide = [proxy for proxy in proxies if _is_wide(proxy)]
    for proxy in wide:
        what = f"{proxy}: clients in it can forge their address and have no bound on connections"
        yield Exposure("server.trusted_proxies", what, "name the addresses or networks of the proxies alone")
    has_proxy = any(proxy not in wide and not proxy.is_loopback for proxy in proxies)
    if server.tls is None and not has_proxy and not is_loopback(server.host):
        remedy = "set [server.tls], or name the proxy with TLS in server.trusted_proxies"
        yield Exposure(
            "server.host", f"{server.host} without TLS: keys and images cross the network in the clear", remedy
        )


def _read_networks(texts: Iterable[str]) -> Iterator[_Network]:
    """Merges adjacent networks, so that two halves of the internet are all of it. IPv4 inside IPv6 is IPv4."""
    networks = [_as_ipv4(ip_network(text)) for text in texts]
    yield from collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    yield from collapse_addresses(one for one in networks if isinstance(one, IPv6Network))


def _as_ipv4(network: _Network) -> _Network:
    if isinstance(network, IPv6Network) and any(network.subnet_of(candidate) for candidate in _IPV4_INSIDE):
        address = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((address, network.prefixlen - 96))
    return network


def _is_wide(network: _Network) -> bool:
    """Returns whether a public network is larger than any provider of proxies needs."""
    if isinstance(network, IPv4Network):
        return network.prefixlen < _IPV4_BITS_MIN and not any(network.subnet_of(one) for one in _OWN_IPV4)
    return network.prefixlen < _IPV6_BITS_MIN and not network.subnet_of(_OWN_IPV6)


def _clear_connections(settings: Settings) -> Iterator[Exposure]:
    """Unencrypted connections to public hosts."""
    urls = [("redis.url", settings.redis.url), ("tracing.otlp_endpoint", settings.tracing.otlp_endpoint or "")]
    for upstream in settings.upstreams:
        urls.append((f"upstreams '{upstream.name}': base_url", upstream.base_url))
        urls += [(f"upstreams '{upstream.name}': result_hosts", origin) for origin in upstream.result_hosts or ()]
    for where, url in urls:
        parts = urlsplit(url)
        if parts.scheme in _IN_THE_CLEAR and _is_public(parts.hostname or ""):
            what = f"{parts.scheme}:// to {parts.hostname}: keys and data cross the internet in the clear"
            yield Exposure(where, what, f"use {parts.scheme}s://")


def _open_result_hosts(settings: Settings) -> Iterator[Exposure]:
    """Patterns that match hosts of any owner: fewer than two whole labels follow the last `*`."""
    for upstream in settings.upstreams:
        for pattern in upstream.result_hosts or ():
            _, star, fixed = pattern.rpartition("*")
            if star and "." not in fixed.rstrip(".").partition(".")[2]:
                what = f"{pattern}: the upstream chooses which internet hosts the gateway calls"
                remedy = "name the provider's hosts, or a domain of its own as '*.example.com'"
                yield Exposure(f"upstreams '{upstream.name}': result_hosts", what, remedy)


def _passwords(path: str) -> Iterator[Exposure]:
    """A password in the file itself; in the environment it is allowed."""
    try:
        url = tomllib.loads(Path(path).read_text("utf-8")).get("redis", {}).get("url", "")
    except OSError:
        return
    if urlsplit(url).password:
        yield Exposure("redis.url", "the configuration holds a password", "set redis.password from env or file")


def _is_public(host: str) -> bool:
    """A name without a dot belongs to a search domain, as in containers."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return "." in name and not name.endswith(_PRIVATE_NAMES)
    return not (address.is_private or address.is_loopback or address.is_link_local)


def _loose_files(settings: Settings, path: str) -> Iterator[Exposure]:
    yield from _loose_file("the configuration", path, _WRITTEN_BY_OTHERS)
    if settings.server.tls:
        yield from _loose_file("server.tls.key", settings.server.tls.key, _READ_OR_WRITTEN_BY_OTHERS)
        yield from _loose_file("server.tls.certificate", settings.server.tls.certificate, _WRITTEN_BY_OTHERS)
    for where, file in _secret_files(settings):
        yield from _loose_file(where, file, _READ_OR_WRITTEN_BY_OTHERS)


def _loose_file(where: str, file: str, forbidden: int) -> Iterator[Exposure]:
    """Checks the file's mode, and those of all parent directories, in which other users could replace it."""
    path = Path(file).absolute()
    try:
        mode, folders = path.stat().st_mode, dict.fromkeys((*path.parents, *path.resolve().parents))
        loose = [folder for folder in folders if _can_be_replaced_in(folder.stat().st_mode)]
    except OSError:
        return
    if mode & forbidden:
        verb = "read" if mode & forbidden & stat.S_IROTH else "write"
        allowed = "0640" if forbidden & stat.S_IROTH else "0644"
        yield Exposure(where, f"other users may {verb} {file} (mode {mode & 0o7777:04o})", f"chmod {allowed} {file}")
    for folder in loose:
        yield Exposure(where, f"other users may replace {file}, as they may write {folder}", f"chmod o-w {folder}")


def _can_be_replaced_in(mode: int) -> bool:
    return bool(mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def _secret_files(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """The settings that read a secret from a file, each with the file."""
    if isinstance(value, SecretSource):
        if value.file is not None:
            yield where, value.file
    elif isinstance(value, Table):
        for setting in msgspec.structs.fields(value):
            yield from _secret_files(getattr(value, setting.name), f"{where}.{setting.name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _secret_files(item, f"{where}[{number}]")
