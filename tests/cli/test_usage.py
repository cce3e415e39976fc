"""`imagegate usage` as a person types it."""

import csv
import io
import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
import redis

from tests.support.bookkeeping import TODAY, Settled, numbered, settle
from tests.support.commands import Ask, check_refused, environment, fits, run
from tests.support.harness import ADMIN_KEY, Gateway

pytestmark = pytest.mark.slow

JULY: Final = ("--from", "2026-07-01", "--to", "2026-07-31")
COMMANDS: Final = (("usage",), ("usage", "export"), ("usage", "verify"))


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert 0 == done.returncode, done.stderr
    return done.stdout


def columns(line: str) -> list[str]:
    return line.split()


def test_a_report_is_a_table_with_a_total(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(), 2), Settled(day=TODAY - timedelta(days=1), tenant="b", usd_micros=1)])
    head, names, first, second, total = printed(ask("usage", *JULY)).splitlines()
    assert "2026-07-01 to 2026-07-31, UTC" == head
    assert ["DAY", "REQUESTS", "ASKED", "IMAGES", "USD"] == columns(names)
    assert ["2026-07-27", "1", "1", "1", "0.000001"] == columns(first)
    assert ["2026-07-28", "2", "2", "2", "0.007000"] == columns(second)
    assert ["TOTAL", "3", "3", "3", "0.007001"] == columns(total)
    assert len({len(line.rstrip()) for line in (names, first, second, total)}) == 1


def test_images_that_were_not_delivered_have_their_columns(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [Settled(asked=9, delivered=2, withheld=3, lost=1, unconfirmed=3)])
    _, names, _, total = printed(ask("usage", *JULY, "--tenant", "acme", "--by", "tenant")).splitlines()
    assert ["TENANT", "REQUESTS", "ASKED", "IMAGES", "WITHHELD", "LOST", "UNCONFIRMED", "USD"] == columns(names)
    assert ["TOTAL", "1", "9", "2", "3", "1", "3", "0.0035"] == columns(total)


def test_a_table_of_everything_breaks_no_number(ask: Ask, books: "redis.Redis") -> None:
    wide = Settled(
        asked=1_234_567, delivered=1_234_567, withheld=12_345, lost=1234, unconfirmed=123, usd_micros=10**13 + 1
    )
    settle(books, [replace(wide, tenant="t" * 63, model="m" * 128), replace(wide, model="\x1b[31mred[bold]\n")])
    table = printed(ask("usage", *JULY, "--by", "day,model"))
    assert "\x1b" not in table
    for number in ("1234567", "2469134", "12345", "1234", "10000000.000001", "20000000.000002"):
        assert number in table


def test_nothing_used_is_said(ask: Ask) -> None:
    today = datetime.now(UTC).date()
    assert f"{today.replace(day=1)} to {today}, UTC\nNo usage.\n" == printed(ask("usage"))


def test_csv_has_a_header_and_numbers(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [Settled(asked=2, withheld=1), Settled(model='a, "b"')])
    table = list(csv.reader(io.StringIO(printed(ask("usage", *JULY, "--by", "tenant,model", "--format", "csv")))))
    assert [
        ["tenant", "model", "requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd"],
        ["acme", 'a, "b"', "1", "1", "1", "0", "0", "0", "0.0035"],
        ["acme", "image-01", "1", "2", "1", "1", "0", "0", "0.0035"],
    ] == table


def test_a_report_by_batch_has_a_row_for_requests_of_none(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(batch="batch_1"), 2), Settled()])
    _, names, none, batch, _ = printed(ask("usage", *JULY, "--by", "batch")).splitlines()
    assert ["BATCH", "REQUESTS", "ASKED", "IMAGES", "USD"] == columns(names)
    assert (["-", "1", "1", "1", "0.0035"], ["batch_1", "2", "2", "2", "0.0070"]) == (columns(none), columns(batch))


LONG: Final = "customer-" + "x" * 54
BY_ALL: Final = ("usage", *JULY, "--by", "day,tenant,model,key")


def test_rows_are_whole_where_there_is_no_terminal(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [Settled(tenant=LONG, model="m" * 60, key="q7Rk2ZxW9b")])
    row = columns(printed(ask(*BY_ALL)).splitlines()[2])
    assert ["2026-07-28", LONG, "m" * 60, "q7Rk2ZxW9b", "1", "1", "1", "0.0035"] == row


def test_on_a_terminal_long_texts_go_on_below_and_the_rest_is_whole(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [Settled(tenant=LONG, model="m" * 60, key="q7Rk2ZxW9b")])
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *BY_ALL],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY, TERM="dumb", COLUMNS="80"),
    )
    os.close(terminal)
    shown = b"".join(read_all(reader)).decode()
    assert (b"", 0) == (process.communicate(timeout=60)[1], process.returncode)
    assert fits(shown)
    assert "…" not in shown
    assert re.search(r"2026-07-28 +\S+ +m+ +q7Rk2ZxW9b +1 +1 +1 +0\.0035", shown)
    assert "m" * 60 == "".join(re.findall(r"(?<!\S)m+(?!\S)", shown))


