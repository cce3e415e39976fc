"""Two thousand calls in flight: an upstream that takes 5 s, at 400 requests per second."""

import time

from bench.lag import Watch
from bench.process_table import memory_bytes, peak_memory_bytes, reset_peak
from bench.results import Row, at_least, at_most
from bench.run import Run, press, stage
from bench.traffic import Traffic

_DELAY_S = 5.0
_RATE = 400.0


def measure(run: Run) -> list[Row]:
    with stage(run, delay_s=_DELAY_S) as programs:
        gateway = programs.gateway
        press(gateway, gateway.plan(concurrency=32, seconds=0.1))
        time.sleep(1)
        idle_bytes = memory_bytes(gateway.pid)
        reset_peak(gateway.pid)
        plan = gateway.plan(rate=_RATE, seconds=run.pick(20.0, 6.0), in_time_s=_DELAY_S + 0.5)
        with Watch(gateway) as watch, Traffic(plan) as traffic:
            outcome = traffic.outcome()
            lag = watch.lag()
        each_bytes = (peak_memory_bytes(gateway.pid) - idle_bytes) / (_DELAY_S * _RATE)
    run.report(
        f"{outcome.sent} sent, {outcome.served} served, {outcome.failed or 'none failed'}; p50 {outcome.p50_s:.2f} s"
    )
    return [
        Row(
            measure="2,000 in flight: % within 5.5 s",
            gateway=100 * outcome.in_time / outcome.sent,
            goal=at_least(99),
        ),
        Row(measure="2,000 in flight: loop lag p99, ms", gateway=1000 * lag.p99_s, goal=at_most(100)),
        Row(measure="2,000 in flight: own lag metric, ms", gateway=1000 * lag.own_p99_s),
        Row(measure="2,000 in flight: memory each, KB", gateway=each_bytes / 1024, goal=at_most(40)),
    ]
