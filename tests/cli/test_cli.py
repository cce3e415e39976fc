"""The commands as a user types them: exit codes and output."""

import functools
import inspect
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest
import typer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.client import AdminApi
from gateway.cli.output import print_json
from tests.support.commands import (
    CONFIG,
    Ask,
    check_refused,
    environment,
    fits,
    is_answering,
    run,
    run_process,
    started,
    taken_port,
)
from tests.support.harness import ADMIN_KEY, Gateway, serving, wait_until

PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
UNUSED_URL: Final = "http://127.0.0.1:9"
ADMIN_COMMANDS: Final = (
    ("tenant", "create", "b"),
    ("tenant", "list"),
    ("tenant", "show", "acme"),
    ("tenant", "update", "acme", "--disable"),
    ("tenant", "delete", "acme", "--yes"),
    ("key", "create", "acme"),
    ("key", "list", "acme"),
    ("key", "show", "acme", "abc"),
    ("key", "update", "acme", "abc", "--label", "x"),
    ("key", "rotate", "acme", "abc"),
    ("key", "revoke", "acme", "abc", "--yes"),
    ("pool", "list"),
    ("pool", "add", "sim/main/main-2", "--secret-env", "UPSTREAM_SECRET"),
    ("pool", "remove", "sim/main/main-2", "--yes"),
    ("pool", "enable", "sim/main"),
    ("pool", "disable", "sim/main/main-1"),
    ("pool", "drain", "sim/main"),
    ("pool", "probe", "sim/main/main-1"),
    ("audit",),
)


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    path = tmp_path / "imagegate.toml"
    path.write_text(CONFIG.format(redis_url=redis_url))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        *((name, "--help") for name in ("demo", "serve", "check", "simulator", "tenant", "key", "pool")),
        *((*command[:2], "--help") for command in ADMIN_COMMANDS),
        ("key", "hash", "--help"),
    ],
)
def test_help_is_printed_within_80_columns(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (0, "") == (done.returncode, done.stderr)
    assert "Usage:" in done.stdout
    assert fits(done.stdout)


def test_every_help_holds_the_brackets_of_its_text() -> None:
    """They are no markup, which a printer would swallow."""
    found = list(commands(typer.main.get_command(app), ()))
    assert [] == [path for path, text in found if squeezed(text) not in squeezed(help_of(*path))]
    assert [] == [path for path, _ in found if "...\n" in help_of(*path).partition("Commands:")[2]]
    assert "[code=1026], [http=502], [delay=3], [hang]" in " ".join(help_of("simulator").split())
    assert "[[tenants.keys]]" in help_of("key", "hash")


def commands(command: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command by its path, and the text of its help."""
    yield path, inspect.cleandoc(getattr(command, "help", None) or "")
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@functools.cache
def help_of(*command: str) -> str:
    return CliRunner().invoke(app, [*command, "--help"]).stdout


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_the_version_is_printed() -> None:
    done = run_process("--version")
    assert 0 == done.returncode
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


SHOW_MODULES: Final = """
import sys
from gateway.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
HEAVY: Final = {"uvicorn", "starlette", "redis", "httpx", "aiohttp", "rich", "msgspec", "structlog", "ssl", "asyncio"}


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("serve", "--help"), ("tenant", "--help")])
def test_a_command_that_serves_nothing_imports_no_server(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", SHOW_MODULES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=True)
    modules = set(done.stderr.split())
    assert set() == modules & HEAVY
    rooms = {".".join(name.split(".")[:2]) for name in modules if name.startswith("gateway.")}
    commands = set() if arguments == ("--version",) else {"gateway.cli"}
    assert {"gateway.__main__"} | commands == rooms
    assert bool(commands) == ("typer" in modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("serve", "--nope"),
        ("serve", "--port", "99999"),
        ("serve", "--port", "x"),
        ("serve", "--workers", "0"),
        ("simulator", "--rpm", "0"),
        ("simulator", "--latency", "-1"),
        ("demo", "--port", "-1"),
        ("tenant", "create"),
        ("tenant", "nope"),
        ("tenant", "update", "acme"),
        ("tenant", "update", "acme", "--model", "image-01", "--all-models"),
        ("key", "create"),
        ("key", "create", "acme", "--days", "0"),
        ("key", "revoke", "acme"),
        ("key", "update", "acme", "abc"),
        ("key", "update", "acme", "abc", "--days", "1", "--never-expires"),
        ("key", "rotate", "acme", "abc", "--grace", "31d"),
        ("key", "rotate", "acme", "abc", "--grace", "soon"),
        ("key", "rotate", "acme", "abc", "--grace", "24"),
        ("tenant", "create", "b", "--requests-per-minute", "-1"),
        ("tenant", "create", "b", "--concurrency", "1.5"),
        ("tenant", "update", "acme", "--images-per-day", "1000000001"),
        ("tenant", "update", "acme", "--usd-per-month", "1.0000001"),
        ("tenant", "update", "acme", "--weight", "0"),
        ("audit", "--limit", "0"),
        ("pool", "nope"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, IMAGEGATE_URL=UNUSED_URL, IMAGEGATE_ADMIN_KEY="x")
    assert (2, "") == (done.returncode, done.stdout)
    assert "Usage: " in done.stderr


@pytest.mark.parametrize("command", ADMIN_COMMANDS)
def test_an_unreachable_gateway_is_one_line(command: tuple[str, ...]) -> None:
    check_refused(run(*command, "--url", UNUSED_URL, "--admin-key", "x"), UNUSED_URL, "--url")


@pytest.mark.parametrize("command", ADMIN_COMMANDS)
def test_a_missing_admin_key_is_one_line(command: tuple[str, ...]) -> None:
    check_refused(run(*command, "--url", UNUSED_URL), "IMAGEGATE_ADMIN_KEY")


@pytest.mark.parametrize("command", ADMIN_COMMANDS)
def test_a_wrong_admin_key_is_one_line_and_not_repeated(gateway: Gateway, command: tuple[str, ...]) -> None:
    done = run(*command, "--url", gateway.url, "--admin-key", "canary-wrong")
    check_refused(done, "admin key")
    assert "canary-wrong" not in done.stderr


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://a..b"])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    check_refused(run("tenant", "list", "--url", url, "--admin-key", "x"))


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_may_end_as_the_one_for_clients_does(gateway: Gateway, end: str) -> None:
    assert 0 == run("tenant", "list", "--url", gateway.url + end, "--admin-key", ADMIN_KEY).returncode


@pytest.mark.parametrize("command", ["serve", "check"])
def test_an_admin_key_that_can_be_guessed_is_refused(config: Path, command: str) -> None:
    options = [] if command == "check" else ["--port", "0"]
    done = run(command, "--config", str(config), *options, ADMIN_KEY="canary-of-15-ch")
    check_refused(done, "admin.key: ", "at least 16 characters", "openssl rand -hex 16")
    assert "canary" not in done.stderr


@pytest.mark.parametrize("key", ["a\nb", "é", "a\x00b"[:1] + "\t"])
def test_an_admin_key_that_no_header_can_carry_is_one_line(gateway: Gateway, key: str) -> None:
    check_refused(run("tenant", "list", "--url", gateway.url, "--admin-key", key))


@pytest.mark.parametrize(
    "answer",
    [
        HTMLResponse("<h1>hello</h1>"),
        JSONResponse([]),
        JSONResponse("text"),
        JSONResponse(None),
        JSONResponse([], 404),
        JSONResponse({"detail": "x"}, 404),
        JSONResponse({"error": "x"}, 500),
        Response(b"\xff\xfe"),
        Response(b""),
    ],
    ids=["html", "list", "string", "null", "list-404", "detail-404", "error-500", "bytes", "empty"],
)
def test_a_server_that_is_no_gateway_is_one_line(answer: Response) -> None:
    async def any_answer(request: Request) -> Response:
        return answer

    with serving(Starlette(routes=[Route("/{path:path}", any_answer)])) as url:
        check_refused(run("tenant", "show", "acme", "--url", url, "--admin-key", "x"))


STEERING = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x202A, 0x202E, 0x2066, 0x2069, 0x200F, 0x2028, 0xFEFF)))
"""C0, DEL, C1, overrides of the writing direction, a line separator."""
COMMANDS = [
    ("tenant", "list"),
    ("key", "create", "acme"),
    ("key", "list", "acme"),
    ("key", "rotate", "acme", "abcdefghij"),
    ("usage",),
    ("audit",),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_no_words_of_a_server_steer_the_terminal(
    command: tuple[str, ...], status: int, json_option: tuple[str, ...]
) -> None:
    """A title of the window, a cleared screen, a text that reads backwards: none arrives, and JSON stays as it was."""
    text = f"a{STEERING}b🗝"
    row = dict.fromkeys(
        ("name", "id", "label", "tenant", "upstream", "at", "actor", "action", "target", "error_code"), text
    )
    answer = row | {"error": {"message": text}, "data": [row], "key": text, "from": text, "to": text}
    pages = iter((answer | {"next": text}, answer))

    async def any_answer(request: Request) -> Response:
        return Response(json.dumps(next(pages)).encode(), status, media_type="application/json")

    with serving(Starlette(routes=[Route("/{path:path}", any_answer, methods=["GET", "POST"])])) as url:
        done = run(*command, *json_option, "--url", url, "--admin-key", "x")
    told = done.stdout + done.stderr
    assert set() == set(told) & set(STEERING) - {"\n"}
    if status == 400:
        assert (1, "") == (done.returncode, done.stdout)
        assert 1 == done.stderr.count("\n")
    elif json_option and done.returncode == 0 and command[0] != "usage":
        document = json.loads(done.stdout)
        assert text in (document.get("key"), document.get("next"), *(row["name"] for row in document.get("data", ())))


@pytest.mark.slow
def test_a_list_without_an_end_is_read_up_to_a_bound() -> None:
    asked = itertools.count(1)

    async def any_page(request: Request) -> Response:
        return JSONResponse({"data": [{"name": "a"}], "next": str(next(asked))})

    with serving(Starlette(routes=[Route("/{path:path}", any_page)])) as url:
        done = run("tenant", "list", "--json", "--url", url, "--admin-key", "x")
    assert (0, 1001) == (done.returncode, next(asked))
    assert 1000 == len(json.loads(done.stdout)["data"])


def test_lines_of_json_are_escaped_where_nothing_else_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"a": "\x1b[2J\x7f\x9b31m\u202e", "ключ": "鍵 🗝", "lone": "\ud800", "far": "\U000e0001"}
    print_json(document)
    shown = capsys.readouterr().out
    assert document == json.loads(shown)
    assert shown.rstrip("\n").isprintable()
    assert "ключ" in shown