@pytest.mark.parametrize("command", [("usage", "--format", "csv"), ("usage",), ("usage", "export")])
def test_a_full_disk_is_one_line(gateway: Gateway, books: "redis.Redis", command: tuple[str, ...]) -> None:
    settle(books, numbered(Settled(), 2000))
    variables = environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "gateway", *command, *JULY]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, env=variables, timeout=60, check=False)
    told = b"imagegate: the output cannot be written (No space left on device)\n"
    assert (1, told) == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    "model",
    ['=HYPERLINK("http://x","y")', "+1+1", "-2+3|cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "=1,=2\n=3"],
)
def test_csv_holds_no_formula(gateway: Gateway, books: "redis.Redis", model: str) -> None:
    settle(books, [Settled(model=model, key="=1")])
    command = [sys.executable, "-m", "gateway", "usage", *JULY, "--by", "model,key,day", "--format", "csv"]
    variables = environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    done = subprocess.run(command, capture_output=True, env=variables, timeout=60, check=True)
    [_, row] = csv.reader(io.StringIO(done.stdout.decode(), newline=""))
    assert [f"'{model}", "'=1", "2026-07-28", "1"] == row[:4]


def test_json_is_the_answer_of_the_api_on_one_line(ask: Ask, gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [Settled(), Settled(tenant="b", model="图|a")])
    expected = gateway.admin("GET", "/usage?from=2026-07-01&to=2026-07-31&by=model").json()
    for options in (("--json",), ("--format", "json")):
        text = printed(ask("usage", *JULY, "--by", "model", *options))
        assert (1, expected) == (text.count("\n"), json.loads(text))


def test_every_page_is_fetched(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [Settled(key=f"k{number:04}") for number in range(2500)])
    answer = json.loads(printed(ask("usage", *JULY, "--by", "key", "--json")))
    assert [f"k{number:04}" for number in range(2500)] == [row["key"] for row in answer["data"]]
    assert (2500, None) == (answer["total"]["requests"], answer["next_cursor"])
    assert 2503 == printed(ask("usage", *JULY, "--by", "key")).count("\n")


def test_an_export_is_json_lines_on_standard_output(ask: Ask, gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(model="图\n"), 2300), Settled(tenant="b", day=TODAY - timedelta(days=1))])
    done = ask("usage", "export", *JULY)
    records = [json.loads(line) for line in printed(done).splitlines()]
    assert ["req_1", *(f"req_{number}" for number in range(2300))] == [record["request_id"] for record in records]
    assert records[:1000] == gateway.admin("GET", "/usage/records?from=2026-07-01&to=2026-07-31").json()["data"]
    assert "2301 records\n" == done.stderr
    assert 1 == printed(ask("usage", "export", *JULY, "--tenant", "b")).count("\n")


def test_what_is_exported_steers_no_terminal(ask: Ask, books: "redis.Redis", tmp_path: Path) -> None:
    model = "\x1b[2J\x9b31m\x7f\u202e图"
    settle(books, [Settled(model=model)])
    output = tmp_path / "july.jsonl"
    ask("usage", "export", *JULY, "--output", str(output))
    shown = printed(ask("usage", "export", *JULY))
    assert output.read_text(encoding="utf-8") == shown
    assert (model, True) == (json.loads(shown)["model"], shown.rstrip("\n").isprintable())
    table = printed(ask("usage", *JULY, "--by", "model", "--format", "csv"))
    assert "?[2J?31m??图" in table
    assert all(line.isprintable() for line in table.splitlines())


def test_an_export_into_a_file_is_complete_or_not_there(
    ask: Ask, gateway: Gateway, books: "redis.Redis", tmp_path: Path
) -> None:
    settle(books, numbered(Settled(), 3))
    output = tmp_path / "july.jsonl"
    done = ask("usage", "export", *JULY, "--output", str(output))
    assert ("", f"3 records in {output}\n") == (printed(done), done.stderr)
    before = output.read_text()
    assert 3 == before.count("\n")
    assert "-rw-------" == stat.filemode(output.stat().st_mode)
    check_refused(ask("usage", "export", *JULY, "--tenant", "nobody", "--output", str(output)), "nobody")
    assert (before, [output]) == (output.read_text(), list(tmp_path.iterdir()))
    missing = tmp_path / "none" / "july.jsonl"
    check_refused(ask("usage", "export", "--output", str(missing)), str(missing), "--output")
    check_refused(ask("usage", "export", "--output", str(tmp_path)), str(tmp_path), "--output")
    assert [output] == list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["csv", "focus"])
