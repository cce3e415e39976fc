"""`imagegate conformance` as a person types it."""

import json
import re
import subprocess
import sys
from typing import Final

import pytest

from gateway.testing.conformance.registry import CHECKS, CONTRACT_IMAGES, IMAGES_MAX
from tests.support.commands import environment, fits, run
from tests.support.harness import Gateway, Simulator, serving
from tests.testing.conformance.fair import KEY, Fair
from tests.testing.conformance.twists import answering, at, heading, ordered, ordered_by, setting, when

UNUSED_URL: Final = "http://127.0.0.1:9"


def rows(table: str) -> list[str]:
    return table.splitlines()[1:]


@pytest.mark.slow
def test_a_gateway_that_holds_ends_with_0(gateway: Gateway, simulator: Simulator) -> None:
    done = run("conformance", gateway.base_url, "--key", gateway.api_key)

    assert 0 == done.returncode, done.stdout
    assert f"Buys at most {IMAGES_MAX} images" in done.stderr
    assert fits(done.stdout)
    assert fits(done.stderr)
    contract, programs, *_ = done.stdout.split("\n\n")
    assert [check.name for check in CHECKS if not check.program] == [line.split()[0] for line in rows(contract)]
    assert [check.name for check in CHECKS if check.program] == re.findall(r" (programs\.\S+)", programs)
    assert f"{gateway.base_url}, image-01: " in done.stdout
    assert "Does not hold:" not in done.stdout
    assert done.stdout.rstrip().endswith(f"Images received: {simulator.images_billed()}.")
    assert gateway.api_key not in done.stdout + done.stderr


def test_a_must_that_does_not_hold_is_explained_and_ends_with_1() -> None:
    with serving(Fair(when(ordered, setting("created", to=0.5))).app()) as url:
        done = run("conformance", url, "--key", KEY)

    assert 1 == done.returncode
    assert fits(done.stdout)
    _, _, explained = done.stdout.partition("Does not hold:\n")
    assert [
        "images.created (must)",
        "created is the time in whole seconds.",
        "Seen: created is 0.5",
        "Breaks: Go and Java SDK: a fraction or a text does not fit an int64.",
    ] == [line.strip() for line in explained.splitlines()[1:5]]
    assert "1 musts and 0 shoulds do not" in done.stdout


def test_a_should_that_does_not_hold_ends_with_0() -> None:
    with serving(Fair(when(at("/models"), heading(x_request_id=None))).app()) as url:
        done = run("conformance", url, "--key", KEY, "--no-images")

    assert 0 == done.returncode
    assert "headers.request_id (should)" in done.stdout
    assert "Buys no images" in done.stderr


def test_the_key_may_come_from_the_environment_and_the_report_as_json() -> None:
    with serving(Fair().app()) as url:
        done = run("conformance", url, "--json", "--model", "dall-e-3", "--no-programs", IMAGEGATE_CONFORMANCE_KEY=KEY)
        report = json.loads(done.stdout)

    assert 0 == done.returncode
    assert (f"{url}/v1", "dall-e-3", True, CONTRACT_IMAGES, CONTRACT_IMAGES) == (
        report["base_url"],
        report["model"],
        report["musts_hold"],
        report["images_at_most"],
        report["images_seen"],
    )
    assert {"name", "program", "level", "outcome", "holds", "seen", "breaks"} == set(report["checks"][0])
    assert len(report["checks"]) == sum(report["counts"].values()) == len([one for one in CHECKS if not one.program])


def test_a_program_that_breaks_is_named_and_ends_with_1() -> None:
    refuse = when(ordered_by(lambda body: body.get("output_format") == "webp"), answering(400))
    with serving(Fair(refuse).app()) as url:
        done = run("conformance", url, "--key", KEY)
        report = json.loads(run("conformance", url, "--key", KEY, "--json").stdout)

    assert 1 == done.returncode
    assert fits(done.stdout)
    assert {("Dify", "programs.dify_webp"), ("big-AGI", "programs.big_agi_webp")} == {
        (check["program"], check["name"]) for check in report["checks"] if check["outcome"] == "does not hold"
    }
    assert "Breaks: big-AGI shows an error, or nothing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((UNUSED_URL, "--key", KEY), f"imagegate: {UNUSED_URL}/v1 cannot be used: GET /models: "),
        (("127.0.0.1:9", "--key", KEY), "imagegate: URL must be as http://127.0.0.1:8080/v1"),
        ((UNUSED_URL,), "imagegate: no key; use --key or set IMAGEGATE_CONFORMANCE_KEY"),
        (
            (UNUSED_URL, "--key", "sk-abcdéf"),
            "imagegate: --key or IMAGEGATE_CONFORMANCE_KEY: it holds characters that no HTTP header can carry",
        ),
    ],
)
def test_a_run_that_cannot_begin_ends_with_2(arguments: tuple[str, ...], line: str) -> None:
    done = run("conformance", *arguments, IMAGEGATE_CONFORMANCE_KEY="")

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.splitlines()[-1].startswith(line)


def test_a_key_that_is_refused_ends_with_2(gateway: Gateway) -> None:
    done = run("conformance", gateway.base_url, "--key", "sk-another-0123456789")

    assert (2, "") == (done.returncode, done.stdout)
    assert f"the key is refused at {gateway.base_url} (HTTP 401); check --key" in done.stderr


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['openai'] = None; from gateway.__main__ import main; main()"
    command = [sys.executable, "-c", code, "conformance", UNUSED_URL, "--key", KEY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)

    assert (2, "") == (done.returncode, done.stdout)
    assert "imagegate: the OpenAI SDK is missing: pip install openai\n" == done.stderr
