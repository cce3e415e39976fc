"""The records of the ledger: newest first, filtered, of one request, and as a tenant's lead reads them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, cast

import pytest
import redis

from tests.support.bookkeeping import TODAY, Settled, numbered, settle
from tests.support.harness import Gateway
from tests.support.openapi import conform

JULY: Final = "from=2026-07-01&to=2026-07-31"


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def get(gateway: Gateway, query: str, path: str = "", status: int = 200) -> dict[str, Any]:
    response = gateway.admin("GET", f"/usage/records{path}?{query}")
    assert status == response.status_code, response.text
    found: dict[str, Any] = response.json()
    return found


def ids(gateway: Gateway, query: str) -> tuple[list[str], int]:
    """Returns the request IDs of all pages, and the number of pages."""
    found, pages, page = [], 1, get(gateway, query)
    while True:
        found += [record["request_id"] for record in page["data"]]
        if not page["next_cursor"]:
            return found, pages
        page, pages = get(gateway, f"cursor={page['next_cursor']}&limit=1000"), pages + 1


def times(books: "redis.Redis") -> Iterator[tuple[tuple[str, int, int, str], str]]:
    """Yields day, time and tenant of each record, and its request ID."""
    for name in books.scan_iter("ig3:*:ledger:*"):
        _, tenant, _, day = name.split(":")
        for entry_id, fields in cast("list[tuple[str, dict[str, str]]]", books.xrange(name)):
            ms, sequence = map(int, entry_id.split("-"))
            yield (day, ms, sequence, tenant), fields["request_id"]


def test_newest_first_goes_by_time_over_all_tenants_in_pages_of_any_size(
    gateway: Gateway, books: "redis.Redis"
) -> None:
    settled = [
        Settled("abcd"[number * number % 4], TODAY - timedelta(days=number % 2), request_id=f"req_{number}")
        for number in range(640)
    ]
    settled += numbered(Settled("busy"), 300, 1000)
    settle(books, settled)
    expected = [request_id for _, request_id in sorted(times(books), reverse=True)]
    assert 940 == len(expected)
    for limit in (1, 3, 250, 1000):
        page = get(gateway, f"{JULY}&order=desc&limit={limit}")
        assert expected[:limit] == [record["request_id"] for record in page["data"]]
        assert (940, limit < 940) == (page["total"], page["next_cursor"] is not None)
        following = ids(gateway, f"{JULY}&order=desc&cursor={page['next_cursor']}")[0] if page["next_cursor"] else []
        assert expected[limit:] == following
    assert sorted(expected) == sorted(ids(gateway, JULY)[0])


def test_tenants_that_were_busy_one_after_another_are_merged_too(gateway: Gateway, books: "redis.Redis") -> None:
    """The tenant that is read last has the newest records: more are read on the way than are held."""
    for number in range(24):
        settle(books, numbered(Settled(f"t{23 - number:02}"), 250, 1000 * number))
    expected = [request_id for _, request_id in sorted(times(books), reverse=True)]
    assert (expected, 6) == ids(gateway, f"{JULY}&order=desc")
    assert ([], 2) == ids(gateway, f"{JULY}&order=desc&key=nobody")


def test_records_of_one_moment_have_one_order(gateway: Gateway, books: "redis.Redis") -> None:
    for tenant in "acb":
        settle(books, [Settled(tenant)])
        books.delete(name := f"ig3:{{{tenant}}}:ledger:{TODAY:%Y%m%d}")
        for number in range(3):
            fields = {name: str(value) for name, value in Settled(request_id=f"{tenant}{number}").fields().items()}
            books.xadd(name, fields, f"5-{number}")  # type: ignore[arg-type] # as settle
    pages = [get(gateway, f"{JULY}&order=desc&limit=1")]
    while cursor := pages[-1]["next_cursor"]:
        pages.append(get(gateway, f"cursor={cursor}&limit=1"))
    found = [page["data"][0]["request_id"] for page in pages]
    assert [f"{tenant}{number}" for number in (2, 1, 0) for tenant in "cba"] == found


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_records_are_filtered_exactly(gateway: Gateway, books: "redis.Redis", order: str) -> None:
    settle(books, numbered(Settled(), 300))
    rare = Settled(tenant="b", key="k2", model="m2", outcome="lost", request_id="rare")
    settle(books, [rare, replace(rare, key="key1"), replace(rare, model="image-01"), Settled(request_id="late")])
    expected = {
        "request_id=rare": 3,
        "key=k2": 2,
        "model=m2": 2,
        "outcome=lost": 3,
        "key=k2&model=m2&outcome=lost&request_id=rare": 1,
        "outcome=delivered": 301,
        "key=K2": 0,
    }
    for query, count in expected.items():
        for limit in (1, 1000) if count < 300 else (200,):
            selection = f"{JULY}&order={order}&{query}&limit={limit}"
            assert count == len(ids(gateway, selection)[0]), query
            assert get(gateway, selection)["total"] is None


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_that_has_read_its_most_continues(gateway: Gateway, books: "redis.Redis", order: str) -> None:
    settle(books, numbered(Settled(), 5_300))
    settle(books, [Settled(day=TODAY + timedelta(days=days), request_id="wanted") for days in (-1, 1)])
    first = get(gateway, f"{JULY}&order={order}&request_id=wanted")
    assert 1 == len(first["data"])
    assert first["next_cursor"]
    assert (["wanted"] * 2, 2) == ids(gateway, f"{JULY}&order={order}&request_id=wanted")


def test_a_cursor_continues_only_its_own_filter_and_order(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, numbered(Settled(), 3))
    cursor = get(gateway, f"{JULY}&order=desc&key=key1&limit=1")["next_cursor"]
    same = get(gateway, f"{JULY}&order=desc&key=key1&cursor={cursor}")
    assert ["req_1", "req_0"] == [record["request_id"] for record in same["data"]]
    for query in ("order=asc", "key=k2", "model=image-01", "outcome=lost", "request_id=req_0"):
        assert "cursor" == get(gateway, f"{query}&cursor={cursor}", status=400)["error"]["param"]
    for query, param in (("order=newest", "order"), ("outcome=made", "outcome"), ("key=", "key"), ("user=a", "user")):
        assert param == get(gateway, query, status=400)["error"]["param"]


def test_the_records_of_one_request_are_searched_on_the_last_two_days(gateway: Gateway, books: "redis.Redis") -> None:
    today = datetime.fromtimestamp(time.time(), UTC).date()
    settle(books, [Settled(day=date(2026, 7, 1), request_id="old"), Settled(day=today, request_id="new")])
    settle(books, [Settled(tenant="b", day=today, request_id="new")])
    page = get(gateway, "", "/new")
    conform(page, {"$ref": "#/components/schemas/UsageRecords"}, "UsageRecords")
    assert (["acme", "b"], None) == ([record["tenant"] for record in page["data"]], page["next_cursor"])
    assert 1 == len(get(gateway, "tenant=b", "/new")["data"])
    message = get(gateway, "", "/old", 404)["error"]["message"]
    assert "'from' and 'to'" in message
    assert 1 == len(get(gateway, JULY, "/old")["data"])
    assert "request_id" == get(gateway, "request_id=new", "/new", 400)["error"]["param"]