def test_a_tenant_from_birth_to_end(ask: Ask) -> None:
    made = ask("tenant", "create", "shop", "--model", "dall-e-3")
    assert (0, "") == (made.returncode, made.stderr)
    assert re.search(r"name +shop\nstate +enabled\nmodels +image-01\nweight +1\ncreated +\d{4}-\d\d-\d\d", made.stdout)
    assert re.search(r"name +shop\nstate +enabled\nmodels +image-01\n", ask("tenant", "show", "shop").stdout)
    assert re.search(r"shop +enabled +image-01 +0 +0\.00", ask("tenant", "list").stdout)
    changed = ask("tenant", "update", "shop", "--all-models", "--disable").stdout
    assert re.search(r"state +disabled by admin\nmodels +all", changed)
    assert re.search(r"state +enabled", ask("tenant", "update", "shop", "--enable").stdout)
    assert re.search(r"state +disabled", ask("tenant", "delete", "shop", "--yes").stdout)
    check_refused(ask("tenant", "create", "shop"), "shop", "exists")
    check_refused(ask("tenant", "show", "nobody"), "nobody")
    check_refused(ask("tenant", "create", "Not A Name"))
    check_refused(ask("tenant", "create", "b", "--model", "nope"), "nope")


def test_a_key_from_birth_to_end(ask: Ask, gateway: Gateway) -> None:
    made = ask("key", "create", "acme", "--label", "web", "--days", "30")
    assert 0 == made.returncode
    key = made.stdout.strip()
    assert re.fullmatch(r"sk-ig-[A-Za-z0-9]{42}", key)
    assert fits(made.stderr)
    assert 200 == httpx.get(f"{gateway.base_url}/models", headers={"authorization": f"Bearer {key}"}).status_code
    listed = ask("key", "list", "acme")
    assert re.search(rf"{key[6:16]} +web", listed.stdout)
    assert key[16:] not in listed.stdout
    revoked = ask("key", "revoke", "acme", key[6:16], "--yes")
    assert (0, f"Key {key[6:16]} of acme is revoked.\n") == (revoked.returncode, revoked.stdout)
    check_refused(ask("key", "revoke", "acme", key[6:16], "--yes"), key[6:16])
    check_refused(ask("key", "list", "nobody"), "nobody")
    check_refused(ask("key", "create", "nobody"), "nobody")


