"""Redis as operators run it: over TCP, with TLS, behind sentinels, as a cluster."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from redis.crc import key_slot

from tests.support.harness import REDIS_BINARIES, redis_process, wait_until

MASTER: Final = "images"
_SLOTS: Final = 16384
_BUS: Final = 10_000
_PORTS: Final = (12_000, 22_000)
_PRIMARIES: Final = 3
_SENTINELS: Final = 3
_FAILOVER_TIMEOUT_S: Final = 60


def free_port() -> int:
    """Returns a free port whose cluster bus port, 10,000 above, is free too.

    The kernel gives neither to a connection before it is used: its own range begins at 32768.
    """
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + _BUS)),
        ):
            return port


@dataclass(frozen=True)
class Server:
    """A server on a TCP port."""

    port: int
    tls_port: int
    process: subprocess.Popen[bytes]
    password: str | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)

    def ask(self, *command: object) -> Any:
        """Runs one command and returns its raw reply."""
        with self.client() as client:
            return client.execute_command(*command)

    def owns(self, key: str) -> bool:
        """Returns True if a key is in one of this node's slots."""
        slot, own = key_slot(key.encode()), self.ask("CLUSTER", "MYID")
        ranges = [(first, last) for first, last, primary, *_ in self.ask("CLUSTER", "SLOTS") if primary[2] == own]
        return any(first <= slot <= last for first, last in ranges)


@contextmanager
def tcp_server(
    binary: str, directory: Path, *options: str, password: str | None = None, port: int = 0
) -> Iterator[Server]:
    """Runs a server on a port of 127.0.0.1, by default a free one; `options` are command line options.

    With the options of Certificates it also listens on `tls_port`.
    """
    port, tls_port = port or free_port(), free_port()
    folder = directory / str(port)
    folder.mkdir(exist_ok=True)
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", *options]
    command += ["--tls-port", str(tls_port)] if "--tls-cert-file" in options else []
    command += ["--requirepass", password, "--masterauth", password] if password else []
    with redis_process(command, folder) as process:
        wait_until(lambda: _accepts(port), "redis listens")
        yield Server(port, tls_port, process, password)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stops a process, like a long fork or a stopped machine: the kernel accepts connections, and nothing replies."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def black_hole() -> Iterator[int]:
    """Yields a port that accepts no connections, like a dropping firewall: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        port: int = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield port


@dataclass(frozen=True)
class Certificates:
    """Paths of a test CA, and of a certificate for `localhost` that it signed."""

    authority: str
    certificate: str
    key: str

    @property
    def server_options(self) -> tuple[str, ...]:
        files = ("--tls-ca-cert-file", self.authority, "--tls-cert-file", self.certificate, "--tls-key-file", self.key)
        return (*files, "--tls-auth-clients", "no")


def make_certificates(folder: Path) -> Certificates:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *new_key, "-subj", "/CN=localhost", "-keyout", "own.key", "-out", "own.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "own.csr", *signed, "-out", "own.pem")
    return Certificates(str(folder / "ca.pem"), str(folder / "own.pem"), str(folder / "own.key"))


def find_tls_binary() -> str | None:
    """Returns a server with TLS; the packaged ones lack it."""
    return next((path for path in REDIS_BINARIES.values() if b"SSL_accept" in Path(path).read_bytes()), None)


@dataclass(frozen=True)
class Sentinels:
    """A master and its replica, watched by three sentinels."""

    url: str
    master: Server
    replica: Server
    watchers: tuple[Server, ...]

    def master_ports(self) -> set[int]:
        """Returns the master's ports, as seen by each sentinel."""
        answers = (watcher.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER) for watcher in self.watchers)
        return {int(port) for _, port in answers}

    def fail_over(self) -> None:
        """Promotes the replica while both are alive."""
        wait_until(self._asks_for_failover, "the sentinels agree to fail over", _FAILOVER_TIMEOUT_S)
        wait_until(self._has_failed_over, "the replica is the master, and everybody knows", _FAILOVER_TIMEOUT_S)

    def _has_failed_over(self) -> bool:
        return self.master_ports() == {self.replica.port}

    def _asks_for_failover(self) -> bool:
        try:
            self.watchers[0].ask("SENTINEL", "FAILOVER", MASTER)
        except redis.ResponseError:  # no replica is ready for promotion yet
            return False
        return True


