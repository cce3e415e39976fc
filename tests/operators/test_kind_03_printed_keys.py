"""A key is never printed by a command that fails."""

from pathlib import Path

import pytest

from tests.support.commands import CONFIG, run
from tests.support.operators import Shows
from tests.support.servers import free_port

CANARY = "9f8canary7e6d5c4b"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"{CANARY}\n", "does not respond"),
        (f"{CANARY}\n\n ", "does not respond"),
        (f"{CANARY}\n{CANARY}", "no HTTP header can carry"),
        (f"{CANARY}ä", "no HTTP header can carry"),
        (f"{CANARY}\x07", "no HTTP header can carry"),
        (f"{CANARY}\u200b", "an invisible character"),
        (f"Bearer {CANARY}", "give the key alone"),
        (f'"{CANARY}"', "remove the quotes"),
        (f"IMAGEGATE_ADMIN_KEY={CANARY}", "begins with NAME="),
        (" ", "no admin key"),
        ("", "no admin key"),
    ],
)
def test_an_admin_key_that_cannot_be_sent(key: str, words: str, shows: Shows) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run("tenant", "list", "--url", url, IMAGEGATE_ADMIN_KEY=key)
    shows(3, f"IMAGEGATE_ADMIN_KEY={key!r} imagegate tenant list", done.stderr.replace(url, "http://HOST").strip())
    assert (1, "") == (done.returncode, done.stdout)
    assert words in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://admin:canary@127.0.0.1:1", "does not respond"),
        ("http://admin:can/canary@127.0.0.1:1", "is no URL"),
        ("http://127.0.0.1:canary", "is no URL"),
        ("canary", "check --url"),
    ],
)
def test_a_password_in_the_url_of_a_command(url: str, words: str, shows: Shows) -> None:
    done = run("tenant", "list", "--url", url, "--admin-key", "0f1e2d3c4b5a69788796")
    shows(3, f"imagegate tenant list --url {url}", done.stderr.strip())
    assert (1, "") == (done.returncode, done.stdout)
    assert words in done.stderr
    assert "canary@" not in done.stderr


def test_a_secret_in_the_place_of_a_variable_of_pool_add(shows: Shows) -> None:
    options = (("--secret-env", "sk-canary"), ("--secret-file", "sk-canary"))
    for option, value in options:
        done = run("pool", "add", "sim/main/one", option, value, IMAGEGATE_ADMIN_KEY="0f1e2d3c4b5a69788796")
        shows(3, f"imagegate pool add sim/main/one {option} {value}", done.stderr.strip())
        assert (1, True) == (done.returncode, f"of {option} is" in done.stderr)
        assert "canary" not in done.stderr


def test_a_pasted_key_for_pool_add(shows: Shows) -> None:
    done = run("pool", "add", "sim/main/one", stdin="Bearer sk-canary\n", IMAGEGATE_ADMIN_KEY="0f1e2d3c4b5a69788796")
    shows(3, "echo 'Bearer sk-canary' | imagegate pool add sim/main/one", done.stderr.strip())
    assert "imagegate: the secret cannot be used: it begins with the name of a header" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{ env = "UPSTREAM_SECRET" }', '"sk-canary"'),
        ('{ env = "UPSTREAM_SECRET" }', "sk-canary"),
        ('{ env = "UPSTREAM_SECRET" }', '{ env = "sk-canary-1" }'),
        ('{ env = "UPSTREAM_SECRET" }', '{ env = "canary" }'),
        ('{ env = "UPSTREAM_SECRET" }', '{ file = "canary" }'),
        ('{ env = "UPSTREAM_SECRET" }', '{ sk-canary = "" }'),
        ('{ env = "UPSTREAM_SECRET" }', '{ value = "sk-canary" }'),
        ('{ env = "UPSTREAM_SECRET" }', '["sk-canary"]'),
        ('{ env = "ADMIN_KEY" }', '"canary0123456789abc"'),
        ('"redis://h"', '"redis://:canary@h:nan"'),
        ('"redis://h"', '"rdis://:canary@h"'),
        ('"redis://h"', '"redis://h?password=canary"'),
        ('"http://127.0.0.1:1"', '"http://user:canary@127.0.0.1:1"'),
        ("[metrics]", 'sk-canary12345 = "x"\n[metrics]'),
        ("[metrics]", 'canary = "sk-canary\n[metrics]'),
    ],
)
def test_a_secret_in_the_wrong_place_of_a_file(tmp_path: Path, old: str, new: str, shows: Shows) -> None:
    path = tmp_path / "imagegate.toml"
    path.write_text(CONFIG.format(redis_url="redis://h").replace(old, new, 1))
    done = run("check", "--config", str(path))
    shows(3, new.partition("\n")[0], done.stderr.replace(str(path), "imagegate.toml").strip())
    assert (1, "") == (done.returncode, done.stdout)
    assert "canary" not in done.stderr.replace(str(path), "").replace("unknown setting `canary`", "")


@pytest.mark.parametrize(
    "variable",
    ["REDIS__URL", "REDIS__PASSWORD", "ADMIN__KEY", "ADMIN__KEY__ENV", "REDIS__TIMEOUT_MS", "UPSTREAMS__0__BASE_URL"],
)
def test_a_secret_in_the_wrong_variable(tmp_path: Path, variable: str, shows: Shows) -> None:
    path, secret = tmp_path / "imagegate.toml", "sk-canary-0123456789abcdef"
    path.write_text(CONFIG.format(redis_url="redis://h"))
    for text in (secret, f'"{secret}"'):
        done = run("check", "--config", str(path), **{f"IMAGEGATE_{variable}": text})
        shows(3, f"IMAGEGATE_{variable}={text}", done.stderr.replace(str(path), "imagegate.toml").strip())
        assert (1, "") == (done.returncode, done.stdout)
        assert "canary" not in done.stderr
        assert done.stderr.startswith(f"imagegate: IMAGEGATE_{variable}: ")
