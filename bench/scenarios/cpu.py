"""CPU of the server process per request, user and system, at concurrency 32."""

from collections.abc import Sequence

from bench.processes import Program, read_served
from bench.results import Of, Row, at_most
from bench.run import Run, Spent, Stage, alternate, median_cpu_ms, stage
from bench.traffic import Plan


def measure(run: Run) -> list[Row]:
    seconds = run.pick(3.0, 0.8)

    def plan(program: Program) -> Plan:
        return program.plan(concurrency=32, seconds=seconds)

    with stage(run, "proxy", "hello") as programs:
        measured = (programs.gateway, *programs.baselines.values())
        found = alternate(measured, plan, 5, run.report)
        _check_served(programs, found[:2])
    gateway, relay, hello = map(median_cpu_ms, found)
    return [
        Row(measure="CPU per request, ms: to relay", gateway=gateway, baseline=relay, goal=at_most(0.33, Of.RATIO)),
        Row(measure="CPU per request, ms: to hello", gateway=gateway, baseline=hello),
    ]


def _check_served(programs: Stage, found: Sequence[Sequence[Spent]]) -> None:
    """Raises: RuntimeError if something was served without the upstream."""
    answered = sum(spent.outcome.served for rounds in found for spent in rounds)
    served = read_served(programs.upstream.port)
    if served < answered:
        raise RuntimeError(f"{answered} were answered, of which the upstream served {served}")
