"""`imagegate conformance`."""

import importlib.util
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from gateway.cli.output import SOCKS, print_error, print_json, print_table, print_text, progressing

if TYPE_CHECKING:
    from gateway.testing.conformance import Plan, Report

_MODEL_HELP: Final = "The image model to test. Default: the first listed model, else dall-e-3."
_PROGRAMS_HELP: Final = "Do not send the requests of client programs."
_PROVOKE_HELP: Final = "Buy up to N more images to reach the rate limit."


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="The base URL, for example http://127.0.0.1:8080/v1.")],
    key: Annotated[
        str, typer.Option(envvar="IMAGEGATE_CONFORMANCE_KEY", help="An API key of the server.", show_default=False)
    ] = "",
    model: Annotated[str | None, typer.Option(help=_MODEL_HELP, show_default=False)] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Run only the checks that buy nothing.")] = False,
    no_programs: Annotated[bool, typer.Option("--no-programs", help=_PROGRAMS_HELP)] = False,
    provoke_429: Annotated[int, typer.Option("--provoke-429", metavar="N", min=0, help=_PROVOKE_HELP)] = 0,
    timeout: Annotated[float, typer.Option(min=1.0, help="Maximum seconds for a response.")] = 120.0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that a server is compatible with OpenAI's image clients.

    Works with any server. Exit code 0: every must holds; 1: one does not, or could not be tried; 2: the run could not
    begin. The command buys images with the key, and prints the maximum number first.
    """
    if importlib.util.find_spec("openai") is None:
        _stop("the OpenAI SDK is missing: pip install openai")
    from gateway.domain.secret_shapes import find_unsendable
    from gateway.testing.conformance import Plan, UnusableError, conform

    key = key.strip()
    if not key:
        _stop("no key; use --key or set IMAGEGATE_CONFORMANCE_KEY")
    if problem := find_unsendable(key):
        _stop(f"--key or IMAGEGATE_CONFORMANCE_KEY: {problem}")

    plan = Plan(url, key, model, timeout, not no_images, not no_programs, provoke_429)
    images = f"at most {plan.images_max} images" if plan.images_max else "no images"
    mistaken = f"a server that accepts what it should refuse\ngenerates up to {plan.mistaken_max} more."
    try:
        typer.echo(f"Buys {images}; {mistaken}", err=True)
        with progressing("checking", "checks") as progress:
            report = conform(plan, progress)
    except ImportError:  # of the package for SOCKS
        _stop(SOCKS)
    except UnusableError as error:
        _stop(str(error))
    if json:
        print_json(_document(plan, report))
    else:
        _print(report)
    raise typer.Exit(0 if report.holds else 1)


def _stop(message: str) -> NoReturn:
    """Prints one line on standard error; exit code 2."""
    print_error(message)
    raise typer.Exit(2)


def _print(report: "Report") -> None:
    from gateway.testing.conformance import Level, Outcome

    contract = [found for found in report.findings if not found.check.program]
    programs = [found for found in report.findings if found.check.program]
    rows = [(found.check.name, found.check.level.value, found.outcome.value) for found in contract]
    print_table(("CHECK", "LEVEL", "RESULT"), rows, empty="No checks.")
    if programs:
        print()
        rows = [(found.check.program, found.check.name, found.outcome.value) for found in programs]
        print_table(("PROGRAM", "CHECK", "RESULT"), rows, empty="")
    for outcome in (Outcome.FAILS, Outcome.UNTRIED, Outcome.INAPPLICABLE):
        findings = [finding for finding in report.findings if finding.outcome is outcome]
        if findings:
            print(f"\n{outcome.value.capitalize()}:")
        for finding in findings:
            check = finding.check
            if outcome is Outcome.INAPPLICABLE:
                print_text(f"{check.name}: {finding.seen}", indent=2)
                continue
            print(f"\n  {check.name} ({check.level.value})")
            for text in (check.holds, f"Seen: {finding.seen}", f"Breaks: {check.breaks}"):
                print_text(text, indent=4)
    failed = [report.count(Outcome.FAILS, level) for level in Level]
    print(
        f"\n{report.base_url}, {report.model}: {report.count(Outcome.HOLDS)} hold, "
        f"{failed[0]} musts and {failed[1]} shoulds do not,\n"
        f"{report.count(Outcome.UNTRIED)} could not be tried, {report.count(Outcome.INAPPLICABLE)} do not apply. "
        f"Images received: {report.images_seen}."
    )


def _document(plan: "Plan", report: "Report") -> dict[str, object]:
    from gateway.testing.conformance import Outcome

    counts = {outcome.value: report.count(outcome) for outcome in Outcome}
    checks = [
        {"name": found.check.name, "program": found.check.program or None}
        | {"level": found.check.level.value, "outcome": found.outcome.value}
        | {"holds": found.check.holds, "seen": found.seen, "breaks": found.check.breaks}
        for found in report.findings
    ]
    images = {"images_at_most": plan.images_max, "images_seen": report.images_seen}
    about = {"base_url": report.base_url, "model": report.model, "musts_hold": report.holds}
    return {**about, **images, "counts": counts, "checks": checks}
