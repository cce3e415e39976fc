"""What `imagegate check` says of an unsafe configuration, and what the log says at the start."""

import resource
from pathlib import Path

import pytest

from tests.cli.test_check import write_config
from tests.support.certificates import certify
from tests.support.commands import run, taken_port
from tests.support.harness import Simulator
from tests.support.processes import log_of, started, write_configuration
from tests.support.servers import free_port

pytestmark = pytest.mark.slow

STRONG = "9f2c61d07ab8e35410c7d6b2f98e3a45"


@pytest.fixture
def environ(tmp_path: Path, redis_url: str, simulator: Simulator) -> dict[str, str]:
    made = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    (tmp_path / "imagegate.toml").chmod(0o644)
    return made | {"IMAGEGATE_SERVER__MAX_CONNECTIONS": "100"}  # which fit below any limit of open files


def warnings(environ: dict[str, str], **settings: str) -> list[str]:
    """What the check warns of; it passes."""
    changed = environ | {f"IMAGEGATE_{name}": value for name, value in settings.items()}
    done = run("check", "--no-upstreams", **changed, COLUMNS="1000")
    assert (0, "") == (done.returncode, done.stderr)
    found = [line.removeprefix("warning: ") for line in done.stdout.splitlines() if line.startswith("warning: ")]
    return [line.rstrip() for line in found if "append-only file" not in line]  # the tests' Redis has none


def test_a_safe_configuration_is_not_warned_of(environ: dict[str, str]) -> None:
    assert [] == warnings(environ)


OPEN = {
    "server.host: 0.0.0.0 without TLS": {"SERVER__HOST": "0.0.0.0"},
    "metrics.host: other machines can read /metrics": {"METRICS__HOST": "0.0.0.0"},
    "admin.host: admin keys cross the network in the clear": {"ADMIN__HOST": "::", "ADMIN__KEY__ENV": "ADMIN"},
    "metrics.port: other machines can read /metrics": {"METRICS__PORT": "0", "SERVER__HOST": "10.0.0.1"},
    "admin.port: other machines can reach the admin API": {
        "ADMIN__PORT": "0",
        "SERVER__HOST": "10.0.0.1",
        "ADMIN__KEY__ENV": "ADMIN",
    },
    "upstreams 'sim': base_url: http:// to api.minimax.io": {"UPSTREAMS__0__BASE_URL": "http://api.minimax.io"},
    "upstreams 'sim': base_url: http:// to 8.8.8.8": {"UPSTREAMS__0__BASE_URL": "http://8.8.8.8:80"},
    "server.trusted_proxies: 0.0.0.0/0: clients in it can forge": {"SERVER__TRUSTED_PROXIES": '["0.0.0.0/0"]'},
    "server.trusted_proxies: ::/0: ": {"SERVER__TRUSTED_PROXIES": '["10.0.0.1", "::/0"]'},
    "server.trusted_proxies: 0.0.0.0/0: ": {"SERVER__TRUSTED_PROXIES": '["0.0.0.0/1", "128.0.0.0/1"]'},
    "server.trusted_proxies: 128.0.0.0/2: ": {"SERVER__TRUSTED_PROXIES": '["::ffff:128.0.0.0/98"]'},
    "server.trusted_proxies: 2000::/3: ": {"SERVER__TRUSTED_PROXIES": '["2000::/3"]'},
    "server.host: 0.0.0.0 without TLS:": {"SERVER__HOST": "0.0.0.0", "SERVER__TRUSTED_PROXIES": '["0.0.0.0/0"]'},
    "server.host: 10.0.0.1 without TLS": {"SERVER__HOST": "10.0.0.1", "SERVER__TRUSTED_PROXIES": '["127.0.0.1"]'},
    "upstreams 'sim': result_hosts: *: ": {"UPSTREAMS__0__RESULT_HOSTS": '["*"]'},
    "upstreams 'sim': result_hosts: *.com: ": {"UPSTREAMS__0__RESULT_HOSTS": '["cdn.example.com", "*.com"]'},
    "upstreams 'sim': result_hosts: cdn.*: ": {"UPSTREAMS__0__RESULT_HOSTS": '["cdn.*"]'},
    "upstreams 'sim': result_hosts: *example.com: ": {"UPSTREAMS__0__RESULT_HOSTS": '["*example.com"]'},
    "upstreams 'sim': result_hosts: http:// to cdn.example.com": {
        "UPSTREAMS__0__RESULT_HOSTS": '["http://cdn.example.com"]'
    },
}


@pytest.mark.parametrize(("words", "settings"), OPEN.items(), ids=OPEN)
def test_what_is_open_is_named_with_its_place_and_remedy(
    environ: dict[str, str], words: str, settings: dict[str, str]
) -> None:
    found = warnings(environ | {"ADMIN": STRONG}, **settings)
    (told,) = [line for line in found if line.startswith(words)]
    assert "; " in told, "a remedy"


