"""Parses `redis.url`. No error includes the URL, because a malformed URL may hold a password anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.domain.accounts import Secret

FORMS: Final = (
    "redis://HOST:PORT/DB, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB, "
    "redis+cluster://HOST:PORT,HOST:PORT, each but unix with TLS as rediss, or 'embedded' for one machine"
)
TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
)
_OPTIONS: Final = TLS_OPTIONS | {"db", "protocol", "client_name"}
_SERVER_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Topology(Enum):
    """How the servers relate: one server, sentinels or a cluster."""

    SERVER = "redis"
    SOCKET = "unix"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Username and password for the servers and the sentinels."""

    username: str | None = None
    secret: Secret | None = None
    sentinel_secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed Redis URL."""

    kind: Topology
    is_encrypted: bool
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)


def parse_address(url: str) -> Address:
    """Parses a URL. Raises: ValueError naming the invalid part."""
    scheme, separator, _ = url.partition("://")
    is_encrypted = scheme.startswith("rediss")
    kinds = {kind.value: kind for kind in Topology}
    kind = kinds.get(scheme.replace("rediss", "redis", 1)) if separator else None
    if kind is None:
        raise ValueError("unknown scheme")
    parts = _split(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    options = _parse_options(parts.query, is_encrypted=is_encrypted)
    master, db = _parse_path(kind, parts.path, options.pop("db", ""))
    return Address(
        kind,
        is_encrypted,
        hosts=() if kind is Topology.SOCKET else _parse_hosts(kind, hosts),
        path=unquote(parts.path) if kind is Topology.SOCKET else "",
        master=master,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        options=options,
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes the input
        raise ValueError("it is not well-formed") from None
    if parts.fragment or (parts.scheme != Topology.SOCKET.value and "@" in parts.path + parts.query):
        raise ValueError("'#', '/', '?' and '@' in a password are written as %23, %2F, %3F and %40")
    return parts


def _parse_hosts(kind: Topology, text: str) -> tuple[tuple[str, int], ...]:
    default = _SENTINEL_PORT if kind is Topology.SENTINEL else _SERVER_PORT
    hosts = tuple(_parse_host(part, default) for part in text.split(","))
    if len(hosts) > 1 and kind is Topology.SERVER:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return hosts


def _parse_host(text: str, default_port: int) -> tuple[str, int]:
    is_v6 = text.startswith("[")
    host, _, port = text[1:].partition("]") if is_v6 else text.partition(":")
    port = port.removeprefix(":")
    if not host:
        raise ValueError("it has no host")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("a port is not a number from 1 to 65535")
    return unquote(host), int(port or default_port)


def _parse_path(kind: Topology, path: str, db_option: str) -> tuple[str, int]:
    """Returns the master's name and the database number."""
    steps = [unquote(step) for step in path.split("/") if step] if kind is not Topology.SOCKET else []
    master = steps.pop(0) if kind is Topology.SENTINEL and steps else ""
    if kind is Topology.SENTINEL and not master:
        raise ValueError("the name of the master is missing, as in redis+sentinel://HOST:26379/MASTER")
    if kind is Topology.SOCKET and not path:
        raise ValueError("the path of the socket is missing")
    number = db_option or (steps.pop(0) if steps else "0")
    if steps or not (number.isascii() and number.isdigit()):
        raise ValueError("the database is not a number")
    if kind is Topology.CLUSTER and int(number):
        raise ValueError("a cluster has only the database 0")
    return master, int(number)


def _parse_options(query: str, *, is_encrypted: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= _OPTIONS:
        raise ValueError(f"the only options after '?' are {', '.join(sorted(_OPTIONS))}")
    if not is_encrypted and options.keys() & TLS_OPTIONS:
        raise ValueError("options for TLS need rediss:// (or rediss+sentinel://, rediss+cluster://)")
    if options.get("protocol", "3") not in {"2", "3"}:
        raise ValueError("protocol is 2 or 3")
    return options
