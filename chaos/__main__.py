"""`python -m chaos`: runs the chaos test and prints the report."""

import resource
import secrets
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import uvloop

from chaos import __doc__ as what_it_is
from chaos.reconciliation import reconcile
from chaos.report import render, render_json
from chaos.run import conduct
from chaos.schedule import FEATURES

_PACKAGE = Path(__file__).parents[1] / "gateway"


def main() -> None:
    given = _arguments()
    _allow_files()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    options = "".join(f" --without {name}" for name in given.without)
    _print(f"seed {seed}: repeat it with --minutes {given.minutes:g} --seed {seed}{options}")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    began_s = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began_s:4.0f} s  {line}\n")

    try:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            given.package, folder / "gateway", ignore=ignore
        )  # a copy, so that edits during the run have no effect
        outcome = uvloop.run(conduct(60 * given.minutes, seed, given.without, folder, tell))
    except BaseException:
        tell(f"the logs are in {folder}")
        raise
    books, found = reconcile(outcome.observed)
    _print(render(outcome, books, found))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_bytes(render_json(outcome, books, found))
    _print(f"written to {given.json}")
    if found:
        _print(f"the logs are in {folder}")
        sys.exit(1)
    if not given.keep:
        shutil.rmtree(folder)


def _arguments() -> Namespace:
    parser = ArgumentParser(prog="python -m chaos", description=what_it_is)
    parser.add_argument("--minutes", type=float, default=3.0, help="of load; default 3")
    parser.add_argument("--seed", type=int, help="what is asked and thrown; default: another one each time")
    parser.add_argument(
        "--without", action="append", default=[], choices=FEATURES, help="leave a kind of fault out; may be repeated"
    )
    parser.add_argument("--json", type=Path, default=Path(".cache/chaos.json"), help="where the result is written")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run without discrepancy, too")
    parser.add_argument(
        "--package", type=Path, default=_PACKAGE, help="the package `gateway` that is run; default: ours"
    )
    return parser.parse_args()


def _allow_files() -> None:
    """Raises the limit of open files: every process started here needs thousands of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
