"""What `imagegate check` says of keys that work and of keys that do not, of the journal and of the storage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import certify
from tests.support.commands import fits, run
from tests.support.harness import Simulator, serving
from tests.support.pages import serving_page
from tests.support.servers import free_port
from tests.support.storing import s3_server

HEAD = """\
[redis]
url = "{redis_url}"
[[models]]
id = "image-01"
price_per_image_usd = "0.0035"
targets = [{{ upstream = "sim", model = "image-01" }}]
"""
UPSTREAM = """\
[[upstreams]]
name = "{name}"
provider = "{provider}"
base_url = "{url}"
result_hosts = ["{url}"]
[[upstreams.accounts]]
name = "main"
keys = [{keys}]
"""


def write_config(folder: Path, redis_url: str, *upstreams: tuple[str, str, str]) -> dict[str, str]:
    """A configuration of (name, URL, keys by comma), each key's secret its name; the environment that goes with it."""
    text, environ = HEAD.format(redis_url=redis_url), {"IMAGEGATE_CONFIG": str(folder / "imagegate.toml")}
    for name, url, listed in upstreams:
        names = listed.split(",")
        environ |= {f"SECRET_{key.replace('-', '_')}": key for key in names}
        keys = ", ".join(
            f'{{ name = "{key}", secret = {{ env = "SECRET_{key.replace("-", "_")}" }} }}' for key in names
        )
        provider = {"relay": "302ai", "openai": "openai"}.get(name, "minimax")
        text += UPSTREAM.format(name=name, provider=provider, url=url, keys=keys)
    (folder / "imagegate.toml").write_text(text)
    return environ


def below_path(text: str) -> str:
    """What follows the file's path, which is as long as it is."""
    return text.partition("\n")[2]


def findings(text: str) -> Mapping[str, str]:
    """What the table says of each key."""
    lines = text.partition("FINGERPRINT")[2].splitlines()[1:]
    cells = [line.split(maxsplit=4) for line in lines if " fp-" in line and "<" not in line]
    return {key: found.strip() for _, _, key, _, found in cells}


