"""Responses with four images of 2 MB: CPU compared to a byte relay, and memory."""

import time

from bench.process_table import memory_bytes, peak_memory_bytes, reset_peak
from bench.processes import Program
from bench.results import Of, Row, at_most
from bench.run import Run, alternate, median_cpu_ms, press, stage
from bench.traffic import Plan

_IMAGES = 4
_MB = 1024 * 1024


def measure(run: Run) -> list[Row]:
    return [*_memory(run), *_cpu(run)]


def _cpu(run: Run) -> list[Row]:
    seconds = run.pick(3.0, 0.8)

    def plan(program: Program) -> Plan:
        return program.plan(images=_IMAGES, concurrency=4, seconds=seconds)

    with stage(run, "relay_bytes") as programs:
        measured = (programs.gateway, programs.baselines["relay_bytes"])
        gateway, relay = map(median_cpu_ms, alternate(measured, plan, run.count(5, 3), run.report))
    return [
        Row(
            measure="8 MB bodies, CPU, ms: to relay-bytes",
            gateway=gateway,
            baseline=relay,
            goal=at_most(0.8, Of.RATIO),
        )
    ]


def _memory(run: Run) -> list[Row]:
    """Measures a single response, and the first and last hundred of a sequence."""
    with stage(run) as programs:
        gateway = programs.gateway
        press(gateway, gateway.plan(concurrency=1, seconds=30, count=50))
        time.sleep(1)
        idle_bytes = memory_bytes(gateway.pid)
        reset_peak(gateway.pid)
        body_bytes = press(gateway, gateway.plan(images=_IMAGES, seconds=30, count=1)).outcome.body_bytes
        one_bytes = peak_memory_bytes(gateway.pid) - idle_bytes
        many, part = run.count(1000, 100), run.count(100, 25)
        first_bytes = _peak_bytes(gateway, part)
        _peak_bytes(gateway, many - 2 * part)
        last_bytes = _peak_bytes(gateway, part)
    run.report(
        f"a body has {body_bytes / _MB:.1f} MB; idle {idle_bytes / _MB:.0f} MB, with one {one_bytes / _MB:.1f} MB more"
    )
    return [
        Row(measure="memory above idle for one, bodies", gateway=one_bytes / body_bytes, goal=at_most(2)),
        Row(
            measure=f"growth over {many:,} of them, bodies",
            gateway=(last_bytes - first_bytes) / body_bytes,
            goal=at_most(0.5),
        ),
    ]


def _peak_bytes(gateway: Program, count: int) -> int:
    reset_peak(gateway.pid)
    press(gateway, gateway.plan(images=_IMAGES, seconds=300, count=count))
    return peak_memory_bytes(gateway.pid)
