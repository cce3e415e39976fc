"""Cost of one tenant's refused requests to another: its median with and without 700 refusals per second."""

import statistics
import time

from bench.processes import Program, new_key
from bench.results import Of, Row, at_most
from bench.run import Run, press, stage
from bench.traffic import Plan, Traffic

_REFUSED_RATE = 700.0
_REFUSED = '{"model": "image-01", "prompt": "a lighthouse at dawn", "size": "none"}'
_CLIENTS = 4
_PAUSE_S = 0.02
_SETTLED_S = 1.0
"""For the flood to start, and to finish."""


def measure(run: Run) -> list[Row]:
    seconds, rounds = run.pick(5.0, 2.0), run.count(5, 2)
    alone, beside = list[float](), list[float]()
    with stage(run) as programs:
        gateway = programs.gateway
        flood = _flood(gateway, new_key(gateway.port, "flooding"))
        served = gateway.plan(concurrency=_CLIENTS, seconds=seconds, pause_s=_PAUSE_S)
        press(gateway, served)
        for number in range(rounds):
            alone.append(press(gateway, served).outcome.p50_s)
            with Traffic(flood) as traffic:
                time.sleep(_SETTLED_S)
                beside.append(press(gateway, served).outcome.p50_s)
                refused = traffic.stop()
            time.sleep(_SETTLED_S)
            medians = f"{1000 * alone[-1]:.2f} ms, {1000 * beside[-1]:.2f} ms"
            run.report(f"round {number + 1} of {rounds}: {medians}, {refused.failed} in {refused.seconds:.1f} s")
    return [
        Row(
            measure="p50 beside 700 refusals a second, ms",
            gateway=1000 * statistics.median(beside),
            baseline=1000 * statistics.median(alone),
            goal=at_most(1.2, Of.RATIO),
        )
    ]


def _flood(gateway: Program, key: str) -> Plan:
    headers = {"authorization": f"Bearer {key}"}
    return gateway.plan(body=_REFUSED, headers=headers, rate=_REFUSED_RATE, seconds=3600, patience_s=5)
