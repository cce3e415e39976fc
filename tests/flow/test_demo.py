"""`imagegate demo`: what `make run` runs."""

import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.demo import ROOT, demo_command, process, ready_line
from tests.support.harness import Simulator, wait_until


def processes_of(home: Path) -> list[str]:
    """The commands of living processes that name the folder or have it as their home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if entry.name.isdecimal() else "Z"
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes() if state != "Z" else b""
        except OSError:
            continue
        if str(home).encode() in words:
            found.append(words.split(b"\0")[0].decode())
    return found


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a short name: the path of a unix socket has at most 107 bytes."""
    return tmp_path_factory.mktemp("h")


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")


def test_it_prints_one_line_of_json_that_is_enough_to_use_it(home: Path) -> None:
    with process(demo_command("--json"), home) as started:
        ready = ready_line(started)
        with OpenAI(base_url=ready["base_url"], api_key=ready["api_key"]) as client:
            answer = client.images.generate(prompt="a lighthouse")
        tenants = httpx.get(
            f"{ready['admin_url']}/admin/v1/tenants", headers={"authorization": f"Bearer {ready['admin_key']}"}
        )
        invoice = httpx.get(f"{ready['simulator_url']}/simulator/invoice").json()
        started.send_signal(signal.SIGINT)
        rest, _ = started.communicate(timeout=20)

    addresses = {"base_url", "admin_url", "simulator_url", "redis_url", "console_url"}
    assert addresses | {"api_key", "admin_key"} == set(ready)
    assert answer.data is not None
    assert base64.b64decode(str(answer.data[0].b64_json)).startswith(b"\xff\xd8\xff")
    assert ["demo"] == [tenant["name"] for tenant in tenants.json()["data"]]
    assert 1 == invoice["total"]["images"]
    assert ("", 0) == (rest, started.returncode)


@needs_proc
@pytest.mark.parametrize(
    "how", [signal.SIGINT, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGTERM, signal.SIGKILL))]
)
def test_however_it_ends_no_process_is_left_and_it_starts_again(home: Path, how: signal.Signals) -> None:
    for _ in range(2):
        with process(demo_command("--json"), home) as started:
            ready = ready_line(started)
            images = images_after_one_more(ready)
            started.send_signal(how)
            started.wait(20)

        assert 1 == images, "it begins clean"
        wait_until(lambda: not processes_of(home), f"every process ends: {processes_of(home)}")


def test_it_keeps_what_it_is_told_to(home: Path) -> None:
    images = []
    for options in ([], ["--keep", str(home / "kept")], ["--keep", str(home / "kept")]):
        with process(demo_command("--json", *options), home) as started:
            ready = ready_line(started)
            images.append(images_after_one_more(ready))
            data = Path(ready["redis_url"].removeprefix("unix://")).parent
            started.send_signal(signal.SIGINT)
            started.communicate(timeout=20)
        assert data.exists() == bool(options)

    assert [1, 1, 2] == images


def images_after_one_more(ready: Mapping[str, Any]) -> int:
    """Makes one image; returns how many the demo has billed."""
    with OpenAI(base_url=ready["base_url"], api_key=ready["api_key"]) as client:
        client.images.generate(prompt="a lighthouse")
    headers = {"authorization": f"Bearer {ready['admin_key']}"}
    images: int = httpx.get(f"{ready['admin_url']}/admin/v1/usage", headers=headers).json()["total"]["images"]
    return images


@pytest.mark.slow
@needs_proc
def test_it_ends_with_the_make_that_started_it(home: Path) -> None:
    script = f"import subprocess, sys; subprocess.run({demo_command('--json', '--exit-with-parent')!r})"
    with process([sys.executable, "-c", script], home) as parent:
        ready_line(parent)
        parent.kill()
        parent.wait()

        wait_until(lambda: not processes_of(home), "every process ends with the parent")


@pytest.mark.slow
def test_what_it_prints_works_as_printed(home: Path) -> None:
    with process(demo_command(), home) as started:
        assert started.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(started.stdout.readline())
            assert lines[-1], started.communicate()[1]
        text = "".join(lines)
        curl = text[text.index("curl ") : text.index("\n\nor from Python")]
        snippet = text[text.index("from base64") : text.index("Ctrl-C")]
        answered = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, timeout=30, check=True)
        subprocess.run([sys.executable, "-c", snippet], cwd=home, timeout=30, check=True)
        picture = httpx.get(json.loads(answered.stdout)["data"][0]["url"])

    assert b"\xff\xd8\xff" == picture.content[:3]
    assert b"\xff\xd8\xff" == (home / "lighthouse.jpg").read_bytes()[:3]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_a_provider_key_in_the_environment_replaces_the_simulator(home: Path) -> None:
    """Nothing is sent: the provider of this machine is not there."""
    command = [
        "env",
        "AI302_API_KEY=k-1",
        "IMAGEGATE_UPSTREAMS__0__BASE_URL=http://127.0.0.1:9",
        *demo_command("--json"),
    ]
    with process(command, home) as started:
        ready = ready_line(started)
        headers = {"authorization": f"Bearer {ready['admin_key']}"}
        pool = httpx.get(f"{ready['admin_url']}/admin/v1/pool", headers=headers).json()["data"]
        answer = httpx.post(
            f"{ready['base_url']}/images/generations",
            json={"prompt": "a cat"},
            headers={"authorization": f"Bearer {ready['api_key']}"},
        )

    assert ["302ai"] == [upstream["name"] for upstream in pool]
    assert ready["simulator_url"] is None
    assert (503, "upstream_unavailable") == (answer.status_code, answer.json()["error"]["code"])