@pytest.mark.parametrize(
    "command",
    [
        ("tenant", "create", "b"),
        ("tenant", "list"),
        ("tenant", "show", "acme"),
        ("tenant", "update", "acme", "--enable"),
        ("tenant", "delete", "acme", "--yes"),
        ("key", "create", "acme"),
        ("key", "list", "acme"),
        ("key", "hash"),
        ("pool", "list"),
        ("audit",),
    ],
)
def test_json_is_the_answer_of_the_api_on_one_line(ask: Ask, command: tuple[str, ...]) -> None:
    done = ask(*command, "--json")
    assert (0, "") == (done.returncode, done.stderr)
    assert 1 == done.stdout.count("\n")
    assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize("label", ["[/nope]", "[red]x", "x" * 100, "a\nb", "ключ 鍵 🗝", "\x1b[31m"])
def test_any_label_can_be_listed(ask: Ask, label: str) -> None:
    """A label is anybody's text: no markup and no command for a terminal."""
    assert 0 == ask("key", "create", "acme", "--label", label).returncode
    done = ask("key", "list", "acme")
    assert 0 == done.returncode
    assert "\x1b" not in done.stdout
    assert "".join(character if character.isprintable() else "?" for character in label) in done.stdout


@pytest.mark.parametrize(("days", "code"), [("1", 0), ("36500", 0), ("36501", 2), ("99999999999999", 2)])
def test_any_number_of_days_is_taken_or_refused(ask: Ask, days: str, code: int) -> None:
    made = ask("key", "create", "acme", "--days", days)
    assert code == made.returncode
    assert 0 == ask("key", "list", "acme").returncode


