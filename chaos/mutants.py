"""`python -m chaos.mutants`: the chaos test must fail for a broken gateway.

Each mutant is a copy of the package with one text replaced. A text that is no longer found is an error: rewrite
the mutant.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

PACKAGE: Final = Path(__file__).parents[1] / "gateway"
_RUN_S: Final = 900
"""A run of half a minute, plus a margin for a slow machine."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug."""

    name: str
    file: str
    """Path in the package."""
    before: str
    after: str
    without: tuple[str, ...] = ("overload", "outages", "workers", "clock")
    """Features disabled in its run; the others find it."""

    def apply(self, package: Path) -> None:
        """Raises: LookupError unless the text occurs exactly once."""
        path = package / self.file
        text = path.read_text("utf-8")
        if text.count(self.before) != 1:
            raise LookupError(f"{self.name}: {self.file} holds {self.before!r} {text.count(self.before)} times")
        path.write_text(text.replace(self.before, self.after), "utf-8")


MUTANTS: Final = (
    Mutant(
        "settlement skipped",
        "metering/admission.py",
        "                await self._settle(reservation)\n            except BaseException",
        "                self._unsettled.pop(reservation.id)\n            except BaseException",
    ),
    Mutant(
        "a lease of the pool without its expiry",
        "scheduler/lua/leases.lua",
        "redis.call('ZADD', touch('leases'), until_us, id)",
        "redis.call('ZADD', touch('leases'), '+inf', id)",
    ),
    Mutant(
        "a reservation without its expiry",
        "metering/lua/admit.lua",
        "redis.call('ZADD', open, now_ms + tonumber(ARGV[7]), reservation_id)",
        "redis.call('ZADD', open, '+inf', reservation_id)",
    ),
    Mutant(
        "a retry on unknown outcomes",
        "generation/retries.py",
        "        if self.left <= 0 or row.retry is Retry.NEVER or row.outcome not in _FREE:\n            return False",
        "        if self.left <= 0:\n            return False\n"
        "        if row.outcome is Outcome.UNKNOWN:\n            return True",
    ),
    Mutant(
        "a key that buys while its first request runs",
        "metering/lua/repeats.lua",
        "if state == 'free' then return nil end",
        "if state == 'free' or state == 'running' then return nil end",
    ),
    Mutant(
        "a line of a batch that forgets its order",
        "metering/lua/repeats.lua",
        "identity.name\n    redis.call('HSET', name,",
        "identity.name\n    if identity.kind == 'line' then return end\n    redis.call('HSET', name,",
    ),
    Mutant(
        "leases that expire in an outage",
        "scheduler/lua/leases.lua",
        "local ended = in_grace() and {} or redis.call(",
        "local ended = redis.call(",
        without=("overload", "workers", "clock"),
    ),
    Mutant(
        "scripts whose work grows with the queue",
        "scheduler/lua/prelude.lua",
        "local clock = redis.call('TIME')",
        "for _ = 1, 20 * redis.call('ZCARD', K.queue) do redis.call('ZCARD', K.queue) end\n"
        "local clock = redis.call('TIME', unpack({}))",
        without=("outages", "workers", "clock"),
    ),
)


def main() -> None:
    given = _arguments()
    survivors = [mutant.name for mutant in MUTANTS if given.only in mutant.name and not _is_caught(mutant, given)]
    if survivors:
        sys.exit(f"not caught: {', '.join(survivors)}")
    _print("every mutant was caught")


def _is_caught(mutant: Mutant, given: Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="chaos-mutant-") as name:
        folder = Path(name)
        shutil.copytree(PACKAGE, folder / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
        mutant.apply(folder / "gateway")
        result = folder / "result.json"
        options = ["--minutes", f"{given.minutes:g}", "--seed", f"{given.seed}", "--json", str(result)]
        options += [part for name in mutant.without for part in ("--without", name)]
        command = [sys.executable, "-m", "chaos", *options, "--package", str(folder / "gateway")]
        ran = subprocess.run(command, capture_output=True, timeout=_RUN_S, check=False)  # noqa: S603 - our own
        _remove_logs(ran.stdout.decode())
        if ran.returncode != 1 or not result.exists():
            _print(f"{mutant.name}: exit code {ran.returncode}")
            _print(ran.stderr.decode()[-2000:] if ran.returncode else "no discrepancy")
            return False
        found = msgspec.json.decode(result.read_bytes())["discrepancies"]
    _print(f"{mutant.name}: caught")
    for what, count in Counter(one["what"] for one in found).most_common():
        _print(f"  {count:5}  {what}")
    return True


def _remove_logs(told: str) -> None:
    """Removes the logs that a failing run preserves; here failure is expected."""
    if kept := re.search(r"the logs are in (\S+)", told):
        shutil.rmtree(kept[1], ignore_errors=True)


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="python -m chaos.mutants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="of load, for each mutant; default 0.5")
    parser.add_argument("--seed", type=int, default=1, help="of each run")
    parser.add_argument("--only", default="", help="those whose name holds this")
    return parser.parse_args()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