@pytest.mark.parametrize(
    ("variable", "path", "provider", "model"),
    [
        ("OPENAI_API_KEY", "/openai/v1", "openai", "gpt-image-2"),
        pytest.param("ARK_API_KEY", "/ark/api/v3", "ark", "doubao-seedream-4-0-250828", marks=pytest.mark.slow),
        pytest.param("ZHIPU_API_KEY", "/zhipu/api/paas/v4", "zhipu", "glm-image", marks=pytest.mark.slow),
        pytest.param("QIANFAN_API_KEY", "/qianfan/v2", "qianfan", "qwen-image", marks=pytest.mark.slow),
        pytest.param("RECRAFT_API_KEY", "/recraft/v1", "recraft", "recraftv4_1", marks=pytest.mark.slow),
    ],
)
def test_a_key_of_a_provider_serves_its_models(
    home: Path, simulator: Simulator, variable: str, path: str, provider: str, model: str
) -> None:
    command = [
        "env",
        f"{variable}=theirs-1",
        f"IMAGEGATE_UPSTREAMS__0__BASE_URL={simulator.url}{path}",
        f'IMAGEGATE_UPSTREAMS__0__RESULT_HOSTS=["{simulator.url}"]',
        *demo_command("--json"),
    ]
    with process(command, home) as started:
        ready = ready_line(started)
        with OpenAI(base_url=ready["base_url"], api_key=ready["api_key"]) as client:
            owners = {listed.id: listed.owned_by for listed in client.models.list()}
            made = client.images.generate(prompt="a lighthouse", model=model, response_format="b64_json")
            client.images.generate(prompt="a lighthouse", model="dall-e-3")
    assert ready["simulator_url"] is None
    assert (provider, provider) == (owners[model], owners["dall-e-3"])
    assert made.data
    assert made.data[0].b64_json
    assert 2 == simulator.invoice()["accounts"]["theirs"]["images"]


def test_a_key_of_this_gateway_is_no_provider_key(home: Path) -> None:
    with process(["env", "OPENAI_API_KEY=sk-ig-a-client-has-it", *demo_command("--json")], home) as started:
        assert ready_line(started)["simulator_url"]


@pytest.mark.parametrize(
    ("keep", "told"),
    [
        ("notes", "the directory {home}/notes has other files; choose a new or empty one with --keep"),
        (".", "the directory {home} has other files; choose a new or empty one with --keep"),
        ("", "--keep: expected a directory, as in: --keep imagegate-data"),
        ("notes/notes.txt", "the directory {home}/notes/notes.txt cannot be used (File exists); choose another"),
        ("x" * 100, "the path {home}/" + "x" * 100 + "/redis.sock is too long for a socket; choose a shorter"),
    ],
)
def test_a_directory_that_it_may_not_keep_data_in_is_told_in_one_line(home: Path, keep: str, told: str) -> None:
    (home / "notes").mkdir(mode=0o755)
    (home / "notes" / "notes.txt").write_text("mine")
    before = [path.stat().st_mode for path in (home, home / "notes")]
    command, environ = demo_command("--json", "--keep", keep), {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ, cwd=home)
    assert (1, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    assert done.stderr.startswith(f"imagegate: {told.format(home=home)}")
    assert "--keep" in done.stderr
    assert "embedded_dir" not in done.stderr
    assert before == [path.stat().st_mode for path in (home, home / "notes")]
    assert ["notes.txt"] == [path.name for path in (home / "notes").iterdir()]


@pytest.mark.slow
def test_a_taken_port_is_told_in_one_line(home: Path) -> None:
    with process(demo_command("--json"), home) as started:
        port = ready_line(started)["admin_url"].rpartition(":")[2]
        command = [sys.executable, "-m", "gateway", "demo", "--port", port]
        second = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env={"HOME": str(home)}, cwd=ROOT
        )

    assert (1, "") == (second.returncode, second.stdout)
    assert re.fullmatch(rf"imagegate: cannot listen on 127.0.0.1:{port} .*--port\n", second.stderr)
