"""Several gateways as processes in front of scarce accounts, and more clients than these can serve."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp

from tests.support.harness import admin
from tests.support.processes import start_gateway

HEAD = """
[redis]
url = "{redis_url}"
timeout_ms = 2000
[metrics]
port = 0
[admin]
port = 0
key = {{ env = "ADMIN_KEY" }}
[requests]
reservation_lease_s = {lease_s}
call_timeout_s = {call_timeout_s}
[pool]
probe_interval_s = {probe_interval_s}
encryption_keys = [{{ env = "POOL_KEY" }}]
[[models]]
id = "image-01"
price_per_image_usd = "0.0035"
"""
POOL_KEY = "a key for tests that seals what is added at run time"


@dataclass
class Upstream:
    """One simulator as an upstream: accounts with keys and limits; each key is its own secret."""

    name: str
    url: str
    accounts: Mapping[str, Sequence[str]]
    limits: Mapping[str, int] = field(default_factory=dict)
    """Of every account."""
    terms: Mapping[str, float] = field(default_factory=dict)

    def toml(self) -> str:
        lines = ["[[upstreams]]", f'name = "{self.name}"', 'provider = "minimax"', f'base_url = "{self.url}"']
        lines += [f'result_hosts = ["{self.url}"]', *(f"{name} = {value}" for name, value in self.terms.items())]
        for account, keys in self.accounts.items():
            lines += ["[[upstreams.accounts]]", f'name = "{account}"']
            lines += [f"{name} = {value}" for name, value in self.limits.items()]
            for key in keys:
                lines += ["[[upstreams.accounts.keys]]", f'name = "{key}"', f'secret = {{ env = "{variable(key)}" }}']
        return "\n".join(lines)


def variable(key: str) -> str:
    return "KEY_" + key.upper().replace("-", "_")


def accounts(count: int, keys: int = 2) -> dict[str, list[str]]:
    """acc1: acc1-1, acc1-2; acc2: ..."""
    return {f"acc{number}": [f"acc{number}-{key + 1}" for key in range(keys)] for number in range(1, count + 1)}


def write(folder: Path, redis_url: str, *upstreams: Upstream, **given: float) -> Path:
    """Writes a configuration whose model is made at the upstreams in turn; `given` as in HEAD."""
    path = folder / "imagegate.toml"
    head = HEAD.format(redis_url=redis_url, **({"lease_s": 60, "probe_interval_s": 300, "call_timeout_s": 60} | given))
    targets = [f'[[models.targets]]\nupstream = "{one.name}"\nmodel = "image-01"' for one in upstreams]
    path.write_text("\n".join([head, *targets, *(one.toml() for one in upstreams)]))
    return path


@dataclass
class Fleet:
    """Gateways of one configuration."""

    processes: list[Popen[bytes]]
    urls: list[str]

    def kill(self, index: int) -> None:
        self.processes[index].kill()
        self.processes[index].wait()

    def pool(self, upstream: str = "sim") -> dict[str, Any]:
        """Returns an upstream's status from the admin API."""
        found: list[dict[str, Any]] = admin(self.urls[0], "GET", "/pool").json()["data"]
        return next(one for one in found if one["name"] == upstream)


@contextmanager
def fleet(configuration: Path, count: int, *upstreams: Upstream) -> Iterator[Fleet]:
    keys = [key for one in upstreams for named in one.accounts.values() for key in named]
    secrets = {variable(key): key for key in keys} | {"POOL_KEY": POOL_KEY}
    with ExitStack() as stack:
        started = [start_gateway(configuration, secrets=secrets) for _ in range(count)]
        for process, _ in started:
            stack.callback(_end, process)
        yield Fleet([process for process, _ in started], [url for _, url in started])


def _end(process: Popen[bytes]) -> None:
    process.kill()
    process.wait()


@dataclass
class Served:
    """One finished request."""

    tenant: str
    at_s: float
    """Since the start."""
    status: int
    queue_ms: int


async def keep_asking(
    urls: Sequence[str], keys: Mapping[str, str], clients: Mapping[str, int], seconds: float, max_wait_s: float = 300
) -> list[Served]:
    """Runs this many clients per tenant, each repeating as soon as it has a response; returns the responses in time."""
    ended: list[Served] = []
    started = time.monotonic()

    async def client(session: aiohttp.ClientSession, tenant: str, number: int) -> None:
        headers = {"authorization": f"Bearer {keys[tenant]}", "x-imagegate-max-wait": str(max_wait_s)}
        for turn in range(1_000_000):
            url = f"{urls[(number + turn) % len(urls)]}/v1/images/generations"
            body = {"model": "image-01", "prompt": f"{tenant} {number} {turn}"}
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                queue_ms = int(answer.headers.get("x-imagegate-queue-ms", "0"))
                ended.append(Served(tenant, time.monotonic() - started, answer.status, queue_ms))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [
            asyncio.ensure_future(client(session, tenant, number))
            for tenant, count in clients.items()
            for number in range(count)
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended


def refusals(invoice: dict[str, Any]) -> Counter[str]:
    """Counts the simulator's refusals by code, over all accounts."""
    found = Counter[str]()
    for bill in invoice["accounts"].values():
        found.update(bill["refusals"])
    return found