def test_long_names_are_whole_where_there_is_no_terminal(ask: Ask) -> None:
    name = "x" * 63
    ask("tenant", "create", name)
    assert re.search(rf"^{name} +enabled +all +0 +0\.00$", ask("tenant", "list").stdout, re.MULTILINE)


def broken(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


BROKEN: Final = [
    ("[redis]", "[redis", ("TOML",)),
    ("[redis]", "[server]\nprot = 1\n[redis]", ("server", "prot")),
    ("[redis]", '[server]\nport = "x"\n[redis]', ("server.port",)),
    ('provider = "minimax"', 'provider = "openay"', ("provider",)),
    ('{ env = "UPSTREAM_SECRET" }', '"canary-in-the-file"', ("secret",)),
    ("UPSTREAM_SECRET", "NOT_SET_ANYWHERE", ("NOT_SET_ANYWHERE",)),
    ('env = "UPSTREAM_SECRET"', 'file = "/nonexistent"', ("/nonexistent",)),
    ('upstream = "sim"', 'upstream = "other"', ("other",)),
    ("[[models]]", '[api_keys]\nhash_pepper = { env = "NO_PEPPER" }\n[[models]]', ("NO_PEPPER",)),
    ('aliases = ["dall-e-3"]', 'aliases = ["image-01"]', ("image-01", "duplicate")),
    (
        "[[models]]",
        '[[tenants]]\nname = "acme"\nmodels = ["nope"]\n[[models]]',
        ("imagegate.toml", "tenants[0].models[0]", "nope"),
    ),
    ("[[models]]", '[[tenants]]\nname = "a"\n[[tenants]]\nname = "a"\n[[models]]', ("imagegate.toml", "duplicate")),
    (
        "[[models]]",
        '[[tenants]]\nname = "a"\n[[tenants.keys]]\nsecret = { env = "NO_TENANT_KEY" }\n[[models]]',
        ("imagegate.toml", "tenants[0].keys[0].secret", "NO_TENANT_KEY"),
    ),
    (
        "[[upstreams]]",
        '[[admin.keys]]\nname = "alice"\nsecret = { env = "ADMIN_KEY" }\n[[upstreams]]',
        ("imagegate.toml", "admin.keys[0].secret", "use a new key"),
    ),
]
"""A text of the configuration, what replaces it, and words of the message."""


@pytest.mark.parametrize(
    ("command", "old", "new", "words"),
    [*(("check", *case) for case in BROKEN), *(("serve", *case) for case in BROKEN[::4])],
)
def test_a_bad_configuration_is_one_line(
    config: Path, command: str, old: str, new: str, words: tuple[str, ...]
) -> None:
    """Both commands load it in the same way, and to serve takes a process."""
    config.write_text(broken(config.read_text(), old, new))
    done = run(command, "--config", str(config), *(["--port", "1"] if command == "serve" else []))
    check_refused(done, *words)
    assert "canary" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_configuration_is_one_line(tmp_path: Path, command: str) -> None:
    check_refused(run(command, "--config", str(tmp_path / "none.toml")), "none.toml")
    check_refused(run(command, "--config", str(tmp_path)), str(tmp_path))
    check_refused(run(command, IMAGEGATE_CONFIG=str(tmp_path / "other.toml")), "other.toml")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_redis_url_that_is_none_is_one_line(config: Path, command: str) -> None:
    done = run(command, "--config", str(config), IMAGEGATE_REDIS__URL="http://x")
    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert done.stderr.startswith("imagegate: IMAGEGATE_REDIS__URL: unknown scheme")


def test_check_pings_redis(config: Path, tmp_path: Path) -> None:
    done = run("check", "--no-upstreams", "--config", str(config))
    assert (0, "") == (done.returncode, done.stderr)
    assert "redis: reachable" in done.stdout
    assert "upstream keys 1, accounts 1, models 1" in done.stdout
    assert fits(done.stdout)
    away = run("check", "--config", str(config), IMAGEGATE_REDIS__URL=f"unix://{tmp_path}/none.sock")
    assert 1 == away.returncode
    assert "IMAGEGATE_REDIS__URL: redis does not respond" in away.stderr


@pytest.mark.parametrize("command", ["serve", "demo", "simulator"])
def test_a_port_in_use_is_one_line(config: Path, command: str) -> None:
    with taken_port() as port, TemporaryDirectory(dir="/tmp") as home:
        options = ["--config", str(config)] if command == "serve" else []
        done = run(command, *options, "--port", str(port), "--host", "127.0.0.1", XDG_DATA_HOME=home)
        check_refused(done, str(port), "--port")


@pytest.mark.parametrize("host", ["256.1.1.1", "a..b", "203.0.113.1"])
def test_a_host_that_is_not_ours_is_one_line(config: Path, host: str) -> None:
    check_refused(run("serve", "--config", str(config), "--host", host, "--port", "0"), host)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_simulator_runs_until_it_is_stopped(number: signal.Signals) -> None:
    with started("simulator", "--port", "0", "--latency", "0") as process:
        assert process.stdout
        line = process.stdout.readline()
        assert fits(line)
        found = re.search(r"http://\S+:\d+", line)
        assert found
        url = found[0]
        wait_until(lambda: is_answering(f"{url}/simulator/invoice"), "the simulator answers")
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_until_it_is_stopped(config: Path, number: signal.Signals) -> None:
    with taken_port() as port:
        pass
    with started("serve", "--config", str(config), "--port", str(port), "--host", "127.0.0.1") as process:
        wait_until(lambda: is_answering(f"http://127.0.0.1:{port}/readyz"), "serve answers")
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert ("", False) == (output, "Traceback" in errors)


def test_the_demo_prints_one_line_of_json_that_works() -> None:
    with TemporaryDirectory(dir="/tmp") as home:
        variables = {"XDG_DATA_HOME": home, "AI302_API_KEY": "", "MINIMAX_API_KEY": ""}
        with started("demo", "--json", "--port", "0", **variables) as process:
            assert process.stdout
            ready: dict[str, Any] = json.loads(process.stdout.readline())
            addresses = {"base_url", "admin_url", "simulator_url", "redis_url", "console_url"}
            assert addresses | {"api_key", "admin_key"} == set(ready)
            headers = {"authorization": f"Bearer {ready['api_key']}"}
            answer = httpx.post(
                f"{ready['base_url']}/images/generations", json={"prompt": "x"}, headers=headers, timeout=20
            )
            assert 200 == answer.status_code
            listed = run("tenant", "list", IMAGEGATE_URL=ready["admin_url"], IMAGEGATE_ADMIN_KEY=ready["admin_key"])
            assert "demo" in listed.stdout
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=20)
            assert ("", 0) == (output, process.returncode)
            assert "Traceback" not in errors


