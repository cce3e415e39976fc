"""Unsafe settings and files: `imagegate check` lists them, and the log warns of exposed operators' ports at startup."""

import stat
import tomllib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateway.config import SecretSource, Settings, Table
from gateway.server.config import find_room
from gateway.storage.location import StorageKind, parse_location

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


class Exposure(NamedTuple):
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
        *_open_connections(settings),
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
    room = find_room(settings)
    if room.connections < room.wanted:
        fitting = f"the gateway takes {room.connections}"
        what = f"{room.wanted} do not fit below the {room.files} open files allowed here; {fitting}"
        remedy = f"allow the service {room.wanted_files} (ulimit -Hn, LimitNOFILE), or lower the setting"
        yield Exposure("server.max_connections", what, remedy)


def _clear_listener(settings: Settings) -> Iterator[Exposure]:
    """A proxy with TLS is assumed on another machine: with one on this machine the listener would be on loopback."""
    server = settings.server
    proxies = _read_networks(server.trusted_proxies)
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


def _read_networks(texts: Iterable[str]) -> list[_Network]:
    """Merges adjacent networks, so that two halves of the internet are all of it. IPv4 inside IPv6 is IPv4."""
    ipv4: list[IPv4Network] = []
    ipv6: list[IPv6Network] = []
    for network in map(ip_network, texts):
        if isinstance(network, IPv4Network):
            ipv4.append(network)
        elif any(network.subnet_of(one) for one in _IPV4_INSIDE):
            ipv4.append(IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96)))
        else:
            ipv6.append(network)
    return [*collapse_addresses(ipv4), *collapse_addresses(ipv6)]


def _is_wide(network: _Network) -> bool:
    """Returns whether a public network is larger than any provider of proxies needs."""
    if isinstance(network, IPv4Network):
        return network.prefixlen < _IPV4_BITS_MIN and not any(network.subnet_of(one) for one in _OWN_IPV4)
    return network.prefixlen < _IPV6_BITS_MIN and not network.subnet_of(_OWN_IPV6)


def _open_connections(settings: Settings) -> Iterator[Exposure]:
    """Unencrypted connections to public hosts, and patterns that match hosts of any owner."""
    urls = [("redis.url", settings.redis.url), ("tracing.otlp_endpoint", settings.tracing.otlp_endpoint or "")]
    for upstream in settings.upstreams:
        urls.append((f"upstreams '{upstream.name}': base_url", upstream.base_url or ""))
        for pattern in upstream.result_hosts or ():
            where = f"upstreams '{upstream.name}': result_hosts"
            urls.append((where, pattern))
            _, star, fixed = pattern.rpartition("*")
            if star and "." not in fixed.rstrip(".").partition(".")[2]:  # fewer than two whole labels follow
                what = f"{pattern}: the upstream chooses which internet hosts the gateway calls"
                yield Exposure(where, what, "name the provider's hosts, or a domain of its own as '*.example.com'")
    for where, url in urls:
        parts = urlsplit(url)
        if parts.scheme in _IN_THE_CLEAR and _is_public(parts.hostname or ""):
            what = f"{parts.scheme}:// to {parts.hostname}: keys and data cross the internet in the clear"
            yield Exposure(where, what, f"use {parts.scheme}s://")


def _passwords(path: str) -> Iterator[Exposure]:
    """A password in the file itself; in the environment it is allowed."""
    try:
        url = tomllib.loads(Path(path).read_text("utf-8-sig")).get("redis", {}).get("url", "")
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
    """Checks the modes of files, and those of all parent directories, in which other users could replace them."""
    files = [("the configuration", path, _WRITTEN_BY_OTHERS)]
    if tls := settings.server.tls:
        files.append(("server.tls.key", tls.key, _READ_OR_WRITTEN_BY_OTHERS))
        files.append(("server.tls.certificate", tls.certificate, _WRITTEN_BY_OTHERS))
    if settings.storage.url and (location := parse_location(settings.storage.url)).kind is StorageKind.DIRECTORY:
        files.append(("storage.url", location.prefix, _READ_OR_WRITTEN_BY_OTHERS))
    files += [(where, file, _READ_OR_WRITTEN_BY_OTHERS) for where, file in _secret_files(settings)]
    for where, file, forbidden in files:
        found = Path(file).absolute()
        try:
            mode = found.stat().st_mode
            folders = {folder: folder.stat().st_mode for folder in (*found.parents, *found.resolve().parents)}
        except OSError:
            continue
        if mode & forbidden:
            verb = "read" if mode & forbidden & (stat.S_IROTH | stat.S_IXOTH) else "write"
            allowed = "0750" if stat.S_ISDIR(mode) else "0640" if forbidden & stat.S_IROTH else "0644"
            what = f"other users may {verb} {file} (mode {mode & 0o7777:04o})"
            yield Exposure(where, what, f"chmod {allowed} {file}")
        for folder, folder_mode in folders.items():
            if folder_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
                what = f"other users may replace {file}, as they may write {folder}"
                yield Exposure(where, what, f"chmod o-w {folder}")


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
