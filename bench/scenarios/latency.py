"""Added latency compared to the upstream itself, at concurrency 1 and 32."""

from bench.histograms import Histogram
from bench.processes import Program, read_metrics
from bench.results import Of, Row, at_most
from bench.run import Run, Stage, press, stage
from bench.traffic import Outcome

_OVERHEAD = "imagegate_overhead_seconds"


def measure(run: Run) -> list[Row]:
    with stage(run, "proxy") as programs:
        return [row for concurrency in (1, 32) for row in _at(run, programs, concurrency)]


def _at(run: Run, programs: Stage, concurrency: int) -> list[Row]:
    seconds = run.pick(5.0, 1.0)

    def ask(program: Program) -> Outcome:
        press(program, program.plan(concurrency=concurrency, seconds=0.3))
        return press(program, program.plan(concurrency=concurrency, seconds=seconds)).outcome

    straight, relay = ask(programs.upstream), ask(programs.baselines["proxy"])
    before = Histogram.read(read_metrics(programs.gateway.port), _OVERHEAD)
    gateway = ask(programs.gateway)
    overhead = Histogram.read(read_metrics(programs.gateway.port), _OVERHEAD) - before
    run.report(f"{concurrency} at once: {1000 * gateway.p50_s:.2f} ms, relay {1000 * relay.p50_s:.2f} ms")
    return [
        Row(
            measure=f"added p50, {concurrency} at once, ms",
            gateway=1000 * (gateway.p50_s - straight.p50_s),
            baseline=1000 * (relay.p50_s - straight.p50_s),
            goal=at_most(2, Of.RATIO),
        ),
        Row(
            measure=f"added p99, {concurrency} at once, ms",
            gateway=1000 * (gateway.p99_s - straight.p99_s),
            baseline=1000 * (relay.p99_s - straight.p99_s),
        ),
        Row(measure="overhead_seconds p50, ms", gateway=1000 * overhead.quantile(0.5)),
        Row(measure="overhead_seconds p99, ms", gateway=1000 * overhead.quantile(0.99)),
    ]
