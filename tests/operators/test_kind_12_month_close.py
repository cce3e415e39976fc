"""Exports and month closes that cannot be: one line that names the form and the remedy."""

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest
import redis

from tests.support.bookkeeping import Settled, settle
from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway

Shows = Callable[[int, str, str], None]
MONTH = "expected a month, YYYY-MM, as 2026-01, but got "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("close 2026-13", f"{MONTH}'2026-13'"),
        ("close november", f"{MONTH}'november'"),
        ("close 2026-11-30", f"{MONTH}'2026-11-30'"),
        ("close 11/2026", f"{MONTH}'11/2026'"),
        ("close", "give the MONTH to close, as 2026-01, or --list"),
        ("close 2026-01 --list", "give MONTH or --list, not both"),
        ("export --format xlsx", "'xlsx' is not one of 'jsonl', 'csv', 'focus'"),
        ("export --format parquet", "'parquet' is not one of 'jsonl', 'csv', 'focus'"),
        ("export --format csv --by team", "'team' is not one of day, hour, month, tenant"),
        ("export --from 2026-13-01", "expected a day, YYYY-MM-DD, as 2026-01-31, but got '2026-13-01'"),
    ],
)
def test_a_wrong_command_is_refused_before_the_server_is_asked(shows: Shows, given: str, message: str) -> None:
    done = run("usage", *given.split())
    *_, printed = done.stderr.splitlines()
    assert 2 == done.returncode
    assert message in printed
    shows(12, f"imagegate usage {given}", printed)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"close {datetime.now(UTC):%Y-%m} --yes", f"{datetime.now(UTC):%Y-%m} is not over: it can be closed from "),
        ("close 2999-12 --yes", "2999-12 is not over: it can be closed from 3000-01-01T01:00:00Z."),
        ("close 9999-12 --yes", "9999-12 is not over."),
        ("export --format jsonl --tag env", "No tag has sums: [attribution] keys names none."),
        ("export --format focus --tenant nobody", "There is no tenant named 'nobody'."),
        ("export --format csv --by user,upstream", "usage by user and upstream has separate sums."),
    ],
)
def test_what_the_server_refuses_is_one_line(shows: Shows, gateway: Gateway, given: str, message: str) -> None:
    check(shows, gateway, given, message)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("open", "2025-11 has 1 requests that are not settled, by tenant: acme 1. They settle when they end"),
        ("differs", "2025-11 was not closed: totals and records differ in 1 places, first in lost of tenant 'acme' on"),
        ("closed", "2025-11 is closed since "),
    ],
)
def test_a_month_that_cannot_be_closed_says_why(
    shows: Shows, gateway: Gateway, redis_url: str, problem: str, message: str
) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as books:
        settle(books, [Settled(day=date(2025, 11, 3))])
        if problem == "open":
            books.zadd("ig3:{acme}:open", {"r1": 4e12})
            books.hset("ig3:{acme}:reservation:r1", "day", "20251130")
        if problem == "differs":
            books.hincrby("ig3:{acme}:sums:20251103", "key1|lost|image-01", 1)
        if problem == "closed":
            gateway.admin("POST", "/usage/closings", {"month": "2025-11"}).raise_for_status()
    check(shows, gateway, "close 2025-11 --yes", message)


def check(shows: Shows, gateway: Gateway, given: str, message: str) -> None:
    done = run("usage", *given.split(), IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert message in done.stderr
    shows(12, f"imagegate usage {given}", done.stderr.strip())
