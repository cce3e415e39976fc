"""Clients for `redis.url`: of a single server, of the master behind sentinels, or of a cluster.

No error includes the URL, because a malformed URL may hold a password anywhere.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis

from gateway.domain.accounts import Secret
from gateway.redis.call_guard import CallGuard
from gateway.redis.cluster import ClusterClient
from gateway.redis.connections import Pool, ScriptPipeline, SocketConnection, TcpConnection
from gateway.redis.sentinel import SentinelConnection, SentinelPool, Sentinels

PREFIX: Final = "ig3"
"""Default of `[redis] key_prefix`."""
FORMS: Final = (
    "redis://HOST:PORT/DB, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB, "
    "redis+cluster://HOST:PORT,HOST:PORT, each but unix with TLS as rediss, or 'embedded' for one machine"
)
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
)
_NO: Final = ("no", "false", "0")
_TLS_VALUES: Final = {
    "ssl_check_hostname": ("yes", "true", "1", *_NO),
    "ssl_cert_reqs": ("required", "cert_required", "none", "cert_none"),
}
"""Valid values, in lower case."""
_OPTIONS: Final = _TLS_OPTIONS | {"db", "protocol", "client_name"}
_SERVER_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_SOCKET_DEADLINES: Final = 16
"""Socket timeout, in deadlines. It closes orphaned connections, and must exceed every call's deadline."""
_NODE_SOCKET_DEADLINES: Final = 2
"""Socket timeout in a cluster, in deadlines: the slot map is read from one node after another."""
_SENTINEL_TIMEOUT_SHARE: Final = 0.4
"""Sentinel timeout, as a share of the deadline. A call may query sentinels twice before it connects to the master."""


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


class Client(Redis):
    """A redis-py client whose calls pass a CallGuard."""

    def __init__(self, pool: Pool, deadline_s: float, prefix: str) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.prefix = prefix
        """First part of every key and channel, before a colon."""
        self.guard = CallGuard(deadline_s, pool.close_idle)
        self.scripts = ScriptPipeline(self, self.guard)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's
        await self.scripts.end()
        await super().aclose(close_connection_pool)

    async def infos(self, *sections: str) -> list[Mapping[str, object]]:
        """Returns these sections of INFO from every server that accepts writes."""
        return [await self.info(section) for section in sections]


def connect(url: str, timeout_s: float, login: Credentials = Credentials(), prefix: str = PREFIX) -> Client:
    """Returns a client for any of FORMS. Every call through `execute` or a script has the deadline `timeout_s`.

    `prefix` and a colon begin the name of every key and channel.
    A cluster client is typed as `Client`: it has the same commands, and redis-py has no common type.
    Raises: ValueError if the URL is invalid.
    """
    address = parse_address(url)
    if address.password and login.secret:
        raise ValueError("it holds a password and redis.password is set; use only one")
    if login.sentinel_secret and address.kind is not Topology.SENTINEL:
        raise ValueError("redis.sentinel_password needs redis+sentinel://")
    options: dict[str, Any] = {
        "username": login.username or address.username,
        "password": login.secret.plaintext if login.secret else address.password,
        "socket_timeout": timeout_s * _SOCKET_DEADLINES,
        "decode_responses": True,
        "driver_info": None,  # costs a round trip per connection
        "client_name": address.options.get("client_name"),
    }
    if "protocol" in address.options:
        options["protocol"] = int(address.options["protocol"])
    tls = _tls_context(address.options) if address.is_encrypted else None
    match address.kind:
        case Topology.CLUSTER:
            options["socket_timeout"] = timeout_s * _NODE_SOCKET_DEADLINES
            return cast("Client", ClusterClient(address.hosts, tls, timeout_s, prefix, **options))
        case Topology.SOCKET:
            pool = Pool(SocketConnection, path=address.path, db=address.db, **options)
        case Topology.SERVER:
            [(host, port)] = address.hosts
            pool = Pool(TcpConnection, host=host, port=port, tls=tls, db=address.db, **options)
        case Topology.SENTINEL:
            secret = login.sentinel_secret
            own = options | {"username": None, "password": secret.plaintext if secret else None}
            own["socket_timeout"] = timeout_s * _SENTINEL_TIMEOUT_SHARE
            pool = _sentinel_pool(address, tls, own, options)
    return Client(pool, timeout_s, prefix)


def _sentinel_pool(
    address: Address, tls: ssl.SSLContext | None, of_sentinels: Mapping[str, Any], options: Mapping[str, Any]
) -> SentinelPool:
    """Returns a pool of connections to the master. The sentinels have connection options of their own."""
    pools = [Pool(TcpConnection, host=host, port=port, tls=tls, **of_sentinels) for host, port in address.hosts]
    sentinels = Sentinels([Redis.from_pool(pool) for pool in pools])
    own = {"service_name": address.master, "sentinel_manager": sentinels}
    return SentinelPool(connection_class=SentinelConnection, tls=tls, db=address.db, **options, **own)


def parse_address(url: str) -> Address:
    """Parses a URL. Raises: ValueError naming the invalid part."""
    scheme, separator, _ = url.partition("://")
    kinds = {kind.value: kind for kind in Topology}
    kind = kinds.get(scheme.replace("rediss", "redis", 1)) if separator else None
    if kind is None:
        raise ValueError("unknown scheme")
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes the input
        raise ValueError("it is not well-formed") from None
    if parts.fragment or (kind is not Topology.SOCKET and "@" in parts.path + parts.query):
        raise ValueError("'#', '/', '?' and '@' in a password are written as %23, %2F, %3F and %40")
    is_encrypted = scheme.startswith("rediss")
    options = _parse_options(parts.query, is_encrypted=is_encrypted)
    master, db = _parse_path(kind, parts.path, options.pop("db", ""))
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    names = (unquote(username) or None, unquote(password) or None)
    if kind is Topology.SOCKET:
        return Address(kind, is_encrypted, (), unquote(parts.path), master, db, *names, options)
    default_port = _SENTINEL_PORT if kind is Topology.SENTINEL else _SERVER_PORT
    found = tuple(_parse_host(host, default_port) for host in hosts.split(","))
    if len(found) > 1 and kind is Topology.SERVER:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return Address(kind, is_encrypted, found, "", master, db, *names, options)


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
    if not is_encrypted and options.keys() & _TLS_OPTIONS:
        raise ValueError("options for TLS need rediss:// (or rediss+sentinel://, rediss+cluster://)")
    if options.get("protocol", "3") not in {"2", "3"}:
        raise ValueError("protocol is 2 or 3")
    for name, known in _TLS_VALUES.items():
        if options.get(name, known[0]).lower() not in known:
            raise ValueError(f"{name} is {' or '.join(known)}")
    return options


def _tls_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """Builds a TLS context for the configured CA, else the system's. Raises: ValueError."""
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"its certificates are not usable ({error})") from error
    if options.get("ssl_check_hostname", "").lower() in _NO:
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "").lower() in {"none", "cert_none"}:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