@contextmanager
def sentinel_servers(
    binary: str, directory: Path, password: str | None = None, sentinel_password: str | None = None
) -> Iterator[Sentinels]:
    """Runs a master, a replica and three sentinels with a down-after time of 0.3 s."""
    with ExitStack() as stack:
        start = partial(tcp_server, binary, directory, password=password)
        master = stack.enter_context(start("--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(start("--replicaof", "127.0.0.1", str(master.port)))
        wait_until(lambda: _is_followed(master), "the replica follows")
        watch = partial(sentinel_server, binary, directory, master.port, _SENTINELS // 2 + 1, master_password=password)
        watchers = tuple(stack.enter_context(watch(password=sentinel_password)) for _ in range(_SENTINELS))
        for watcher in watchers:
            wait_until(partial(_knows_all, watcher), "the sentinels know each other")
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        yield Sentinels(f"redis+sentinel://{hosts}/{MASTER}/0", master, replica, watchers)


@contextmanager
def sentinel_server(
    binary: str,
    directory: Path,
    master_port: int,
    quorum: int = 1,
    *,
    epoch: int = 0,
    password: str | None = None,
    master_password: str | None = None,
) -> Iterator[Server]:
    """Runs one sentinel; `epoch` is that of the last failover it knows."""
    port = free_port()
    folder = directory / f"s{port}"
    folder.mkdir()
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"sentinel monitor {MASTER} 127.0.0.1 {master_port} {quorum}",
        f"sentinel down-after-milliseconds {MASTER} 300",
        f"sentinel failover-timeout {MASTER} 2000",
        f"sentinel config-epoch {MASTER} {epoch}",
    ]
    lines += [f'sentinel auth-pass {MASTER} "{master_password}"'] if master_password else []
    lines += [f"requirepass {password}"] if password else []
    (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
    with redis_process([binary, str(folder / "sentinel.conf"), "--sentinel"], folder) as process:
        wait_until(lambda: _accepts(port), "the sentinel listens")
        yield Server(port, 0, process, password)


def _is_followed(master: Server) -> bool:
    with master.client() as client:
        return bool(client.info("replication").get("slave0", {}).get("state") == "online")


def _knows_all(watcher: Server) -> bool:
    with watcher.client() as client:
        state = client.info("sentinel")["master0"]
        return (state["status"], int(state["slaves"]), int(state["sentinels"])) == ("ok", 1, _SENTINELS)


@contextmanager
def cluster_servers(
    binary: str, directory: Path, *options: str, replicas: int = 0, password: str | None = None
) -> Iterator[tuple[str, tuple[Server, ...]]]:
    """Runs three primaries that share the slots, each with replicas; yields the URL and the primaries."""
    with ExitStack() as stack:
        start = partial(_cluster_node, binary, directory, *options, password=password)
        nodes = tuple(stack.enter_context(start()) for _ in range(_PRIMARIES * (1 + replicas)))
        primaries = nodes[:_PRIMARIES]
        for number, node in enumerate(primaries):
            first, end = _SLOTS * number // _PRIMARIES, _SLOTS * (number + 1) // _PRIMARIES
            node.ask("CLUSTER", "ADDSLOTS", *range(first, end))
        for number, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.tls_port if "--tls-cluster" in options else node.port)
        for number, node in enumerate(nodes[_PRIMARIES:]):
            wait_until(partial(_follows, node, primaries[number % _PRIMARIES]), "a replica follows")
        for node in nodes:
            wait_until(partial(_is_whole, node, len(nodes)), "the cluster is whole")
        yield f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in primaries)}", primaries


@contextmanager
def _cluster_node(binary: str, directory: Path, *options: str, password: str | None) -> Iterator[Server]:
    bus = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
    with tcp_server(binary, directory, *bus, *options, password=password) as node:
        yield node


def _follows(replica: Server, primary: Server) -> bool:
    """Makes a node a replica, once it knows its primary."""
    try:
        replica.ask("CLUSTER", "REPLICATE", primary.ask("CLUSTER", "MYID"))
    except redis.ResponseError:
        return False
    return True


def _is_whole(node: Server, size: int) -> bool:
    state = node.ask("CLUSTER INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == size
