"""The configuration while the gateway runs: when it is read again, what is refused, and that nobody notices."""

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.app.reload import ReloadTargets
from gateway.config import load
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.server.file_watcher import FileWatcher
from gateway.server.reload import ConfigReloader
from tests.support.harness import Simulator, new_key, simulating, wait_until
from tests.support.processes import start_gateway, write_configuration

ENVIRON = {"KEY": "main-1", "ADMIN_KEY": "an-admin-key-of-tests"}
WORKERS = [(), ("--workers", "2")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_configuration(tmp_path, "redis://127.0.0.1:1", "http://127.0.0.1:2")


def rewrite(path: Path, old: str, new: str) -> None:
    """As `mv` does: there is never half a file."""
    text = path.read_text()
    assert old in text
    written = path.with_suffix(".new")
    written.write_text(text.replace(old, new))
    written.replace(path)


def looks(watcher: FileWatcher, count: int) -> list[bool]:
    return [watcher.has_changed() for _ in range(count)]


def test_a_file_is_read_when_it_has_changed_and_been_quiet_for_two_looks(file: Path) -> None:
    watch = FileWatcher(str(file))
    assert [False] * 5 == looks(watch, 5)
    rewrite(file, "image-01", "image-02")
    assert [False, False, True] == looks(watch, 3)
    watch.mark_read()
    assert [False] * 5 == looks(watch, 5)


def test_a_file_that_is_being_written_is_left_alone(file: Path) -> None:
    watch = FileWatcher(str(file))
    with file.open("a") as written:
        for _ in range(5):
            written.write("# more\n")
            written.flush()
            assert [False, False] == looks(watch, 2)
    assert [True] == looks(watch, 1)


@pytest.mark.parametrize("change", ["content", "time", "away"])
def test_every_change_of_a_file_is_noticed(file: Path, change: str) -> None:
    watch = FileWatcher(str(file))
    match change:
        case "content":
            found = file.stat()
            file.write_text(file.read_text() + " ")
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        case "time":
            os.utime(file, ns=(1, 1))
        case _:
            file.unlink()
    assert [False, False, True] == looks(watch, 3)


def test_a_config_map_is_noticed_behind_its_links(tmp_path: Path) -> None:
    """Kubernetes swaps the link `..data` that the file's own link leads through; both files may be of one age."""
    for name, text in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "imagegate.toml").write_text(text)
        os.utime(tmp_path / name / "imagegate.toml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "imagegate.toml").symlink_to("..data/imagegate.toml")
    watch = FileWatcher(str(tmp_path / "imagegate.toml"))
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert [False, False, True] == looks(watch, 3)


def reload_of(file: Path, *, watches: bool = True, **environ: str) -> ConfigReloader:
    secrets = ENVIRON | environ
    return ConfigReloader(str(file), secrets, load(str(file), secrets), FileWatcher(str(file)) if watches else None)


def found_in(reload: ConfigReloader, count: int = 3) -> list[Config]:
    """What so many looks give."""
    return [found for _ in range(count) if (found := reload.poll())]


def test_a_change_is_read_once_and_so_is_an_asking(file: Path) -> None:
    reload = reload_of(file)
    assert [] == found_in(reload)
    rewrite(file, '"image-01"', '"image-02"')
    assert ["image-02"] == [found.catalog.default.id for found in found_in(reload, 6)]
    reload.request_reload(signal.SIGHUP, None)
    assert ["image-02"] == [found.catalog.default.id for found in found_in(reload, 6)]


def test_an_asking_does_not_wait_for_the_file_to_be_quiet_and_then_the_change_is_known(file: Path) -> None:
    reload = reload_of(file)
    rewrite(file, '"image-01"', '"image-02"')
    reload.request_reload()
    assert reload.poll()
    assert [] == found_in(reload, 6)


def test_a_worker_reads_only_when_it_is_told(file: Path) -> None:
    reload = reload_of(file, watches=False)
    rewrite(file, '"image-01"', '"image-02"')
    assert [] == found_in(reload, 6)
    reload.request_reload()
    with capture_logs() as logged:
        for found in found_in(reload):
            reload.publish(found)
    assert [] == logged, "its supervisor tells it once for all"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[[models]]", "[[models]", ("invalid TOML", "']]'")),
        ('upstream = "sim"', 'upstream = "nope"', ("models[0].targets[0].upstream", "'nope'", "expected one of sim")),
        ('name = "main"', 'name = "main"\nweight = 0', ("weight", "1")),
        ('env = "KEY"', 'env = "NOWHERE"', ("upstreams[0].accounts[0].keys[0].secret", "NOWHERE is not set")),
        ('env = "KEY"', 'file = "/nowhere"', ("upstreams[0].accounts[0].keys[0].secret", "/nowhere is missing")),
        (
            "[[models]]",
            '[[tenants]]\nname = "a"\nmodels = ["nope"]\n[[models]]',
            ("tenants[0].models[0]", "'nope'", "dall-e-3"),
        ),
    ],
)
def test_a_wrong_file_is_refused_whole_and_told_once(file: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    reload = reload_of(file)
    rewrite(file, old, new)
    with capture_logs() as logged:
        assert [] == found_in(reload, 8)
    [refused] = logged
    assert ("config_reload_rejected", "error") == (refused["event"], refused["log_level"])
    assert [] == [word for word in (str(file), *words) if word not in refused["detail"]], refused["detail"]
    assert "SIGHUP" in refused["hint"]


def test_a_file_that_is_gone_is_told_once_and_read_when_it_is_back(file: Path) -> None:
    reload, text = reload_of(file), file.read_text()
    file.unlink()
    with capture_logs() as logged:
        assert [] == found_in(reload, 8)
    assert ["config_reload_rejected"] == [line["event"] for line in logged]
    file.write_text(text)
    assert 1 == len(found_in(reload, 8))


def test_the_log_counts_what_is_in_force_and_names_what_is_not(file: Path) -> None:
    reload = reload_of(file, OTHER="main-1")
    key = '{ env = "KEY" }\n[[upstreams.accounts]]\nname = "twin"\nkeys = [{ name = "t", secret = { env = "OTHER" } }]'
    rewrite(file, '{ env = "KEY" }', key)
    rewrite(file, "[redis]", "[logs]\nlevel = 'debug'\n[redis]")
    [found] = found_in(reload)
    with capture_logs() as logged:
        reload.publish(found)
    shared, restart, reloaded = logged
    assert ("provider_key_in_several_accounts", ["sim/main/main-1", "sim/twin/t"]) == (shared["event"], shared["keys"])
    assert "main-1" not in shared["fingerprint"]
    assert ("settings_require_restart", ["logs"]) == (restart["event"], restart["settings"])
    counts = {"upstreams": 1, "accounts": 2, "keys": 2, "models": 1, "tenants": 0}
    assert {"event": "config_reloaded", "log_level": "info", **counts} == reloaded


def test_a_new_worker_begins_with_what_the_others_have_taken_over_and_no_more(file: Path) -> None:
    reload = reload_of(file)
    rewrite(file, '"image-01"', '"image-02"')
    rewrite(file, "[redis]", "[logs]\nlevel = 'debug'\n[redis]")
    [found] = found_in(reload)
    begun = reload.current(found)
    assert ("image-02", "info") == (begun.models[0].id, begun.logs.level)


@pytest.mark.anyio
async def test_what_redis_was_away_for_is_taken_over_later_and_told_once(file: Path) -> None:
    reload, refusals, catalog, is_done = reload_of(file), iter(range(2)), Catalog([]), asyncio.Event()

    async def declare_accounts(_: object) -> None:
        for _refusal in refusals:
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, "no answer")

    async def declare_tenants(_: object) -> None:
        is_done.set()

    async def note(_: str) -> None:
        raise AssertionError("nothing was refused")

    reload.request_reload()
    with capture_logs() as logged:
        keeping = asyncio.create_task(
            reload.run(ReloadTargets(catalog, declare_accounts, lambda _: None, declare_tenants, note, lambda _: None))
        )
        async with asyncio.timeout(20):
            await is_done.wait()
        keeping.cancel()
    assert "image-01" == catalog.default.id
    assert ["config_reload_pending"] == [line["event"] for line in logged if line["log_level"] != "info"]


