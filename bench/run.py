"""Context of every scenario: thoroughness, folder and progress output."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.process_table import cpu_s
from bench.processes import Pool, Program, baseline, gateway, redis, upstream
from bench.traffic import Outcome, Plan, send

_DISTURBED_MAX: Final = 3
_SHOWN_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Run:
    """One run of the benchmark."""

    folder: Path
    is_quick: bool
    report: Callable[[str], None]
    profile: Path | None = None

    def pick(self, thorough: float, quick: float) -> float:
        return quick if self.is_quick else thorough

    def count(self, thorough: int, quick: int) -> int:
        return quick if self.is_quick else thorough


@dataclass(frozen=True)
class Stage:
    """Running programs, each measured alone; the gateway has its own Redis and upstream."""

    gateway: Program
    upstream: Program
    redis_port: int
    baselines: dict[str, Program]


@contextmanager
def stage(run: Run, *baselines: str, delay_s: float = 0.0, pool: Pool = Pool()) -> Iterator[Stage]:  # noqa: B008 - immutable
    """Starts everything that a scenario needs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=run.folder)))
        redis_port = stack.enter_context(redis(folder))
        source = stack.enter_context(upstream(folder, delay_s))
        others = {name: stack.enter_context(baseline(name, folder, source.port)) for name in baselines}
        measured = stack.enter_context(gateway(folder, redis_port, source.port, pool, run.profile))
        yield Stage(measured, source, redis_port, others)


@dataclass(frozen=True)
class Spent:
    """Cost of a load to the program that served it."""

    outcome: Outcome
    cpu_s: float

    @property
    def cpu_ms_each(self) -> float:
        return 1000 * self.cpu_s / self.outcome.served


def press(program: Program, plan: Plan) -> Spent:
    """Raises: RuntimeError if more than 1% failed: the others would seem more expensive."""
    before_s = cpu_s(program.pid)
    outcome = send(plan)
    spent = Spent(outcome, cpu_s(program.pid) - before_s)
    if outcome.served < 0.99 * outcome.sent:
        raise RuntimeError(f"not everything was served: {outcome.failed}\n{complaints(program.log)}")
    return spent


def complaints(log: Path) -> str:
    """Returns the last log lines that are not served requests."""
    lines = [line[:_SHOWN_CHARACTERS] for line in log.read_text().splitlines() if '"status": 200' not in line]
    return "\n".join(lines[-2:])


def alternate(
    programs: Sequence[Program], plan: Callable[[Program], Plan], rounds: int, report: Callable[[str], None]
) -> list[list[Spent]]:
    """Measures each program in turn for several rounds, after a warm-up. Returns: the rounds of each program."""
    for program in programs:
        send(plan(program))
    found: list[list[Spent]] = [[] for _ in programs]
    for number in range(rounds):
        for index, program in enumerate(programs):
            found[index].append(_press_undisturbed(program, plan(program), report))
        report(f"round {number + 1} of {rounds}: {', '.join(f'{spent[-1].cpu_ms_each:.2f} ms' for spent in found)}")
    return found


def _press_undisturbed(program: Program, plan: Plan, report: Callable[[str], None]) -> Spent:
    """Repeats a disturbed measurement on a busy machine. Raises: RuntimeError after three attempts."""
    for _ in range(_DISTURBED_MAX):
        try:
            return press(program, plan)
        except RuntimeError as error:
            report(f"once more, for {error}")
    return press(program, plan)


def median_cpu_ms(rounds: Sequence[Spent]) -> float:
    return statistics.median(spent.cpu_ms_each for spent in rounds)
