"""Conversion of 1024x1024 JPEG to PNG: its CPU, and what 200 of them at once cost other requests.

The baseline of that is a program that uses one processor, beside the same PNG at the same rate, made by the upstream.
On two processors such a program alone raises the p99 of others by half, even at idle priority.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace

from bench.processes import Program, read_metrics, read_served
from bench.results import Of, Row, at_most
from bench.run import Run, Stage, press, stage
from bench.traffic import Plan, Traffic
from bench.upstream import PICTURE_PROMPT, PNG_PROMPT

_CONVERSIONS = 200
_CLIENTS = 4
_PAUSE_S = 0.02
_BEGUN_TIMEOUT_S = 30.0
_SETTLED_S = 1.0
_BUSY = "while True: pass"


def measure(run: Run) -> list[Row]:
    with stage(run) as programs:
        rows = [*_cpu(run, programs.gateway), *_latency(run, programs)]
        as_made = _count_as_made(programs.gateway)
    return [*rows, Row(measure="  images that were not converted", gateway=as_made, goal=at_most(0))]


def _cpu(run: Run, gateway: Program) -> list[Row]:
    """Measures the gateway's CPU less that of the same request without a conversion."""
    plans = {form: _plan(gateway, form, count=run.count(60, 15)) for form in (None, "png", "webp")}
    for plan in plans.values():
        press(gateway, plan)
    spent = {
        form: statistics.median(press(gateway, plan).cpu_ms_each for _ in range(3)) for form, plan in plans.items()
    }
    run.report(f"CPU, ms, by format: {spent}")
    return [
        Row(measure="1024x1024 JPEG to PNG, CPU, ms", gateway=spent["png"] - spent[None], goal=at_most(80)),
        Row(measure="1024x1024 JPEG to WebP, CPU, ms", gateway=spent["webp"] - spent[None]),
    ]


def _latency(run: Run, programs: Stage) -> list[Row]:
    """Measures other requests while 200 images wait for their conversion, after their requests have arrived."""
    gateway = programs.gateway
    seconds, rounds = run.pick(10.0, 3.0), run.count(7, 2)
    alone, beside, as_busy = list[float](), list[float](), list[float]()
    others = gateway.plan(concurrency=_CLIENTS, seconds=seconds, pause_s=_PAUSE_S)
    press(gateway, others)
    for number in range(rounds):
        alone.append(press(gateway, others).outcome.p99_s)
        before = read_served(programs.upstream.port)
        with Traffic(_plan(gateway, "png", concurrency=_CONVERSIONS, seconds=3600, patience_s=60)) as traffic:
            _wait_until_served(programs.upstream, before + _CONVERSIONS)
            beside.append(press(gateway, others).outcome.p99_s)
            made = traffic.stop()
        if made.failed:
            raise RuntimeError(f"conversions failed: {made.failed}")
        rate = made.served / made.seconds
        unconverted = _plan(gateway, None, PNG_PROMPT, rate=rate, seconds=3600, patience_s=60)
        with _busy_processor(), Traffic(unconverted) as traffic:
            time.sleep(_SETTLED_S)
            as_busy.append(press(gateway, others).outcome.p99_s)
            traffic.stop()
        tails = ", ".join(f"{1000 * found[-1]:.1f} ms" for found in (alone, as_busy, beside))
        run.report(f"round {number + 1} of {rounds}: {tails}, {rate:.0f} converted a second")
    p99_ms = [1000 * statistics.median(found) for found in (alone, as_busy, beside)]
    return [
        Row(
            measure="p99 beside 200 conversions, ms",
            gateway=p99_ms[2],
            baseline=p99_ms[1],
            goal=at_most(1.2, Of.RATIO),
        ),
        Row(measure="  beside a busy processor", gateway=p99_ms[1], baseline=p99_ms[0]),
    ]


@contextmanager
def _busy_processor() -> Iterator[None]:
    """Runs a program that uses one processor."""
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as program:  # noqa: S603 - our own program
        try:
            yield
        finally:
            program.kill()


def _wait_until_served(upstream: Program, count: int) -> None:
    """Raises: RuntimeError after half a minute."""
    deadline_s = time.monotonic() + _BEGUN_TIMEOUT_S
    while read_served(upstream.port) < count:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the requests for conversions did not reach the upstream")
        time.sleep(0.05)


def _plan(gateway: Program, form: str | None, prompt: str = PICTURE_PROMPT, **changes: object) -> Plan:
    body = {"model": "image-01", "prompt": prompt, "response_format": "b64_json", "output_format": form}
    return replace(gateway.plan(body=msgspec.json.encode(body).decode(), seconds=60), **changes)


def _count_as_made(gateway: Program) -> int:
    """Returns the number of images that were not converted."""
    lines = [line for line in read_metrics(gateway.port).splitlines() if line.startswith("imagegate_conversions_total")]
    return round(sum(float(line.split()[-1]) for line in lines if 'result="converted"' not in line))