@pytest.mark.parametrize(
    "settings",
    [
        {"SERVER__HOST": "0.0.0.0", "SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]'},
        {
            "SERVER__HOST": "0.0.0.0",
            "SERVER__TRUSTED_PROXIES": '["10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "104.16.0.0/13", "2400:cb00::/32"]',
        },
        {"ADMIN__HOST": "0.0.0.0"},
        {"UPSTREAMS__0__RESULT_HOSTS": '["*.cdn.example.com", "pictures*.aliyuncs.com"]'},
        {"SERVER__HOST": "localhost", "METRICS__PORT": "0", "ADMIN__PORT": "0"},
        {"UPSTREAMS__0__BASE_URL": "http://simulator:9000"},
        {"UPSTREAMS__0__BASE_URL": "http://10.1.2.3:9000"},
        {"UPSTREAMS__0__BASE_URL": "http://relay.images.svc:9000"},
    ],
    ids=str,
)
def test_what_is_closed_is_not_warned_of(environ: dict[str, str], settings: dict[str, str]) -> None:
    """A proxy that ends TLS, an admin API without any key, this machine, private networks."""
    hosts = {"UPSTREAMS__0__RESULT_HOSTS": '["http://simulator:9000"]'} if "UPSTREAMS__0__BASE_URL" in settings else {}
    assert [] == [line for line in warnings(environ, **settings, **hosts) if not line.startswith("upstream sim")]


@pytest.mark.parametrize(
    ("mode", "words"), [(0o666, "other users may"), (0o644, "other users may read"), (0o620, "other users may write")]
)
def test_a_secret_that_others_can_read_or_write_is_named(
    environ: dict[str, str], tmp_path: Path, mode: int, words: str
) -> None:
    secret = tmp_path / "admin-key"
    secret.write_text(STRONG)
    secret.chmod(mode)
    (told,) = warnings(environ, ADMIN__KEY__FILE=str(secret))
    assert told.startswith(f"admin.key: {words}")
    assert f"(mode {mode:04o}); chmod 0640 {secret}" in told
    assert STRONG not in told
    secret.chmod(0o640)
    assert [] == warnings(environ, ADMIN__KEY__FILE=str(secret))


@pytest.mark.parametrize(("mode", "words"), [(0o755, "read"), (0o711, "read"), (0o770, "write")])
def test_a_storage_directory_that_others_can_read_or_write_is_named(
    environ: dict[str, str], tmp_path: Path, mode: int, words: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    folder.chmod(mode)
    (told,) = warnings(environ, STORAGE__URL=folder.as_uri())
    assert f"storage.url: other users may {words} {folder} (mode {mode:04o}); chmod 0750 {folder}" == told
    folder.chmod(0o750)
    assert [] == warnings(environ, STORAGE__URL=folder.as_uri())


def test_a_configuration_that_others_can_write_is_named(environ: dict[str, str]) -> None:
    path = Path(environ["IMAGEGATE_CONFIG"])
    path.chmod(0o666)
    assert [f"the configuration: other users may write {path} (mode 0666); chmod 0644 {path}"] == warnings(environ)


def test_a_directory_in_which_others_can_replace_a_file_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    secret = folder / "key"
    secret.write_text(STRONG)
    secret.chmod(0o600)
    folder.chmod(0o777)
    (told,) = warnings(environ, ADMIN__KEY__FILE=str(secret))
    assert told == f"admin.key: other users may replace {secret}, as they may write {folder}; chmod o-w {folder}"
    folder.chmod(0o1777)
    assert [] == warnings(environ, ADMIN__KEY__FILE=str(secret))


def test_a_directory_further_up_is_named_also_behind_a_link(environ: dict[str, str], tmp_path: Path) -> None:
    """Who can replace a directory can replace what is in it."""
    folder = tmp_path / "open" / "mine"
    folder.mkdir(parents=True)
    secret, link = folder / "key", tmp_path / "link"
    secret.write_text(STRONG)
    secret.chmod(0o600)
    link.symlink_to(secret)
    folder.parent.chmod(0o777)
    for file in (secret, link):
        (told,) = warnings(environ, ADMIN__KEY__FILE=str(file))
        assert told.startswith(f"admin.key: other users may replace {file}, as they may write {folder.parent}; ")
    folder.parent.chmod(0o755)
    assert [] == warnings(environ, ADMIN__KEY__FILE=str(link))


def test_a_password_in_the_configuration_is_named_and_not_shown(environ: dict[str, str]) -> None:
    path = Path(environ["IMAGEGATE_CONFIG"])
    address = next(line for line in path.read_text().splitlines() if line.startswith("url = ")).split('"')[1]
    path.write_text(path.read_text().replace(address, "redis://gate:hunter22@127.0.0.1:1/0"))
    (told,) = warnings(environ, REDIS__URL=address)
    assert "redis.url: the configuration holds a password; set redis.password from env or file" == told


@pytest.mark.parametrize("setting", ["UPSTREAMS__0__BASE_URL", "TRACING__OTLP_ENDPOINT"])
def test_a_url_with_a_password_stops_the_start(environ: dict[str, str], setting: str) -> None:
    done = run("check", **environ | {f"IMAGEGATE_{setting}": "https://gate:hunter22@api.example.com"})
    assert 1 == done.returncode
    assert "without query, user or password (secrets come from env or file)" in done.stderr
    assert "hunter22" not in done.stderr


def test_a_tls_key_that_others_can_read_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    files = certify(tmp_path)
    files.key.chmod(0o644)
    given = {"SERVER__TLS__CERTIFICATE": str(files.certificate), "SERVER__TLS__KEY": str(files.key)}
    assert [line for line in warnings(environ, **given) if line.startswith("server.tls.key: other users may read")]


WEAK = {
    "a" * 16: "admin.key: an admin key has at least 6 different characters",
    "abab" * 8: "admin.key: an admin key has at least 6 different characters",
    "0123456789": "admin.key: an admin key has at least 16 characters",
    "password12345678": "an admin key has at least 8 characters besides common words, repetitions and sequences",
    "qwertyuiopasdfgh": "besides common words",
    "P@ssw0rd2024!Admin": "besides common words",
    "hunter2hunter2hunter2": "besides common words",
    "1qaz2wsx3edc4rfv": "besides common words",
    "zyxwvutsrqponmlk": "besides common words",
    "0123456789abcdef0123456789abcdef": "besides common words",
    "imagegate-admin-key": "besides common words",
    "replace-with-at-least-16-characters": "it is the placeholder of an example; give the real one",
}


@pytest.mark.parametrize("secret", WEAK)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_weak_admin_key_stops_the_start(environ: dict[str, str], command: str, secret: str) -> None:
    done = run(command, **environ, IMAGEGATE_ADMIN__KEY__ENV="ADMIN", ADMIN=secret)
    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert WEAK[secret] in done.stderr
    assert ("openssl rand -hex 16" in done.stderr) is ("placeholder" not in done.stderr)
    assert secret not in done.stderr


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("API_KEYS__HASH_PEPPER", "api_keys.hash_pepper: a pepper"),
        ("POOL__ENCRYPTION_KEYS", "pool.encryption_keys[0]: an encryption key"),
    ],
)
@pytest.mark.parametrize("secret", ["short", "a" * 40])
def test_a_weak_key_of_hashes_or_of_encryption_stops_the_start(
    environ: dict[str, str], setting: str, where: str, secret: str
) -> None:
    given = '[{env="WEAK"}]' if setting.startswith("POOL") else '{env="WEAK"}'
    name = f"IMAGEGATE_{setting}" if setting.startswith("POOL") else f"IMAGEGATE_{setting}__ENV"
    done = run("check", **environ, **{name: given if setting.startswith("POOL") else "WEAK"}, WEAK=secret)
    assert 1 == done.returncode
    assert f"{where} has at least" in done.stderr


