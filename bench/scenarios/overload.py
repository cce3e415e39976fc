"""An ordinary overload: in a few seconds, more than the accounts can serve, from a hundred tenants; default settings.

Clients disconnect a minute after the last request. The provider's invoice has what was ordered until then, and the
ledger must match. Runs again beside two busy loops: a slow machine.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis as client_library

from bench.process_table import running
from bench.processes import Program, gateway_of, new_key, read_json, redis, simulator
from bench.results import Row, at_most
from bench.run import Run
from bench.traffic import Outcome, Traffic

_TENANTS: Final = tuple(f"tenant-{number}" for number in range(100))
_REQUESTS: Final = 1500
_SECONDS: Final = 11.0
_BODY: Final = '{"model": "image-01", "prompt": "a lighthouse at dawn", "n": 9, "response_format": "url"}'
"""The simulator draws an image only when its link is fetched."""
_LATENCY_S: Final = 1
_SETTLED_S: Final = 60.0
_LOOPS: Final = 2
_SLOWEST_MAX_MS: Final = 20
_SETTINGS: Final = """
[server]
port = {port}
[redis]
url = "redis://127.0.0.1:REDIS_PORT/0"
[metrics]
port = 0
[admin]
port = 0
key = { env = "ADMIN_KEY" }
[[upstreams]]
name = "upstream"
provider = "minimax"
base_url = "http://127.0.0.1:UPSTREAM_PORT"
result_hosts = ["http://127.0.0.1:UPSTREAM_PORT"]
ACCOUNTS
[[models]]
id = "image-01"
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "upstream"
  model = "image-01"
"""
_ACCOUNT: Final = """
  [[upstreams.accounts]]
  name = "account{number}"
    [[upstreams.accounts.keys]]
    name = "key-{number}"
    secret = {{ env = "UPSTREAM_KEY_{number}" }}
"""


@dataclass(frozen=True)
class _Found:
    outcome: Outcome
    openings: int
    """Of the Redis circuit breaker."""
    slowest_ms: float
    billed: int
    recorded: int
    refused: int
    """By the provider."""


def measure(run: Run) -> list[Row]:
    rows, sizes = [], (20,) if run.is_quick else (20, 100)
    for accounts in sizes:
        found = _overload(run, accounts)
        images = abs(found.billed - found.recorded)
        rows += [
            Row(measure=f"1,500 of n = 9, {accounts} accounts: 503", gateway=_unavailable(found), goal=at_most(0)),
            Row(measure="  Redis breaker opened", gateway=found.openings, goal=at_most(0)),
            Row(measure="  slowest script, ms", gateway=found.slowest_ms, goal=at_most(_SLOWEST_MAX_MS)),
            Row(measure="  images, invoice less ledger", gateway=images, goal=at_most(0)),
            Row(measure="  refused by the provider", gateway=found.refused, goal=at_most(0)),
        ]
    slow = _overload(run, sizes[-1], loops=_LOOPS)
    return [
        *rows,
        Row(measure="1,500 of n = 9, busy loops: 503", gateway=_unavailable(slow), goal=at_most(0)),
        Row(measure="  Redis breaker opened", gateway=slow.openings, goal=at_most(0)),
    ]


def _unavailable(found: _Found) -> int:
    return found.outcome.failed.get("503", 0)


def _overload(run: Run, accounts: int, loops: int = 0) -> _Found:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=run.folder)))
        port = stack.enter_context(redis(folder))
        limits = ("--rpm", "10", "--images-per-minute", "60", "--max-concurrency", "10")
        provider = stack.enter_context(simulator(folder, "--latency", f"{_LATENCY_S}", *limits))
        settings = _settings(port, provider.port, accounts)
        gateway = stack.enter_context(gateway_of(settings, folder, accounts))
        keys = [new_key(gateway.port, tenant) for tenant in _TENANTS]
        client = client_library.Redis(port=port)
        stack.callback(client.close)
        client.config_set("slowlog-log-slower-than", 1000)
        client.slowlog_reset()
        stack.enter_context(_busy_loops(folder, loops))
        outcome = _flood(gateway, keys, run.pick(60, 30))
        _wait_until_settled(gateway)
        invoice = read_json(provider.port, "/simulator/invoice")
        used = read_json(gateway.port, "/admin/v1/usage")["total"]
        found = _Found(
            outcome,
            gateway.log.read_text().count("redis_breaker_opened"),
            _slowest_ms(client),
            invoice["total"]["images"],
            sum(used[field] for field in ("images", "withheld", "lost", "unconfirmed")),
            sum(sum(bill["refusals"].values()) for bill in invoice["accounts"].values()),
        )
    run.report(f"{accounts} accounts, {loops} loops: served {outcome.served}, {outcome.failed}; {found}")
    return found


def _settings(redis_port: int, upstream_port: int, accounts: int) -> str:
    described = "".join(_ACCOUNT.format(number=number) for number in range(accounts))
    ports = _SETTINGS.replace("REDIS_PORT", f"{redis_port}").replace("UPSTREAM_PORT", f"{upstream_port}")
    return ports.replace("ACCOUNTS", described)


def _flood(gateway: Program, keys: list[str], patience_s: float) -> Outcome:
    rate = _REQUESTS / _SECONDS
    plan = gateway.plan(body=_BODY, keys=keys, rate=rate, count=_REQUESTS, seconds=60, patience_s=patience_s)
    with Traffic(plan) as traffic:
        return traffic.outcome()


def _wait_until_settled(gateway: Program) -> None:
    """Raises: RuntimeError if a request is still open after a minute."""
    deadline_s = time.monotonic() + _SETTLED_S
    while time.monotonic() < deadline_s:
        found = [read_json(gateway.port, f"/admin/v1/tenants/{tenant}") for tenant in _TENANTS]
        if not any(tenant.get("used", {}).get("open_requests", 1) for tenant in found):
            return
        time.sleep(1)
    raise RuntimeError("requests of clients that gave up are still open")


def _slowest_ms(client: "client_library.Redis") -> float:
    entries: Any = client.slowlog_get(1000)
    return max((entry["duration"] for entry in entries if entry["command"].startswith(b"EVALSHA")), default=0) / 1000


@contextmanager
def _busy_loops(folder: Path, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(running([sys.executable, "-c", "while True: pass"], folder / "loops.log"))
        yield