def test_an_export_of_totals_has_the_bytes_of_the_api(
    ask: Ask, gateway: Gateway, books: "redis.Redis", tmp_path: Path, form: str
) -> None:
    settle(books, numbered(Settled(), 3))
    output = tmp_path / "july.csv"
    done = ask("usage", "export", *JULY, "--format", form, "--bom", "--out", str(output))
    assert ("", f"2 lines in {output}\n") == (printed(done), done.stderr)
    query = f"/usage/export?from=2026-07-01&to=2026-07-31&format={form}&bom=true"
    assert gateway.admin("GET", query).content == output.read_bytes()


def test_a_file_that_is_not_what_was_announced_is_refused(ask: Ask, tmp_path: Path) -> None:
    class Short(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in (("content-length", "4"), ("x-imagegate-lines", "2"), ("etag", '"0"')):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"day\n")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            del code, size

    with ThreadingHTTPServer(("127.0.0.1", 0), Short) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        output = tmp_path / "july.csv"
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = ask("usage", "export", "--format", "csv", "--out", str(output), "--url", url)
        server.shutdown()
    told = "imagegate: the file is not complete: 1 of 2 lines arrived; run the command again\n"
    assert (1, told, []) == (done.returncode, done.stderr, list(tmp_path.iterdir()))


def test_a_month_is_closed_after_a_question_and_listed(ask: Ask, books: "redis.Redis") -> None:
    settle(books, numbered(Settled(day=date(2025, 11, 3)), 2))
    assert "2025-11 can be closed." in printed(ask("usage", "close", "2025-11", "--dry-run"))
    assert "No month is closed.\n" == printed(ask("usage", "close", "--list"))
    assert 1 == ask("usage", "close", "2025-11").returncode  # no terminal answers
    assert "No month is closed.\n" == printed(ask("usage", "close", "--list"))
    shown = printed(ask("usage", "close", "2025-11", "--yes"))
    fields = dict(line.rsplit("  ", 1) for line in shown.splitlines())
    assert ("2025-11", "2", "0.007") == tuple(
        next(value for name, value in fields.items() if name.split()[0] == field)
        for field in ("month", "requests", "usd")
    )
    _, row = printed(ask("usage", "close", "--list")).splitlines()
    assert ["2025-11", "1", "2", "2", "0.007"] == [row.split()[0], *row.split()[-4:]]
    check_refused(ask("usage", "close", "2025-11", "--yes"), "2025-11 is closed since")


@pytest.mark.parametrize("form", ["jsonl", "focus"])
def test_groups_of_an_export_that_has_none_are_refused(ask: Ask, form: str) -> None:
    message = f"Invalid value for 'by': format={form} has every request's own. Use it with format=csv."
    check_refused(ask("usage", "export", "--format", form, "--by", "tenant"), message)


def test_an_empty_export_is_an_empty_file(ask: Ask, tmp_path: Path) -> None:
    output = tmp_path / "none.jsonl"
    assert 0 == ask("usage", "export", "--output", str(output)).returncode
    assert "" == output.read_text()


@pytest.mark.parametrize("command", ["export", "verify"])
def test_on_a_terminal_there_is_a_progress_bar(
    gateway: Gateway, books: "redis.Redis", tmp_path: Path, command: str
) -> None:
    today = datetime.now(UTC).date()
    settle(books, numbered(Settled(day=today), 2000))
    options = ["--output", str(tmp_path / "x.jsonl")] if command == "export" else []
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "usage", command, *options],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY, TERM="xterm"),
    )
    os.close(terminal)
    shown = b"".join(read_all(reader)).decode()
    output, _ = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert "2000/2000" in shown
    assert ("exporting" if command == "export" else "comparing") in shown
    assert "\x1b" not in output.decode()


def read_all(descriptor: int) -> Iterator[bytes]:
    """What a terminal shows until its program ends."""
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:
            return
        if not piece:
            return
        yield piece


