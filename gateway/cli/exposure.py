"""What a configuration leaves open: `imagegate check` lists it, and the log warns of operators' ports at the start."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.cli.open_files import find_room
from gateway.settings import SecretSource, Settings, Table

_READ_OR_WRITTEN_BY_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
_WRITTEN_BY_OTHERS: Final = stat.S_IWOTH | stat.S_IWGRP
_PRIVATE_NAMES: Final = (".internal", ".local", ".localhost", ".lan", ".home.arpa", ".svc", ".test")
_IN_THE_CLEAR: Final = frozenset({"http", "redis"})


@dataclass(frozen=True, slots=True)
class Exposure:
    """One unsafe setting or file. No text holds a secret."""

    where: str
    what: str
    remedy: str


def find_exposures(settings: Settings, path: str, *, has_admin_key: bool) -> list[Exposure]:
    """All that is unsafe in the configuration read from `path`. Looks at files' modes."""
    return [
        *exposed_ports(settings, has_admin_key=has_admin_key),
        *_unfit_connections(settings),
        *_clear_listener(settings),
        *_clear_connections(settings),
        *_loose_files(settings, path),
    ]


def exposed_ports(settings: Settings, *, has_admin_key: bool) -> Iterator[Exposure]:
    """Operators' routes that more than this machine can reach."""
    if not is_loopback(settings.metrics.host if settings.metrics.port else settings.server.host):
        what = "other machines can read /metrics, which has no key: tenants' names, key names, spend"
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
    """More connections than fit below the limit on open files, which a service has of its own."""
    room, most = find_room(settings), settings.server.max_connections
    if room.connections < most:
        what = f"{most} do not fit below the {room.files} open files allowed here; the gateway takes {room.connections}"
        remedy = f"allow the service {room.wanted_files} (ulimit -Hn, LimitNOFILE), or lower the setting"
        yield Exposure("server.max_connections", what, remedy)


def _clear_listener(settings: Settings) -> Iterator[Exposure]:
    server = settings.server
    if server.tls is None and not server.trusted_proxies and not is_loopback(server.host):
        remedy = "set [server.tls], or name the proxy with TLS in server.trusted_proxies"
        yield Exposure(
            "server.host", f"{server.host} without TLS: keys and images cross the network in the clear", remedy
        )


def _clear_connections(settings: Settings) -> Iterator[Exposure]:
    """Connections in the clear to hosts of the internet."""
    urls = [("redis.url", settings.redis.url), ("tracing.otlp_endpoint", settings.tracing.otlp_endpoint or "")]
    for upstream in settings.upstreams:
        urls.append((f"upstreams '{upstream.name}': base_url", upstream.base_url))
        urls += [(f"upstreams '{upstream.name}': result_hosts", origin) for origin in upstream.result_hosts or ()]
    for where, url in urls:
        parts = urlsplit(url)
        if parts.scheme in _IN_THE_CLEAR and _is_public(parts.hostname or ""):
            what = f"{parts.scheme}:// to {parts.hostname}: keys and data cross the internet in the clear"
            yield Exposure(where, what, f"use {parts.scheme}s://")


def _is_public(host: str) -> bool:
    """A name without a dot is of a search domain, as in containers."""
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
    """Its mode, and that of its directory, where other users could replace it."""
    try:
        mode, around = Path(file).stat().st_mode, Path(file).absolute().parent.stat().st_mode
    except OSError:
        return
    if mode & forbidden:
        verb = "read" if mode & forbidden & stat.S_IROTH else "write"
        allowed = "0640" if forbidden & stat.S_IROTH else "0644"
        yield Exposure(where, f"other users may {verb} {file} (mode {mode & 0o7777:04o})", f"chmod {allowed} {file}")
    if around & stat.S_IWOTH and not around & stat.S_ISVTX:
        folder = os.path.dirname(file) or "."  # noqa: PTH120 - as it is written
        yield Exposure(where, f"other users may replace {file}, as they may write its directory", f"chmod o-w {folder}")


def _secret_files(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """The files that secrets come from, each with the setting that names it."""
    if isinstance(value, SecretSource):
        if value.file is not None:
            yield where, value.file
    elif isinstance(value, Table):
        for setting in msgspec.structs.fields(value):
            yield from _secret_files(getattr(value, setting.name), f"{where}.{setting.name}".lstrip("."))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _secret_files(item, f"{where}[{number}]")