def test_the_log_warns_of_operators_ports_that_other_machines_can_reach(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    """And not of those of this machine."""
    configuration = write_configuration(tmp_path, redis_url, simulator.url, 5, "[server]\nshutdown_delay_s = 0\n")
    with started(configuration, METRICS__HOST="0.0.0.0", METRICS__PORT=str(free_port())):
        told = [line["where"] for line in log_of(configuration) if line["event"] == "operator_port_exposed"]
        listening = next(line for line in log_of(configuration) if line["event"] == "listening")
    assert ["metrics.host"] == told
    assert str(listening["metrics_url"]).startswith("http://127.0.0.1:")


def test_a_port_of_operators_that_is_taken_is_named_with_the_remedy(environ: dict[str, str]) -> None:
    """Two gateways with the defaults on one machine."""
    with taken_port() as port:
        done = run("serve", "--port", "0", **environ, IMAGEGATE_ADMIN__PORT=str(port), IMAGEGATE_METRICS__PORT="0")
    assert 1 == done.returncode
    hint = "choose another with `port` in [admin] or IMAGEGATE_ADMIN__PORT; 0 shares the gateway's own port"
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); {hint}" in done.stderr


def test_more_connections_than_open_files_allow_are_named(environ: dict[str, str]) -> None:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    (told,) = warnings(environ, SERVER__MAX_CONNECTIONS=str(files))
    assert told.startswith(f"server.max_connections: {files} do not fit below the {files} open files allowed here; ")
    assert "LimitNOFILE" in told
    assert [] == warnings(environ, SERVER__MAX_CONNECTIONS=str(files // 2))