def test_keys_that_work_are_ok(tmp_path: Path, redis_url: str, simulator: Simulator) -> None:
    done = run("check", **write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1,good-2")))
    assert (0, "") == (done.returncode, done.stderr)
    assert {"good-1": "ok", "good-2": "ok"} == findings(done.stdout)
    assert "redis: reachable" in done.stdout
    assert fits(below_path(done.stdout))


@pytest.mark.parametrize(
    ("directory", "words"),
    [
        ("state/journal", "journal: writable"),
        ("", "journal: off"),
        ("imagegate.toml/journal", "warning: no journal: requests.journal_dir is not writable"),
    ],
)
def test_whether_the_journal_can_be_written_is_told(
    tmp_path: Path, redis_url: str, simulator: Simulator, directory: str, words: str
) -> None:
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    environ["IMAGEGATE_REQUESTS__JOURNAL_DIR"] = str(tmp_path / directory) if directory else "none"
    done = run("check", **environ)
    assert (0, "") == (done.returncode, done.stderr)
    assert words in done.stdout
    assert [] == list(tmp_path.glob("state/journal/*"))


def test_the_storage_is_tried_and_what_fails_is_told_with_the_remedy(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    assert "storage: off" in run("check", **environ).stdout
    folder = tmp_path / "files"
    done = run("check", **environ, IMAGEGATE_STORAGE__URL=folder.as_uri())
    assert (0, "") == (done.returncode, done.stderr)
    assert f"storage: {folder.as_uri()}, writable" in done.stdout
    assert [] == [path for path in folder.rglob("*") if path.is_file()]
    for url, words in (
        ((tmp_path / "imagegate.toml/files").as_uri(), "give the gateway's user access to the directory"),
        ((tmp_path / "imagegate.toml").as_uri(), "imagegate.toml is a file and not a directory; give"),
        ("az://none", "Account must be specified; check the container"),
    ):
        check_storage_refused(environ | {"IMAGEGATE_STORAGE__URL": url}, url, words)


def check_storage_refused(environ: dict[str, str], url: str, *words: str) -> None:
    """The error is the only line, and names the variable."""
    done = run("check", **environ)
    assert (1, True, 1) == (done.returncode, "redis: reachable" in done.stdout, done.stderr.count("\n"))
    assert done.stderr.startswith(f"imagegate: IMAGEGATE_STORAGE__URL: {url}: ")
    assert "<" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_reasons_for_a_bucket_that_cannot_be_reached_are_told_apart(
    tmp_path: Path, redis_url: str, simulator: Simulator
) -> None:
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "IMAGEGATE_STORAGE__URL": "s3://none"}
    for endpoint, words in (
        (f"http://127.0.0.1:{free_port()}", "the connection was refused (an object cannot be written); check bucket"),
        ("http://none.invalid:9000", "http://none.invalid:9000: the name of the host is not known"),
        (simulator.url.replace("http:", "https:"), "the server speaks no TLS"),
    ):
        check_storage_refused(environ | {"IMAGEGATE_STORAGE__ENDPOINT": endpoint}, "s3://none", words)
    with s3_server(tmp_path / "s3.log") as endpoint:
        environ["IMAGEGATE_STORAGE__ENDPOINT"] = endpoint
        check_storage_refused(environ, "s3://none", "s3://none: NoSuchBucket: ", "; create the bucket, or correct")


def test_without_a_home_the_journal_is_said_to_be_missing(tmp_path: Path, redis_url: str, simulator: Simulator) -> None:
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    done = run("check", **environ, HOME="", XDG_STATE_HOME="")
    assert (0, True) == (done.returncode, "there is no HOME" in done.stdout)
    done = run("check", **environ, HOME=str(tmp_path), XDG_STATE_HOME="")
    assert "journal: writable" in done.stdout
    assert (tmp_path / ".local/state/imagegate/journal").is_dir()


def test_each_key_that_fails_is_told_with_the_remedy(tmp_path: Path, redis_url: str, simulator: Simulator) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    environ = write_config(
        tmp_path, redis_url, ("sim", simulator.url, "good-1,dead-1,broke-1"), ("other", away, "main-1")
    )
    done = run("check", **environ)
    expected = {"good-1": "ok", "dead-1": "invalid key", "broke-1": "no balance", "main-1": "unreachable"}
    assert expected == findings(done.stdout)
    assert (1, "imagegate: 3 of 4 upstream keys do not work\n") == (done.returncode, done.stderr)
    for words in ("correct the secret", "top up the account", "refuses the connection"):
        assert words in done.stdout
    assert "another region" not in done.stdout
    assert fits(below_path(done.stdout))


@pytest.mark.parametrize(
    ("name", "path", "known"),
    [("sim", "", "https://api.minimaxi.com"), ("openai", "/openai/v1", "https://api.openai.com/v1")],
)
def test_a_host_that_knows_none_of_several_keys_is_said_to_be_of_the_wrong_region(
    tmp_path: Path, redis_url: str, simulator: Simulator, name: str, path: str, known: str
) -> None:
    other = [("sim", simulator.url, "good-1")] if name != "sim" else []
    environ = write_config(tmp_path, redis_url, *other, (name, simulator.url + path, "dead-1,dead-2"))
    done = run("check", **environ)
    assert 1 == done.returncode
    assert 1 == done.stdout.count("another region")
    assert known in done.stdout
    assert fits(below_path(done.stdout))


@pytest.mark.parametrize(
    ("answer", "status", "finding"),
    [
        ({}, 404, "wrong host"),
        ({"hello": "world"}, 200, "wrong host"),
        ({"base_resp": {"status_code": 2056, "status_msg": "usage limit exceeded"}}, 200, "plan used up"),
        ({"base_resp": {"status_code": 77, "status_msg": "main-1 is odd"}}, 200, "upstream error"),
    ],
)
def test_a_page_that_is_not_what_was_expected_is_told_in_plain_words(
    tmp_path: Path, redis_url: str, answer: Any, status: int, finding: str
) -> None:
    app, _ = serving_page(answer, status)
    with serving(app) as url:
        done = run("check", **write_config(tmp_path, redis_url, ("sim", url, "main-1")))
    assert (1, {"main-1": finding}) == (done.returncode, findings(done.stdout))
    assert "main-1 is odd" not in done.stdout
    assert fits(below_path(done.stdout))


def test_a_base_url_that_is_none_is_named(tmp_path: Path, redis_url: str) -> None:
    done = run("check", **write_config(tmp_path, redis_url, ("sim", "http://[::1", "main-1")))
    assert 1 == done.returncode
    assert "upstreams[0].base_url: 'http://[::1' is no address (Invalid port: ':1')" in done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://.invalid"])
def test_an_address_that_is_none_is_unreachable(tmp_path: Path, redis_url: str, url: str) -> None:
    done = run("check", **write_config(tmp_path, redis_url, ("sim", url, "main-1")))
    assert (1, {"main-1": "unreachable"}) == (done.returncode, findings(done.stdout))


def test_upstreams_are_not_asked_if_told_so(tmp_path: Path, redis_url: str) -> None:
    app, seen = serving_page({"base_resp": {"status_code": 2049}})
    with serving(app) as url:
        done = run("check", "--no-upstreams", **write_config(tmp_path, redis_url, ("sim", url, "main-1")))
    assert (0, []) == (done.returncode, seen)


def test_a_secret_that_stands_in_several_accounts_is_warned_of(tmp_path: Path, redis_url: str) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    environ = write_config(tmp_path, redis_url, ("sim", away, "one-1,both-1"), ("relay", away, "both-1"))
    done = run("check", "--no-upstreams", **environ)
    assert (0, "") == (done.returncode, done.stderr)
    assert 1 == done.stdout.count("several accounts have the same secret")
    assert "\n  sim/main/both-1, relay/main/both-1: each account is assumed" in done.stdout
    assert "one-1" not in done.stdout
    assert fits(below_path(done.stdout))


def test_what_fails_does_not_keep_the_rest_from_being_tried(tmp_path: Path, simulator: Simulator) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    environ = write_config(tmp_path, away, ("sim", simulator.url, "good-1,dead-1"))
    storage = (tmp_path / "imagegate.toml/files").as_uri()
    done = run("check", **environ, IMAGEGATE_STORAGE__URL=storage)
    assert 1 == done.returncode
    places = [line.split(": ")[1] for line in done.stderr.splitlines()]
    assert [f"{tmp_path}/imagegate.toml:2", "IMAGEGATE_STORAGE__URL", "1 of 2 upstream keys do not work"] == places
    assert {"good-1": "ok", "dead-1": "invalid key"} == findings(done.stdout)
    assert "journal: writable" in done.stdout


@pytest.mark.parametrize(
    ("days", "code", "words"),
    [
        (90, 0, "certificate: until 20"),
        (5, 0, "warning: server.tls: the certificate expires at 20"),
        (-1, 1, "IMAGEGATE_SERVER__TLS__CERTIFICATE: the certificate expired at 20"),
    ],
)
def test_the_certificate_is_read(
    tmp_path: Path, redis_url: str, simulator: Simulator, days: int, code: int, words: str
) -> None:
    files = certify(tmp_path, days=days)
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1"))
    given = {"CERTIFICATE": str(files.certificate), "KEY": str(files.key)}
    settings = {f"IMAGEGATE_SERVER__TLS__{name}": path for name, path in given.items()}
    done = run("check", "--no-upstreams", **environ, **settings)
    assert (code, True) == (done.returncode, words in done.stdout + done.stderr), done.stderr


def test_programs_get_every_result_as_json(tmp_path: Path, redis_url: str, simulator: Simulator) -> None:
    environ = write_config(tmp_path, redis_url, ("sim", simulator.url, "good-1,dead-1"))
    done = run("check", "--json", **environ)
    assert (1, "") == (done.returncode, done.stderr)
    report = json.loads(done.stdout)
    results = {found["check"]: found["result"] for found in report["checks"] if found["result"] != "warning"}
    assert not report["ok"]
    assert {
        "valid": "ok",
        "admin API": "ok",
        "upstream sim": "ok",
        "redis": "ok",
        "storage": "ok",
        "journal": "ok",
        "key sim/main/good-1": "ok",
        "key sim/main/dead-1": "failed",
    } == results
    done = run("check", "--json", "--no-upstreams", **environ)
    assert (0, True) == (done.returncode, json.loads(done.stdout)["ok"])


def test_programs_get_every_mistake_as_json(tmp_path: Path) -> None:
    environ = write_config(tmp_path, "redis://h", ("sim", "api.example.org", "main-1"))
    done = run("check", "--json", **environ, IMAGEGATE_SERVER__PROT="1")
    assert (1, "") == (done.returncode, done.stderr)
    report = json.loads(done.stdout)
    assert [("configuration", "failed")] * 2 == [(found["check"], found["result"]) for found in report["checks"]]
    places = [found["detail"].partition(": ")[0] for found in report["checks"]]
    assert [f"{tmp_path}/imagegate.toml:10", "IMAGEGATE_SERVER__PROT"] == places
