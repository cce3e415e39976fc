"""`python -m bench`: runs the scenarios and prints the table."""

import os
import platform
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import __doc__ as what_it_is
from bench.process_table import allow_files
from bench.results import Row, render_table
from bench.run import Run
from bench.scenarios import MEASURES


def main() -> None:
    given = _arguments()
    allow_files()
    began_s = time.monotonic()
    _tell(render_machine())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows, failures = _measure(given, Path(folder), began_s)
    _print(render_table(rows))
    _print(f"\n{render_machine()}\n{time.monotonic() - began_s:.0f} s{', quick' if given.quick else ''}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_bytes(render_json(rows, failures, is_quick=given.quick))
    _print(f"written to {given.json}")
    if failures:
        sys.exit("\n".join(f"{name} could not be measured: {reason}" for name, reason in failures.items()))


def _measure(given: Namespace, folder: Path, began_s: float) -> tuple[list[Row], dict[str, str]]:
    """Returns the rows, and the reasons for missing scenarios; a failed scenario does not stop the others."""
    rows, failures = list[Row](), dict[str, str]()
    for name in given.only or MEASURES:

        def report(line: str, name: str = name) -> None:
            _tell(f"{time.monotonic() - began_s:4.0f} s  {name}: {line}")

        report("...")
        try:
            rows += MEASURES[name](Run(folder, given.quick, report, given.profile))
        except RuntimeError as error:
            failures[name] = str(error)
            report(failures[name])
    return rows, failures


def render_machine() -> str:
    """Describes the machine."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def render_json(rows: Sequence[Row], failures: Mapping[str, str], *, is_quick: bool) -> bytes:
    described = [
        msgspec.structs.asdict(row) | {"goal": row.goal and str(row.goal), "ratio": row.ratio, "holds": row.holds}
        for row in rows
    ]
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": render_machine(),
        "is_quick": is_quick,
        "rows": described,
        "failures": failures,
    }
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="python -m bench", description=what_it_is)
    parser.add_argument("--quick", action="store_true", help="shorter, with more noise")
    parser.add_argument("--only", type=_names, help=f"some of {', '.join(MEASURES)}; separated by commas")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench.json"), help="where the figures are written")
    parser.add_argument("--profile", type=Path, help="where to write what the gateway spent its time with, as it ends")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return text.split(",")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