@pytest.mark.parametrize("proxy", ["http://u:canary@p:port", "ftp://u:canary@p:1", "http://u:canary@p..invalid:1"])
def test_a_proxy_that_cannot_be_used_is_not_blamed_on_the_url(proxy: str) -> None:
    variables = dict.fromkeys(("http_proxy", "HTTP_PROXY"), proxy) | {"NO_PROXY": "", "no_proxy": ""}
    done = run("tenant", "list", "--url", "http://gateway.invalid", "--admin-key", "x", **variables)
    check_refused(done, *PROXIES)
    assert [] == [word for word in ("--url", "IMAGEGATE_URL", "canary") if word in done.stderr]


@pytest.mark.parametrize("url", ["http://u:canary@gateway..invalid", "http://u:canary@gateway.invalid:port"])
def test_a_url_that_is_none_is_not_blamed_on_a_proxy(url: str) -> None:
    done = run("tenant", "list", "--url", url, "--admin-key", "x")
    check_refused(done, "--url or IMAGEGATE_URL is no URL")
    assert "canary" not in done.stderr


def test_an_error_of_the_code_that_reads_a_response_is_not_blamed_on_the_url(gateway: Gateway) -> None:
    api = AdminApi(gateway.url, ADMIN_KEY, json=False)
    with pytest.raises(ValueError, match="of the reader"), api.download("tenants", query={}):
        raise ValueError("of the reader")
