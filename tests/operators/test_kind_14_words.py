"""Messages that misled: of mistakes in the file, of prices, and of commands that failed."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.config import Settings, SettingsError, load
from gateway.config.resolve import read_config
from tests.support.commands import CONFIG, environment, run
from tests.support.operators import Shows
from tests.support.servers import free_port

FILE = CONFIG.format(redis_url="redis://h")
SECRETS = {"UPSTREAM_SECRET": "main-1", "ADMIN_KEY": "7f3e9a1c5b2d8046"}

SEVERAL = """\
[server]
prot = 8080
host = 1
[admin]
key = { env = "IMAGEGATE_ADMIN_KEY" }
[[upstreams]]
name = "one"
provider = "minimax"
base_url = "api.minimax.io"
  [[upstreams.accounts]]
  name = "main"
    [[upstreams.accounts.keys]]
    name = "first"
    secret = { env = "NOT_SET" }
    [[upstreams.accounts.keys]]
    name = "first"
    secret = { file = "/none" }
[[upstreams]]
name = "one"
provider = "openay"
base_url = "https://api.example.org"
[[models]]
id = "image-01"
price_per_image_usd = "free"
targets = [
  { upstream = "one", model = "image-01" },
  { upstream = "two", model = "image-01" },
]
[[models]]
id = "image-01"
price_per_image_usd = 0.0035
targets = []
[[tenants]]
name = "acme"
limits = { images_per_day = 1 }
keys = [{ label = "x" }]
"""


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )


def problems(tmp_path: Path, text: str, **variables: str) -> list[str]:
    path = tmp_path / "imagegate.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_config(str(path), SECRETS | variables)
    return str(caught.value).replace(str(path), "imagegate.toml").splitlines()


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path, shows: Shows) -> None:
    found = problems(tmp_path, SEVERAL, IMAGEGATE_REDIS__TIMEOUT_MS="soon")
    for line in found:
        shows(14, "imagegate check, with several mistakes", line)
    expected = [
        "imagegate.toml:2: server: unknown setting `prot`; did you mean `port`?",
        "imagegate.toml:3: server.host: expected an address or a name without port",
        "imagegate.toml:5: admin.key: the environment variable IMAGEGATE_ADMIN_KEY is not set; set it, or remove",
        "imagegate.toml:9: upstreams[0].base_url: expected http:// or https:// and a host",
        "imagegate.toml:14: upstreams[0].accounts[0].keys[0].secret: the environment variable NOT_SET is not set",
        "imagegate.toml:16: upstreams[0].accounts[0].keys[1].name: duplicate name 'first'",
        "imagegate.toml:17: upstreams[0].accounts[0].keys[1].secret: the file /none is missing",
        "imagegate.toml:18: upstreams[1]: missing required field `accounts`",
        "imagegate.toml:20: upstreams[1].provider: Invalid enum value",
        "imagegate.toml:24: models[0].price_per_image_usd: expected a non-negative decimal with at most 6 decimals",
        "imagegate.toml:30: models[1].id: duplicate name 'image-01', as models[0].id has",
        "imagegate.toml:32: models[1].targets: expected a list of length >= 1",
        "imagegate.toml:35: tenants[0].limits: unknown setting `images_per_day`; it belongs to quotas",
        "imagegate.toml:36: tenants[0].keys[0]: give either hash",
        "IMAGEGATE_REDIS__TIMEOUT_MS: invalid value 'soon'; expected a whole number",
    ]
    assert len(expected) == len(found), found
    for beginning, line in zip(expected, found, strict=True):
        assert line.startswith(beginning)


def test_what_follows_an_entry_that_is_left_out_keeps_its_number(tmp_path: Path) -> None:
    """The entries before it cannot be read, and are not judged further."""
    entry = '[[upstreams]]\nname = "{}"\nprovider = "{}"\nbase_url = "https://h"\n[[upstreams.accounts]]\nname = "a"\n'
    keys = 'keys = [{ name = "x", secret = "x" }, { name = "y", secret = { env = "NOT_SET" } }]\n'
    model = '[[models]]\nid = "m"\nprice_per_image_usd = 1\ntargets = [{ upstream = "one", model = "m" }]\n'
    found = problems(
        tmp_path, "".join((entry.format("one", "none"), keys, entry.format("two", "minimax"), keys, model))
    )
    assert [
        "imagegate.toml:3: upstreams[0].provider",
        "imagegate.toml:7: upstreams[0].accounts[0].keys[0].secret",
        "imagegate.toml:14: upstreams[1].accounts[0].keys[0].secret",
        "imagegate.toml:14: upstreams[1].accounts[0].keys[1].secret",
    ] == [":".join(line.split(":")[:3]) for line in found]


def test_the_command_prints_a_line_for_each(tmp_path: Path) -> None:
    path = tmp_path / "imagegate.toml"
    path.write_text(SEVERAL)
    done = run("check", "--config", str(path))
    assert (1, "") == (done.returncode, done.stdout)
    assert [True] * 14 == [line.startswith(f"imagegate: {path}:") for line in done.stderr.splitlines()]
    done = run("serve", "--config", str(path))
    assert (1, "", 14) == (done.returncode, done.stdout, len(done.stderr.splitlines()))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "[[upstreams.accounts]]",
            "[[upstreams.acounts]]",
            "12: upstreams[0]: unknown setting `acounts`; did you mean",
        ),
        ("[[models.targets]]", "[[models.target]]", "21: models[0]: unknown setting `target`; did you mean `targets`?"),
        ("[[upstreams]]", "[upstreams]", "8: upstreams: expected a list; write [[upstreams]] in double brackets"),
        ("[metrics]", "[[metrics]]", "3: metrics: expected one table; write [metrics] once, in single brackets"),
        ("port = 0", "port = 0x", "4: invalid TOML: unexpected characters; put text in quotes"),
        ('"sim"', "sim", "9: invalid TOML: invalid value; put text in quotes"),
        ('"sim"', "“sim”", "9: invalid TOML: invalid value; put text in quotes"),
        ('"sim"', '"sim', "9: invalid TOML: a quote at the end of the line is missing"),
        ('"sim"', "True", "9: invalid TOML: invalid value; put text in quotes, and write true and false in lower case"),
        ('["dall-e-3"]', '["dall-e-3"', "19: invalid TOML: a closing bracket is missing"),
        ("port = 0", "port = 0\nport = 1", "5: invalid TOML: this name is already set above; remove one"),
        ("[admin]", "[redis]", "5: invalid TOML: this table is already above; merge the two"),
        ("port = 0", "port", "4: invalid TOML: Expected '='"),
        ("[metrics]", "[metrics", "3: invalid TOML: Expected ']'"),
    ],
)
def test_a_mistake_of_writing_names_its_line(tmp_path: Path, old: str, new: str, expected: str, shows: Shows) -> None:
    text = FILE.lstrip("\n").replace(old, new, 1)
    found = problems(tmp_path, text)
    shows(14, new.partition("\n")[0], found[0])
    assert found[0].startswith(f"imagegate.toml:{expected}"), found
    assert 1 == len(found), found


def test_a_table_that_a_misspelled_one_tears_apart_is_one_mistake(tmp_path: Path, shows: Shows) -> None:
    account = '[[upstreams.accounts]]\nname = "b"\nkeys = [{ name = "x", secret = { env = "ADMIN_KEY" } }]\n'
    text = FILE.lstrip("\n").replace("[[upstreams.accounts]]", "[[upstreams.acounts]]", 1)
    found = problems(tmp_path, text.replace("[[models]]", account + "[[models]]", 1))
    shows(14, "[[upstreams.acounts]], then [[upstreams.accounts.keys]] and [[upstreams.accounts]]", found[0])
    assert ["imagegate.toml:12: upstreams[0]: unknown setting `acounts`; did you mean `accounts`?"] == found


def test_several_mistakes_of_writing_are_reported_at_once(tmp_path: Path) -> None:
    text = FILE.lstrip("\n").replace('"sim"', "sim").replace("port = 0", "port = none").replace('"minimax"', "minimax")
    assert [4, 6, 9, 10, 22] == [int(line.split(":")[1]) for line in problems(tmp_path, text)]


def priced(tmp_path: Path, price: str) -> Settings:
    path = tmp_path / "imagegate.toml"
    path.write_text(FILE.replace('"0.0035"', price))
    return load(str(path), {})


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ('"0.0035"', "0.0035"),
        ("0.0035", "0.0035"),
        ("3.5e-3", "0.0035"),
        ("0.000001", "0.000001"),
        ("1", "1"),
        ("0.1", "0.1"),
        ("0.30", "0.3"),
        ("999999.999999", "999999.999999"),
        ("1_000.5", "1000.5"),
        ("+0.5", "0.5"),
        ("0.0", "0.0"),
    ],
)
def test_a_price_may_be_a_number_and_is_exact(tmp_path: Path, price: str, expected: str) -> None:
    assert expected == priced(tmp_path, price).models[0].price_per_image_usd


@pytest.mark.parametrize(
    "price", ["-0.0035", "0.0000001", "1e9", "nan", "inf", "true", "[1]", '"0,0035"', '"$1"', '""']
)
def test_a_price_that_is_none_is_refused(tmp_path: Path, price: str, shows: Shows) -> None:
    with pytest.raises(SettingsError) as caught:
        priced(tmp_path, price)
    message = str(caught.value).replace(str(tmp_path), "")
    shows(14, f"price_per_image_usd = {price}", message)
    assert "models[0].price_per_image_usd: expected a non-negative decimal with at most 6 decimals" in message


def test_a_quota_of_money_may_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "imagegate.toml"
    path.write_text(f'{FILE}\n[[tenants]]\nname = "acme"\nquotas = {{ usd_per_month = 50.25 }}\n')
    assert "50.25" == load(str(path), {}).tenants[0].quotas.usd_per_month


@pytest.mark.parametrize("command", ["serve", "demo", "check", "simulator"])
def test_windows_is_refused_with_a_sentence(command: str, shows: Shows) -> None:
    program = (
        "import sys, typer\nfrom gateway.cli import serving\nsys.platform = 'win32'\n"
        f"try: serving.{command}()\nexcept typer.Exit as ended: sys.exit(ended.exit_code)"
    )
    done = run_python(program)
    shows(14, f"imagegate {command} on Windows", done.stderr.strip())
    assert (1, "") == (done.returncode, done.stdout)
    assert "imagegate: this command does not run on Windows: use WSL 2 or a container" in done.stderr


def test_the_commands_for_the_admin_api_need_no_module_that_windows_lacks() -> None:
    program = (
        "import sys\nfor name in ('fcntl', 'resource', 'pwd', 'grp', 'uvloop'): sys.modules[name] = None\n"
        "sys.argv = ['imagegate', 'tenant', 'list', '--url', 'http://127.0.0.1:1', '--admin-key', '7f3e9a1c5b2d8046']\n"
        "import gateway.cli as c; c.main()"
    )
    done = run_python(program)
    assert (1, True) == (done.returncode, "does not respond" in done.stderr), done.stderr


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """The address of a server that reads one request, sends this and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def page(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>".encode()


UNKNOWN = "the change may have been made: before you repeat it, search for it with `imagegate audit`"


@pytest.mark.parametrize(
    ("command", "content", "words"),
    [
        (("tenant", "create", "acme"), b"", UNKNOWN),
        (("tenant", "create", "acme"), page("504 Gateway Time-out"), UNKNOWN),
        (("tenant", "create", "acme"), page("502 Bad Gateway"), UNKNOWN),
        (("tenant", "create", "acme"), page("404 Not Found"), "check --url or IMAGEGATE_URL"),
        (("tenant", "list"), b"", "check --url or IMAGEGATE_URL"),
        (("tenant", "list"), page("502 Bad Gateway"), "check --url or IMAGEGATE_URL"),
    ],
)
def test_an_admin_command_whose_outcome_is_unknown_says_so(
    command: tuple[str, ...], content: bytes, words: str, shows: Shows
) -> None:
    with answering(content) as url:
        done = run(*command, "--url", url, "--admin-key", "7f3e9a1c5b2d8046")
    given = content.partition(b"\r")[0].decode() or "the connection is closed"
    shows(14, f"imagegate {' '.join(command)}: {given}", done.stderr.replace(url, "http://HOST").strip())
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.endswith(f"{words}\n")


def test_an_admin_command_that_was_not_sent_does_not_say_that_it_may_have_been_carried_out(shows: Shows) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run("tenant", "create", "acme", "--url", url, "--admin-key", "7f3e9a1c5b2d8046")
    shows(14, "imagegate tenant create acme: nothing listens", done.stderr.replace(url, "http://HOST").strip())
    assert (1, True, False) == (done.returncode, "check --url" in done.stderr, "may have been made" in done.stderr)
