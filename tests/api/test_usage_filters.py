"""Usage of some requests: by model, key and tag, and by the hour; in reports and in files alike."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import httpx
import pytest
import redis

from tests.support.bookkeeping import TODAY, Settled, numbered, settle
from tests.support.harness import Gateway, MakeGateway
from tests.support.openapi import conform

DAYS: Final = f"from={TODAY - timedelta(days=6)}&to={TODAY}"
NOON_MS: Final = int(datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC).timestamp()) * 1000
HOUR_MS: Final = 3_600_000


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def tagging(make_gateway: MakeGateway, books: "redis.Redis") -> Gateway:
    """A gateway with usage of two keys, two models and two tags."""
    prod, other = '{"env":"prod"}', '{"env":"rare"}'
    settle(books, numbered(Settled(tags=prod, summed="tag:env"), 3))
    settle(books, numbered(Settled(key="key2", tags=prod, summed="tag:env", usd_micros=10), 2, first=3))
    settle(books, [Settled(key="key2", model="b|c", tenant="b", day=TODAY - timedelta(days=1), usd_micros=7)])
    settle(books, [Settled(model="b|c", tags=other, summed="tag:env=_other", usd_micros=100)])
    settle(books, [Settled(tags=prod, usd_micros=1000)])  # of an earlier version: in no sum of tags
    return make_gateway(attribution={"keys": ["env"]})


def ask(gateway: Gateway, query: str, path: str = "/usage") -> httpx.Response:
    response = gateway.admin("GET", f"{path}?{query}")
    assert 200 == response.status_code, response.text
    return response


def report(gateway: Gateway, query: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(gateway, query).json()
    conform(found, {"$ref": "#/components/schemas/UsageReport"}, "UsageReport")
    return found


def refusal(gateway: Gateway, query: str, path: str = "/usage") -> tuple[int, str, str]:
    response = gateway.admin("GET", f"{path}?{query}")
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize(
    ("wanted", "requests", "usd"),
    [
        ("", 8, "0.011627"),
        ("key=key2", 3, "0.000027"),
        ("model=image-01", 6, "0.01152"),
        ("key=key2&model=b%7Cc", 1, "0.000007"),
        ("tag=env=prod", 5, "0.01052"),
        ("tag=env=_other", 1, "0.0001"),
        ("tag=env=prod&key=key2&tenant=acme", 2, "0.00002"),
        ("tag=env=rare", 0, "0.00"),
        ("key=nobody", 0, "0.00"),
    ],
)
def test_a_filter_holds_for_rows_totals_and_every_file(tagging: Gateway, wanted: str, requests: int, usd: str) -> None:
    query = f"{DAYS}&{wanted}"
    pages = [report(tagging, f"{query}&by=key,model&limit=1")]
    while cursor := pages[-1]["next_cursor"]:
        pages.append(report(tagging, f"cursor={cursor}"))
    assert [(requests, usd)] * len(pages) == [(page["total"]["requests"], page["total"]["usd"]) for page in pages]
    assert requests == sum(row["requests"] for page in pages for row in page["data"])
    rows = list(csv.DictReader(io.StringIO(ask(tagging, f"{query}&by=model", "/usage/export").text, newline="")))
    assert (requests, Decimal(usd)) == (sum(int(row["requests"]) for row in rows), total(rows, "usd"))
    records = [json.loads(line) for line in ask(tagging, f"{query}&format=jsonl", "/usage/export").text.splitlines()]
    assert (requests, Decimal(usd)) == (len(records), total(records, "usd"))
    charges = list(csv.DictReader(io.StringIO(ask(tagging, f"{query}&format=focus", "/usage/export").text, newline="")))
    assert (requests, Decimal(usd)) == (sum(int(row["x_Requests"]) for row in charges), total(charges, "BilledCost"))


def total(rows: list[dict[str, Any]], column: str) -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal(0))


def test_a_filter_holds_for_the_period_before_and_for_a_whole_page_sequence(tagging: Gateway) -> None:
    compared = report(tagging, f"from={TODAY}&to={TODAY}&key=key2&compare=previous")
    assert (2, 1) == (compared["total"]["requests"], compared["previous"]["total"]["requests"])
    cursor = report(tagging, f"{DAYS}&by=key&limit=1&model=image-01")["next_cursor"]
    for name, value in (("model", "b"), ("key", "key1"), ("tag", "env=prod")):
        status, param, told = refusal(tagging, f"cursor={cursor}&{name}={value}")
        assert (400, "cursor") == (status, param)
        assert f"another '{name}'" in told
    status, param, told = refusal(tagging, "format=jsonl&tag=env", "/usage/export")
    assert (400, "tag", "Use KEY=VALUE, or format=csv.") == (status, param, told[-29:])


def test_usage_by_hour_adds_up_to_usage_by_day(gateway: Gateway, books: "redis.Redis") -> None:
    hours = [Settled(key=f"k{hour % 2}", admitted_ms=NOON_MS + hour * HOUR_MS, usd_micros=hour) for hour in range(5)]
    settle(
        books, [*hours, *hours, Settled(tenant="b", admitted_ms=NOON_MS - 1), Settled(day=TODAY - timedelta(days=1))]
    )
    found = report(gateway, f"{DAYS}&by=hour")
    expected = [(f"{TODAY - timedelta(days=1)}T12:00Z", 1), (f"{TODAY}T11:00Z", 1)]
    expected += [(f"{TODAY}T{hour}:00Z", 2) for hour in range(12, 17)]
    assert expected == [(row["hour"], row["requests"]) for row in found["data"]]
    assert report(gateway, f"{DAYS}&by=day")["total"] == found["total"]
    pages = [report(gateway, f"{DAYS}&by=tenant,hour&key=k1&limit=1")]
    pages.append(report(gateway, f"cursor={pages[0]['next_cursor']}"))
    rows = [row for page in pages for row in page["data"]]
    assert [("acme", f"{TODAY}T13:00Z"), ("acme", f"{TODAY}T15:00Z")] == [(row["tenant"], row["hour"]) for row in rows]
    assert [4, 4, None] == [*(page["total"]["requests"] for page in pages), pages[1]["next_cursor"]]
    lines = ask(gateway, f"{DAYS}&by=hour,key&tenant=b", "/usage/export").text.splitlines()
    assert [f"{TODAY}T11:00Z,key1,1,1,1,0,0,0,0.0035"] == lines[1:]


def test_usage_by_hour_needs_few_days_and_their_records(gateway: Gateway, books: "redis.Redis") -> None:
    for path in ("/usage", "/usage/export"):
        status, param, told = refusal(gateway, "from=2026-07-01&to=2026-07-08&by=hour", path)
        assert (400, "from") == (status, param)
        assert "expected at most 7 days" in told
    assert 400 == gateway.admin("GET", f"/usage?{DAYS}&by=hour,user").status_code
    settle(books, [Settled()])
    books.delete(f"ig3:{{acme}}:ledger:{TODAY:%Y%m%d}")
    status, _, told = refusal(gateway, f"{DAYS}&by=hour")
    assert (409, True) == (status, "are gone" in told)


def test_rows_by_key_have_its_label(gateway: Gateway, books: "redis.Redis") -> None:
    made = [gateway.admin("POST", "/tenants/acme/keys", {"label": label}).json() for label in ("web", "old", "")]
    settle(books, [Settled(key=key["id"]) for key in made])
    gateway.admin("DELETE", f"/keys/{made[1]['id']}")
    found = report(gateway, f"{DAYS}&by=tenant,key")
    labels = {row["key"]: row["label"] for row in found["data"]}
    assert {made[0]["id"]: "web", made[1]["id"]: None, made[2]["id"]: ""} == labels
    assert ["tenant", "key"] == found["by"]
    assert "label" not in report(gateway, f"{DAYS}&by=tenant")["data"][0]