@contextmanager
def running(configuration: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    process, url = start_gateway(configuration, *options)
    try:
        yield process, url
    finally:
        process.terminate()
        assert 0 == process.wait(30)


def told(configuration: Path, event: str) -> list[dict[str, Any]]:
    """What the gateway of a configuration has logged of a kind."""
    text = "".join(log.read_text() for log in configuration.parent.glob("*.log"))
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def names_everywhere(url: str, key: str) -> set[frozenset[str]]:
    """The models that are offered, asked so often that every process answers."""
    headers = {"authorization": f"Bearer {key}"}
    answers = (httpx.get(f"{url}/v1/models", headers=headers, verify=False).json() for _ in range(24))
    return {frozenset(model["id"] for model in answer["data"]) for answer in answers}


def wait_until_offered(name: str, url: str, key: str) -> None:
    wait_until(lambda: all(name in seen for seen in names_everywhere(url, key)), f"every process offers {name}")


def wait_until_told(configuration: Path, event: str, count: int) -> None:
    wait_until(lambda: len(told(configuration, event)) >= count, f"{event} is logged")


@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.slow
def test_an_edited_file_is_in_force_in_every_process_by_itself(
    tmp_path: Path, redis_url: str, simulator: Simulator, options: tuple[str, ...]
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    with running(configuration, *options) as (_, url):
        key = new_key(url)
        assert {frozenset({"image-01", "dall-e-3"})} == names_everywhere(url, key)
        for name in ("first", "second"):
            rewrite(configuration, "aliases = [", f'aliases = ["{name}", ')
            wait_until_offered(name, url, key)
        assert 2 == len(told(configuration, "config_reloaded"))
        rewrite(configuration, "aliases = [", "aliases = [7, ")
        wait_until_told(configuration, "config_reload_rejected", 1)
        time.sleep(2)
        assert 1 == len(told(configuration, "config_reload_rejected")), "told by one process, and once"
        assert {frozenset({"image-01", "dall-e-3", "first", "second"})} == names_everywhere(url, key)


@pytest.mark.slow
@pytest.mark.parametrize("options", WORKERS)
def test_no_request_notices(tmp_path: Path, redis_url: str, options: tuple[str, ...]) -> None:
    """Requests that take longer than a reload, while their upstream goes and another comes in its place."""
    with simulating(latency_s=0.7) as simulator:
        configuration = write_configuration(tmp_path, redis_url, simulator.url)
        with running(configuration, *options) as (process, url), asking(url, new_key(url)) as statuses:
            for number, (before, after) in enumerate(pairwise(["sim", "second", "third", "sim"])):
                rewrite(configuration, f'"{before}"', f'"{after}"')
                process.send_signal(signal.SIGHUP)
                wait_until_told(configuration, "config_reloaded", number + 1)
                wait_until_more(statuses)
    assert {200} == set(statuses)


@contextmanager
def asking(url: str, key: str) -> Iterator[list[int]]:
    """Three clients that ask without a pause; yields the statuses of the answers, as they come."""
    statuses: list[int] = []
    is_over = threading.Event()
    headers = {"authorization": f"Bearer {key}"}

    def ask() -> None:
        while not is_over.is_set():
            sent = {"prompt": "a fox"}
            made = httpx.post(f"{url}/v1/images/generations", json=sent, headers=headers, timeout=30, verify=False)
            statuses.append(made.status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def wait_until_more(statuses: list[int]) -> None:
    """Until what was sent before is answered, and something that was sent since."""
    before = len(statuses)
    wait_until(lambda: len(statuses) > before + 6, "requests are answered")


def workers_of(process: subprocess.Popen[bytes]) -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_a_worker_that_dies_while_the_file_is_wrong_is_replaced_by_one_that_knows_the_old(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    with running(configuration, "--workers", "2") as (process, url):
        key, before = new_key(url), workers_of(process)
        rewrite(configuration, "aliases = [", 'aliases = ["first", ')
        wait_until_offered("first", url, key)
        assert before == workers_of(process), "in place: nobody was replaced"
        rewrite(configuration, "aliases = [", "aliases = [7, ")
        wait_until_told(configuration, "config_reload_rejected", 1)
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(workers_of(process) - {min(before)}) == 2, "another takes its place")
        rewrite(configuration, "aliases = [7, ", 'aliases = ["second", ')
        wait_until_offered("second", url, key)