@pytest.mark.parametrize("command", ["usage export", "usage --by key --format csv", "usage --by key"])
def test_a_reader_that_has_seen_enough_is_no_failure(gateway: Gateway, books: "redis.Redis", command: str) -> None:
    settle(books, [Settled(key=f"k{number:04}") for number in range(2000)])
    variables = environment(IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    command = f"{sys.executable} -m gateway {command} {' '.join(JULY)} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, env=variables, check=False)
    assert (1, "") == (done.stdout.count("\n"), done.stderr)


def test_right_books_are_verified(ask: Ask, books: "redis.Redis") -> None:
    today = datetime.now(UTC).date()
    settle(books, [*numbered(Settled(day=today), 6000), Settled(day=today, tenant="b")])
    settle(books, [Settled(day=today - timedelta(days=900), tenant="c")])
    books.delete(f"ig3:{{c}}:ledger:{today - timedelta(days=900):%Y%m%d}")
    done = ask("usage", "verify", "--from", str(today - timedelta(days=999)))
    assert (
        "Compared 2 tenant days, 6001 records: no difference.\nNot compared: 1 day with expired records.\n"
    ) == printed(done)
    answer = json.loads(printed(ask("usage", "verify", "--from", str(today), "--json")))
    assert {"days": 2, "records": 6001, "differences": [], "next_cursor": None}.items() <= answer.items()


def test_a_difference_is_a_line_and_a_failure(ask: Ask, books: "redis.Redis") -> None:
    today = datetime.now(UTC).date()
    settle(books, [Settled(day=today, model="a|\x1b[31m")])
    books.hincrby(f"ig3:{{acme}}:sums:{today:%Y%m%d}", "key1|lost|a|\x1b[31m", 2)
    done = ask("usage", "verify")
    assert 1 == done.returncode
    line, summary = done.stdout.splitlines()
    assert f"acme {today} key key1 model a|?[31m: lost 2 in the totals, 0 in the records" == line
    assert "Compared 1 tenant day, 1 record: 1 difference." == summary
    assert "imagegate: totals and records differ: 1 difference\n" == done.stderr
    as_json = ask("usage", "verify", "--json")
    assert 1 == as_json.returncode
    found: list[dict[str, Any]] = json.loads(as_json.stdout)["differences"]
    assert [("lost", 2, 0)] == [(each["measure"], each["sums"], each["records"]) for each in found]


@pytest.mark.parametrize("command", COMMANDS)
def test_refusals_of_the_gateway_are_one_line(ask: Ask, command: tuple[str, ...]) -> None:
    check_refused(ask(*command, "--tenant", "nobody"), "nobody")
    check_refused(ask(*command, "--from", "2026-07-02", "--to", "2026-07-01"), "'from'")
    check_refused(run(*command, "--url", "http://127.0.0.1:9", "--admin-key", "x"), "--url")
    check_refused(run(*command), "IMAGEGATE_ADMIN_KEY")
    check_refused(ask(*command, "--admin-key", "wrong"), "admin key")


def test_usage_of_one_key_and_model_by_the_hour(gateway: Gateway, ask: Ask, books: "redis.Redis") -> None:
    key = gateway.admin("POST", "/tenants/acme/keys", {"label": "web"}).json()["id"]
    settle(books, [Settled(key=key), Settled(key=key, model="other"), Settled()])
    only = ("--key", key, "--model", "image-01")
    day = ("--from", "2026-07-28", "--to", "2026-07-28")
    _, names, row, total = printed(ask("usage", *day, "--by", "hour,key", *only)).splitlines()
    assert ["HOUR", "KEY", "LABEL", "REQUESTS", "ASKED", "IMAGES", "USD"] == names.split()
    assert ["2026-07-28T12:00Z", key, "web", "1", "1", "1", "0.0035"] == row.split()
    assert ["TOTAL", "1", "1", "1", "0.0035"] == total.split()
    assert 1 == printed(ask("usage", "export", *JULY, *only)).count("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--by", "minute"),
        ("--by", ""),
        ("--by", "day,"),
        ("--format", "xml"),
        ("--from", "yesterday"),
        ("--to", "2026-02-30"),
        ("nope",),
        ("--tenant", "acme", "export"),
        ("--json", "verify"),
        ("export", "--format", "xlsx"),
        ("close", "2026-13"),
        ("close",),
        ("close", "2026-01", "--list"),
        ("verify", "acme"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    done = run("usage", *arguments, IMAGEGATE_URL="http://127.0.0.1:9", IMAGEGATE_ADMIN_KEY="x")
    assert (2, "") == (done.returncode, done.stdout)
    assert "Usage: " in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_within_80_columns(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert (0, "") == (done.returncode, done.stderr)
    assert fits(done.stdout)


def test_records_are_listed_newest_first_and_filtered(ask: Ask, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(), 3), Settled(request_id="other", outcome="lost", delivered=0)])
    first = ask("usage", "records", *JULY, "--outcome", "delivered", "--limit", "2")
    assert ["req_2", "req_1"] == [columns(line)[1] for line in printed(first).splitlines()[1:]]
    cursor = first.stderr.split("--cursor ")[1].strip()
    assert ["req_0"] == [
        columns(line)[1] for line in printed(ask("usage", "records", "--cursor", cursor)).splitlines()[1:]
    ]
    [record] = json.loads(printed(ask("usage", "records", *JULY, "--request-id", "other", "--json")))["data"]
    assert ("lost", 0) == (record["outcome"], record["delivered"])
