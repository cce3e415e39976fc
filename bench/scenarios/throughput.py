"""Requests per second at concurrency 256, one process."""

import statistics

from bench.processes import Program
from bench.results import Of, Row, at_least
from bench.run import Run, stage
from bench.traffic import Outcome, send

_CONCURRENCY = 256


def measure(run: Run) -> list[Row]:
    rounds = run.count(5, 3)
    with stage(run, "proxy") as programs:
        measured = (programs.gateway, programs.baselines["proxy"])
        for program in measured:
            _ask(program, 0.5)
        found: list[list[Outcome]] = [[], []]
        for number in range(rounds):
            for index, program in enumerate(measured):
                found[index].append(_ask(program, run.pick(4.0, 1.0)))
            rates = ", ".join(f"{_rate(outcomes[-1]):.0f}/s" for outcomes in found)
            run.report(f"round {number + 1} of {rounds}: {rates}")
    gateway, relay = (statistics.median(map(_rate, outcomes)) for outcomes in found)
    refused, sent = (
        sum(figures) for figures in zip(*((one.sent - one.served, one.sent) for one in found[0]), strict=True)
    )
    return [
        Row(
            measure=f"requests/s, {_CONCURRENCY} at once",
            gateway=gateway,
            baseline=relay,
            goal=at_least(3, Of.RATIO),
        ),
        Row(measure="of these not served, percent", gateway=100 * refused / sent),
    ]


def _ask(program: Program, seconds: float) -> Outcome:
    return send(program.plan(concurrency=_CONCURRENCY, seconds=seconds))


def _rate(outcome: Outcome) -> float:
    return outcome.served / outcome.seconds
