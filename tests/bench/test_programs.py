"""The programs of the benchmark start and do what they are for. What they measure is asked of no machine here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.process_table import cpu_s, memory_bytes, peak_memory_bytes
from bench.processes import Program, baseline, read_served, upstream
from bench.traffic import Plan, Traffic, send
from bench.upstream import LARGE_BYTES, PATH, SMALL_BYTES
from tests.support.harness import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Program]:
    with upstream(tmp_path) as program:
        yield program


def ask(program: Program, images: int) -> httpx.Response:
    plan = program.plan(images=images, seconds=0)
    url = f"http://127.0.0.1:{program.port}{plan.path}"
    sent = {"content-type": "application/json", **plan.headers}
    return httpx.post(url, content=plan.body, headers=sent, timeout=30, verify=False)


@pytest.mark.parametrize(("images", "characters"), [(1, SMALL_BYTES), (4, LARGE_BYTES)])
def test_the_upstream_answers_as_minimax_does(source: Program, images: int, characters: int) -> None:
    answer = ask(source, images).json()
    assert answer["base_resp"] == {"status_code": 0, "status_msg": "success"}
    assert [len(picture) for picture in answer["data"]["image_base64"]] == [characters] * images


@pytest.mark.parametrize("name", ["proxy", "relay_bytes"])
def test_a_relay_passes_on_what_the_upstream_answers(source: Program, tmp_path: Path, name: str) -> None:
    with baseline(name, tmp_path, source.port) as relay:
        assert ask(relay, 4).content == ask(source, 4).content
        assert read_served(source.port) == 2


def test_hello_asks_no_upstream(source: Program, tmp_path: Path) -> None:
    with baseline("hello", tmp_path, source.port) as hello:
        assert ask(hello, 1).json() == {"hello": "world"}
    assert read_served(source.port) == 0


def test_a_closed_load_sends_what_it_is_told_and_no_more(source: Program) -> None:
    outcome = send(source.plan(concurrency=7, seconds=60, count=500))
    assert (outcome.served, outcome.failed) == (500, {})
    assert read_served(source.port) == 500


def test_an_open_load_keeps_its_pace_whatever_the_answers_do(tmp_path: Path) -> None:
    """A closed load of so few connections would have sent one each."""
    with upstream(tmp_path, delay_s=1.0) as slow:
        outcome = send(slow.plan(rate=100, seconds=60, count=50, in_time_s=30.0))
        assert (outcome.served, outcome.in_time, outcome.failed) == (50, 50, {})
        assert 1.0 <= outcome.p50_s
        assert outcome.seconds < 50


def test_bodies_are_counted(source: Program) -> None:
    assert send(source.plan(images=4, seconds=60, count=3)).body_bytes == len(ask(source, 4).content)


def test_a_load_that_is_stopped_tells_what_came_of_it(source: Program) -> None:
    with Traffic(source.plan(seconds=600)) as traffic:
        wait_until(lambda: read_served(source.port) >= 10, "ten are served")
        outcome = traffic.stop()
    assert (outcome.served, outcome.failed) == (read_served(source.port), {})


def test_what_is_not_served_is_told_by_its_status(source: Program, tmp_path: Path) -> None:
    plan = Plan(port=source.port, path=PATH, body="{}", seconds=60, count=3)
    with (
        baseline("hello", tmp_path, source.port) as hello,
        Traffic(Plan(port=hello.port, path="/elsewhere", body="{}", seconds=60, count=3)) as traffic,
    ):
        assert traffic.outcome().failed == {"404": 3}
    assert send(plan).served == 3


def test_a_process_is_measured_from_outside(source: Program) -> None:
    before_s = cpu_s(source.pid)
    send(source.plan(images=4, concurrency=4, seconds=60, count=200))
    assert cpu_s(source.pid) > before_s
    assert 0 < memory_bytes(source.pid) <= peak_memory_bytes(source.pid)


def test_a_measure_from_its_start_to_its_figures(tmp_path: Path) -> None:
    """The gateway with everything on, by the command that people use."""
    told = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--only", "trips", "--json", str(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())
    assert found["failures"] == {}
    assert [row["measure"] for row in found["rows"]] == ["Redis round trips per request", "scripts per request"]
    assert "Redis round trips per request" in done.stdout
