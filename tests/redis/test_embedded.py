import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.redis.embedded import EmbeddedError, EmbeddedRedis, default_directory
from tests.support.harness import wait_until

pytestmark = pytest.mark.slow

OWNER = """
import sys
from pathlib import Path
from gateway.redis.embedded import EmbeddedRedis
embedded = EmbeddedRedis(Path(sys.argv[1]))
embedded.start()
print("ready", flush=True)
sys.stdin.read()
embedded.stop()
"""


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket, and not made yet."""
    return tmp_path_factory.mktemp("e") / "data"


@contextmanager
def owner(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another gateway's process that has started, or found, the server of the directory; ends when its input does."""
    command = [sys.executable, "-c", OWNER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


@contextmanager
def embedded(directory: Path) -> Iterator[EmbeddedRedis]:
    made = EmbeddedRedis(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def server_pid(directory: Path) -> int | None:
    """The process behind the socket, None where nobody answers."""
    try:
        with Redis(unix_socket_path=str(directory / "redis.sock"), socket_timeout=2) as client:
            return int(client.info("server")["process_id"])
    except RedisError:
        return None


def is_locked(directory: Path) -> bool:
    with (directory / "redis.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_it_starts_answers_and_stops(directory: Path) -> None:
    with embedded(directory) as redis:
        assert f"unix://{directory}/redis.sock" == redis.url
        with Redis.from_url(redis.url) as client:
            assert client.ping()
            assert {"appendonly": "yes"} == client.config_get("appendonly")
            assert {"maxmemory-policy": "noeviction"} == client.config_get("maxmemory-policy")
            assert {"port": "0"} == client.config_get("port")
    assert None is server_pid(directory)
    assert not is_locked(directory)


def test_data_outlives_the_server(directory: Path) -> None:
    for expected in (None, b"kept"):
        with embedded(directory) as redis, Redis.from_url(redis.url) as client:
            assert expected == client.get("name")
            client.set("name", "kept")


def test_nobody_else_may_look_into_the_data(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with embedded(directory):
        assert 0o700 == stat.S_IMODE(directory.stat().st_mode)
        assert 0o700 == stat.S_IMODE((directory / "redis.sock").stat().st_mode)


def test_two_processes_share_one_server(directory: Path) -> None:
    with owner(directory), embedded(directory) as guest:
        before = server_pid(directory)
        guest.own()
        assert before is not None
        assert before == server_pid(directory)
        assert is_locked(directory)


def test_a_gateway_that_stops_leaves_the_server_to_another(directory: Path) -> None:
    with owner(directory):
        before = server_pid(directory)
        with embedded(directory):
            pass
        assert before == server_pid(directory) is not None


def test_two_that_start_at_once_share_one_server(directory: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(directory)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in started:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        assert None is not server_pid(directory)
        log = (directory / "redis.log").read_text()
        assert 1 == log.count("Ready to accept connections")
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_in_order_with_the_last_gateway_that_is_killed(directory: Path, how: int) -> None:
    with owner(directory) as process, owner(directory) as guest:
        pid = server_pid(directory)
        os.kill(process.pid, how)
        process.wait()
        os.kill(guest.pid, how)
        wait_until(lambda: server_pid(directory) is None, "the server ends")
        wait_until(lambda: not is_locked(directory), "the lock is free")
    assert pid is not None
    assert "bye bye" in (directory / "redis.log").read_text()


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_the_server_outlives_the_gateway_that_started_it(directory: Path, how: str) -> None:
    """Calls of another gateway go on meanwhile."""
    with owner(directory) as process, embedded(directory) as guest, Redis.from_url(guest.url) as client:
        before, calls = server_pid(directory), client.incr("calls")
        end(process, how)
        for _ in range(50):
            calls += 1
            assert calls == client.incr("calls")
            assert not guest.own()
            time.sleep(0.01)
        assert before == server_pid(directory) is not None
    assert None is server_pid(directory)
    assert "bye bye" in (directory / "redis.log").read_text()


def end(process: subprocess.Popen[str], how: str) -> None:
    if how == "it ends":
        assert process.stdin is not None
        process.stdin.close()
        assert 0 == process.wait(20)
    else:
        process.kill()
        process.wait()


def test_gateways_that_come_and_go_in_turn_share_one_server(directory: Path) -> None:
    """A rolling restart: each one starts before its predecessor ends."""
    with ExitStack() as stack:
        last = stack.enter_context(owner(directory))
        pid = server_pid(directory)
        for _ in range(3):
            successor = stack.enter_context(owner(directory))
            end(last, "it ends")
            last = successor
            assert pid == server_pid(directory) is not None


def test_a_gateway_that_starts_while_the_server_ends_gets_a_new_one(directory: Path) -> None:
    for number in range(5):
        with owner(directory) as process, embedded(directory) as guest, Redis.from_url(guest.url) as client:
            assert number + 1 == client.incr("starts")
            assert process.stdin is not None
            process.stdin.close()  # and the guest ends at the same time


def test_a_server_that_does_not_end_is_killed(directory: Path) -> None:
    """Here it is stopped. The gateway waits for its end."""
    with embedded(directory):
        pid = server_pid(directory)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not is_locked(directory)
    assert "bye bye" not in (directory / "redis.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to its parent's")
def test_a_keeper_that_is_killed_takes_the_server_along_and_both_come_back(directory: Path) -> None:
    with embedded(directory) as redis, Redis.from_url(redis.url) as client:
        pid = server_pid(directory)
        client.set("name", "kept")
        os.kill(parent_of(pid), signal.SIGKILL)
        wait_until(lambda: redis.own() or server_pid(directory) not in {None, pid}, "another keeper starts")
        wait_until(lambda: server_pid(directory) not in {None, pid}, "another server answers")
        assert b"kept" == client.get("name")


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_new_start_works_after_everything_was_killed(directory: Path) -> None:
    with owner(directory) as process:
        pid = server_pid(directory)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with embedded(directory):
        assert server_pid(directory) not in {None, pid}


def test_a_server_that_died_is_started_again_by_its_owner(directory: Path) -> None:
    with embedded(directory) as redis:
        pid = server_pid(directory)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            redis.own()
            return server_pid(directory) not in {None, pid}

        wait_until(is_back, "the server is back")


def test_a_keyboard_interrupt_is_not_for_the_server(directory: Path) -> None:
    """Ctrl-C goes to the whole group of the terminal: the gateway stops the server last, itself."""
    with embedded(directory):
        pid = server_pid(directory)
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0)


def test_stop_is_safe_twice_and_before_start(directory: Path) -> None:
    redis = EmbeddedRedis(directory)
    redis.stop()
    redis.start()
    redis.stop()
    redis.stop()
    assert None is server_pid(directory)


def test_a_path_too_long_for_a_socket_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"too long.*redis\.embedded_dir"):
        EmbeddedRedis(tmp_path / ("x" * 100)).start()


def test_a_directory_that_cannot_be_used_names_the_setting(directory: Path) -> None:
    directory.write_text("a file")
    with pytest.raises(EmbeddedError, match=r"cannot be used.*redis\.embedded_dir"):
        EmbeddedRedis(directory).start()


FOREIGN = {
    "other files": ["notes.txt", ".profile"],
    "another server's files": ["appendonlydir/appendonly.aof.manifest", "dump.rdb"],
}


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("option", ["redis.embedded_dir", "--keep"])
def test_a_directory_with_files_of_others_is_left_as_it_is(directory: Path, kind: str, option: str) -> None:
    for name in FOREIGN[kind]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch(mode=0o644)
    directory.chmod(0o755)
    before = modes_of(directory)
    with pytest.raises(EmbeddedError) as refused:
        EmbeddedRedis(directory, option).start()
    assert f"the directory {directory} has other files; choose a new or empty one with {option}" == str(refused.value)
    assert before == modes_of(directory)


def modes_of(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mode for path in (directory, *directory.rglob("*"))}


def test_a_directory_that_users_share_is_left_as_it_is(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o1777)
    with pytest.raises(EmbeddedError, match=r"is shared by users; .*redis\.embedded_dir"):
        EmbeddedRedis(directory).start()
    assert 0o1777 == stat.S_IMODE(directory.stat().st_mode)


def test_a_directory_of_another_user_is_left_as_it_is(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(mode=0o755)
    before = modes_of(directory)
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(EmbeddedError, match=r"belongs to another user; .*redis\.embedded_dir"):
        EmbeddedRedis(directory).start()
    assert before == modes_of(directory)


@pytest.mark.parametrize("name", ["journal", "lost+found", "appendonlydir", "redis.log"])
def test_what_the_gateway_or_a_file_system_has_made_is_no_obstacle(directory: Path, name: str) -> None:
    (directory / name).mkdir(parents=True)
    (directory / name).chmod(0o755)  # whatever the umask
    EmbeddedRedis(directory).prepare()
    assert 0o700 == stat.S_IMODE(directory.stat().st_mode)
    assert (0o755 if name == "lost+found" else 0o700) == stat.S_IMODE((directory / name).stat().st_mode)


def test_a_directory_in_use_may_have_other_files_which_stay_as_they_are(directory: Path) -> None:
    EmbeddedRedis(directory).prepare()
    for name in ("redis.users", "notes.txt"):
        (directory / name).touch()
        (directory / name).chmod(0o644)
    EmbeddedRedis(directory).prepare()
    assert [0o600, 0o644] == [stat.S_IMODE((directory / name).stat().st_mode) for name in ("redis.users", "notes.txt")]


def test_a_damaged_file_says_where_to_look(directory: Path) -> None:
    (directory / "appendonlydir").mkdir(parents=True)
    (directory / "appendonlydir" / "appendonly.aof.manifest").write_text("junk")
    redis = EmbeddedRedis(directory)
    try:
        with pytest.raises(EmbeddedError, match=r"redis\.log"):
            redis.start()
    finally:
        redis.stop()


@pytest.mark.parametrize(
    ("home", "data_home", "expected"),
    [
        ("/home/ann", None, "/home/ann/.local/share/imagegate"),
        ("/home/ann", "", "/home/ann/.local/share/imagegate"),
        ("/home/ann", "/data", "/data/imagegate"),
        (None, "/data", "/data/imagegate"),
        ("/home/ann", "relative", "/home/ann/.local/share/imagegate"),
    ],
)
def test_the_default_directory_is_the_user_s_data_directory(
    home: str | None, data_home: str | None, expected: str
) -> None:
    """A relative one is to be ignored, says the XDG specification."""
    assert Path(expected) == default_directory(home, data_home)


def test_no_other_user_has_rights_on_its_files(directory: Path) -> None:
    """Whatever the umask, and also on files of a server that had another one."""
    directory.mkdir()
    old = directory / "redis.log"
    old.touch()
    old.chmod(0o644)
    before = os.umask(0o022)
    try:
        with owner(directory), Redis(unix_socket_path=str(directory / "redis.sock")) as client:
            client.set("x", 1)
            modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (directory, *directory.rglob("*"))}
    finally:
        os.umask(before)
    assert {"appendonlydir", "redis.log"} <= {path.name for path in modes}
    assert {} == {path: oct(mode) for path, mode in modes.items() if mode & 0o077}
