"""Responses with four images of 2 MB, of a gateway that has a storage: CPU compared to one without, and memory.

With an Idempotency-Key the images are stored after the response; without a storage, in Redis while it has room.
"""

import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory

import msgspec

from bench.process_table import memory_bytes, peak_memory_bytes, reset_peak
from bench.processes import Pool, Program
from bench.results import Of, Row, at_most
from bench.run import Run, alternate, median_cpu_ms, press, stage
from bench.traffic import SERIAL, Plan

_IMAGES = 4
_WARM_UP = 50


def measure(run: Run) -> list[Row]:
    with ExitStack() as stack:
        without = stack.enter_context(stage(run)).gateway
        directory = stack.enter_context(TemporaryDirectory(dir=run.folder))
        stored = stack.enter_context(stage(run, pool=Pool(storage=f"file://{directory}"))).gateway
        measured = (stored, without)
        on, off = map(median_cpu_ms, alternate(measured, partial(_plan, run), 5, run.report))
        keyed_on, keyed_off = map(median_cpu_ms, alternate(measured, partial(_keyed_plan, run), 5, run.report))
        goal = at_most(1.15, Of.RATIO)
        return [
            Row(measure="8 MB, a storage, CPU, ms: to none", gateway=on, baseline=off, goal=goal),
            Row(measure="  with an Idempotency-Key", gateway=keyed_on, baseline=keyed_off),
            _memory(stored),
        ]


def _plan(run: Run, program: Program) -> Plan:
    return program.plan(images=_IMAGES, concurrency=4, seconds=30, count=run.count(100, 30))


def _keyed_plan(run: Run, program: Program) -> Plan:
    return msgspec.structs.replace(_plan(run, program), headers=_keyed(program))


def _keyed(program: Program) -> Mapping[str, str]:
    return {**program.plan(seconds=1).headers, "idempotency-key": f"{uuid.uuid4()}-{SERIAL}"}


def _memory(gateway: Program) -> Row:
    """Measures one response whose images are stored."""
    press(gateway, gateway.plan(seconds=30, count=_WARM_UP, headers=_keyed(gateway)))
    time.sleep(1)
    idle_bytes = memory_bytes(gateway.pid)
    reset_peak(gateway.pid)
    plan = gateway.plan(images=_IMAGES, seconds=30, count=1, headers=_keyed(gateway))
    body_bytes = press(gateway, plan).outcome.body_bytes
    bodies = (peak_memory_bytes(gateway.pid) - idle_bytes) / body_bytes
    return Row(measure="memory for one stored, bodies", gateway=bodies, goal=at_most(2))
