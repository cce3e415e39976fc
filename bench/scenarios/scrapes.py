"""What scrapers without pause cost a tenant: its p99 beside 60 of them at a pool of 300 accounts, and without them."""

import statistics
import time

from bench.processes import Pool, Program
from bench.results import Of, Row, at_most
from bench.run import Run, press, stage
from bench.traffic import Plan, Traffic

_ACCOUNTS = 300
_SCRAPERS = 60
_CLIENTS = 8
_PAUSE_S = 0.02
_SETTLED_S = 1.0
"""For the scrapers to connect, and for what is left of them afterwards."""


def measure(run: Run) -> list[Row]:
    seconds, rounds = run.pick(10.0, 3.0), run.count(7, 2)
    alone, beside = list[float](), list[float]()
    with stage(run, pool=Pool(_ACCOUNTS)) as programs:
        gateway = programs.gateway
        scraping = _scraping(gateway)
        served = gateway.plan(concurrency=_CLIENTS, seconds=seconds, pause_s=_PAUSE_S)
        press(gateway, served)
        for number in range(rounds):
            alone.append(press(gateway, served).outcome.p99_s)
            with Traffic(scraping) as traffic:
                time.sleep(_SETTLED_S)
                beside.append(press(gateway, served).outcome.p99_s)
                scraped = traffic.stop()
            time.sleep(_SETTLED_S)
            tails = f"{1000 * alone[-1]:.1f} ms, {1000 * beside[-1]:.1f} ms"
            pages = f"{scraped.served} pages in {scraped.seconds:.1f} s, {scraped.body_bytes // 1024} KiB each"
            run.report(f"round {number + 1} of {rounds}: {tails}, {pages}")
    return [
        Row(
            measure="p99 beside 60 scrapers, ms",
            gateway=1000 * statistics.median(beside),
            baseline=1000 * statistics.median(alone),
            goal=at_most(1.2, Of.RATIO),
        )
    ]


def _scraping(gateway: Program) -> Plan:
    return gateway.plan(
        method="GET", path="/metrics", body="", headers={}, concurrency=_SCRAPERS, seconds=3600, patience_s=5
    )
