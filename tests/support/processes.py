"""Gateways as processes, as an operator starts them, and clients that send many requests concurrently."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.support.certificates import Files
from tests.support.harness import ADMIN_KEY, admin, wait_until

CONFIGURATION = """
[redis]
url = "{redis_url}"
timeout_ms = 2000
[admin]
key = {{ env = "ADMIN_KEY" }}
[requests]
reservation_lease_s = {lease_s}
[[upstreams]]
name = "sim"
provider = "minimax"
base_url = "{upstream_url}"
result_hosts = ["{upstream_url}"]
[[upstreams.accounts]]
name = "main"
requests_per_minute = 100000
images_per_minute = 1000000
max_concurrency = 10000
[[upstreams.accounts.keys]]
name = "main-1"
secret = {{ env = "KEY" }}
[[models]]
id = "image-01"
aliases = ["dall-e-3"]
price_per_image_usd = "0.0035"
[[models.targets]]
upstream = "sim"
model = "image-01"
"""

EACH_OPTIONS = pytest.mark.parametrize(
    "options",
    [pytest.param((), id="one process"), pytest.param(("--workers", "2"), id="workers", marks=pytest.mark.slow)],
)
"""Runs a test on a gateway of one process, and with `make test-all` also on one with two workers."""
START_S = 90.0
"""Generous: other tests may use the whole machine."""


def write_configuration(folder: Path, redis_url: str, upstream_url: str, lease_s: float = 60, more: str = "") -> Path:
    path = folder / "imagegate.toml"
    path.write_text(CONFIGURATION.format(redis_url=redis_url, upstream_url=upstream_url, lease_s=lease_s) + more)
    return path


def gateway_command(configuration: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "serve", "--config", str(configuration), *options]


def gateway_environ(secrets: Mapping[str, str]) -> dict[str, str]:
    environ = {"PATH": os.environ["PATH"], "KEY": "main-1", "ADMIN_KEY": ADMIN_KEY}
    environ |= {"IMAGEGATE_SERVER__AUTH_FAILURES_PER_MINUTE": "0"}  # tests poll until a key is known
    return environ | {"IMAGEGATE_ADMIN__PORT": "0", "IMAGEGATE_METRICS__PORT": "0", **secrets}  # several run at a time


def start_gateway(
    configuration: Path, *options: str, secrets: Mapping[str, str] | None = None, launcher: Sequence[str] = ()
) -> tuple[subprocess.Popen[bytes], str]:
    """Starts `imagegate serve`; returns the process and its address.

    The caller kills it. Logs beside the configuration.
    """
    command = [*launcher, *gateway_command(configuration, "--port", "0")]
    environ = gateway_environ(secrets or {})
    log = configuration.parent / f"{uuid.uuid4().hex}.log"
    with log.open("w") as written:
        started = subprocess.Popen([*command, *options], env=environ, stderr=written)
    wait_until(lambda: started.poll() is not None or "listening" in log.read_text(), "the gateway starts", START_S)
    assert started.poll() is None, log.read_text()[-2000:]
    line = next(line for line in log.read_text().splitlines() if "listening" in line)
    url: str = json.loads(line)["url"]
    wait_until(lambda: _answers(url), "the gateway answers", START_S)
    return started, url


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", verify=False).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def gateways(configuration: Path, count: int = 2) -> Iterator[list[str]]:
    """Runs several gateways; yields their addresses."""
    started = [start_gateway(configuration) for _ in range(count)]
    try:
        yield [url for _, url in started]
    finally:
        for process, _ in started:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: dict[str, object]

    @property
    def code(self) -> object:
        error = self.body.get("error")
        return error.get("code") if isinstance(error, dict) else None


def ask_at_once(urls: list[str], key: str, bodies: Iterable[dict[str, object]]) -> list[Answer]:
    """Sends every body as a generation, all concurrently, over the gateways in turn."""

    async def ask_all() -> list[Answer]:
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(120)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return await asyncio.gather(
                *(ask(session, urls[index % len(urls)], key, body) for index, body in enumerate(bodies))
            )

    return asyncio.run(ask_all())


async def ask(
    session: aiohttp.ClientSession, url: str, key: str, body: dict[str, object], request_id: str = ""
) -> Answer:
    headers = {"authorization": f"Bearer {key}"} | ({"x-request-id": request_id} if request_id else {})
    async with session.post(f"{url}/v1/images/generations", json=body, headers=headers) as answer:
        return Answer(answer.status, dict(answer.headers), await answer.json())


def used(url: str, tenant: str) -> dict[str, int]:
    """Returns the tenant's counters from the admin API."""
    found: dict[str, int] = admin(url, "GET", f"/tenants/{tenant}").json()["used"]
    return found


@contextmanager
def running(configuration: Path, *options: str, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Runs a gateway with settings from the environment."""
    secrets = {f"IMAGEGATE_{name}": value for name, value in settings.items()}
    process, url = start_gateway(configuration, *options, secrets=secrets)
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert 0 == process.wait(30)
        finally:
            process.kill()
            process.wait()


def workers_of(process: subprocess.Popen[bytes]) -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in found if b"spawn_main" in command_of(pid)}


def command_of(pid: str) -> bytes:
    """Returns nothing for a process that has just exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def total(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))


def scrape(url: str) -> str:
    return httpx.get(f"{url}/metrics", verify=False).text


@contextmanager
def started(configuration: Path, *options: str, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Runs a gateway with settings from the environment."""
    process, url = start_gateway(configuration, *options, secrets={f"IMAGEGATE_{k}": v for k, v in settings.items()})
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def log_of(configuration: Path) -> list[dict[str, object]]:
    return [json.loads(line) for log in configuration.parent.glob("*.log") for line in log.read_text().splitlines()]


def tls(files: Files) -> dict[str, str]:
    return {"SERVER__TLS__CERTIFICATE": str(files.certificate), "SERVER__TLS__KEY": str(files.key)}


class Generating(threading.Thread):
    """One background request on a keep-alive connection."""

    def __init__(self, url: str, key: str, path: str = "/v1/images/generations") -> None:
        super().__init__(daemon=True)
        self._request = (f"{url}{path}", key)
        self._answer: httpx.Response | httpx.TransportError | None = None
        self.start()

    def run(self) -> None:
        url, key = self._request
        try:
            self._answer = httpx.post(
                url,
                json={"prompt": "a cat", "model": "image-01", "n": 2},
                headers={"authorization": f"Bearer {key}"},
                timeout=30,
                verify=False,
            )
        except httpx.TransportError as error:
            self._answer = error

    def answer(self) -> httpx.Response:
        self.join(30)
        assert isinstance(self._answer, httpx.Response), self._answer
        return self._answer
