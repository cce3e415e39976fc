"""Exports of usage, and month closes, as the admin API serves them."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import date
from typing import Any, Final

import httpx
import pytest
import redis

from tests.support.bookkeeping import Settled, numbered, settle
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway
from tests.support.openapi import conform

JULY: Final = "from=2026-07-01&to=2026-07-31"


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def export(gateway: Gateway, query: str, **headers: str) -> httpx.Response:
    headers |= {"authorization": f"Bearer {ADMIN_KEY}"}
    return httpx.get(f"{gateway.url}/admin/v1/usage/export?{query}", headers=headers, timeout=60)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["message"]


def test_a_csv_export_is_the_report_with_its_lines_and_digest(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(), 3), Settled(tenant="b", model="=1+1,x", usd_micros=12_345_678_900_001)])
    response = export(gateway, f"{JULY}&by=tenant,model")
    expected = (
        "tenant,model,requests,asked,images,withheld,lost,unconfirmed,usd\r\n"
        "acme,image-01,3,3,3,0,0,0,0.0105\r\n"
        'b,"\'=1+1,x",1,1,1,0,0,0,12345678.900001\r\n'
    )
    assert (200, expected) == (response.status_code, response.content.decode())
    etag = f'"{hashlib.sha256(response.content).hexdigest()}"'
    name = 'attachment; filename="imagegate_usage_2026-07-01_2026-07-31_by-tenant-model.csv"'
    shown = ("etag", "x-imagegate-lines", "content-length", "content-disposition", "content-type")
    assert [etag, "3", str(len(expected)), name, "text/csv; charset=utf-8; header=present"] == [
        response.headers[header] for header in shown
    ]
    again = export(gateway, f"{JULY}&by=tenant,model", **{"if-none-match": etag})
    assert (304, b"", etag) == (again.status_code, again.content, again.headers["etag"])
    with_bom = export(gateway, f"{JULY}&by=tenant,model&bom=true").content
    assert b"\xef\xbb\xbf" + response.content == with_bom
    assert 2 == export(gateway, f"{JULY}&by=tenant&tenant=acme").text.count("\r\n")


def test_json_lines_are_the_records(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(model="图\x7f\u202e\n"), 1100), Settled(tenant="b")])
    response = export(gateway, f"{JULY}&format=jsonl")
    assert ("1101", 1101) == (response.headers["x-imagegate-lines"], response.text.count("\n"))
    records = [json.loads(line) for line in response.text.splitlines()]
    assert records[:1000] == gateway.admin("GET", f"/usage/records?{JULY}").json()["data"]
    assert response.text.replace("\n", "").isprintable()


def test_a_focus_export_is_served_and_has_its_sum(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(), 2), Settled(tenant="b", model="-1+x")])
    response = export(gateway, f"{JULY}&format=focus")
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [("acme", "0.007", "image-01"), ("b", "0.0035", "'-1+x")] == [
        (row["SubAccountId"], row["BilledCost"], row["SkuId"]) for row in rows
    ]
    assert 'filename="imagegate_focus_2026-07-01_2026-07-31.csv"' in response.headers["content-disposition"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("format=xlsx", "Invalid value: 'xlsx'. Supported values are: 'csv', 'jsonl', and 'focus'."),
        ("from=2026-13-01", "expected a day, YYYY-MM-DD, as 2026-01-31, but got '2026-13-01'."),
        ("format=focus&by=day", "format=focus has every request's own. Use it with format=csv."),
        ("format=jsonl&by=key", "format=jsonl has every request's own. Use it with format=csv."),
        ("format=jsonl&bom=true", "JSON Lines have no byte order mark. Use it with format=csv or format=focus."),
        ("bom=1", "expected true or false."),
        ("by=minute", "Invalid value: 'minute'."),
        ("cursor=x", "Unknown parameter: 'cursor'."),
        ("limit=1", "Unknown parameter: 'limit'."),
    ],
)
def test_a_wrong_export_is_refused_before_a_byte_is_sent(gateway: Gateway, query: str, message: str) -> None:
    status, told = refusal(export(gateway, query))
    assert 400 == status
    assert message in told


def test_an_unknown_tenant_and_records_that_are_gone_are_refused(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [Settled()])
    books.delete("ig3:{acme}:ledger:20260728")
    assert 404 == refusal(export(gateway, f"{JULY}&tenant=nobody"))[0]
    status, told = refusal(export(gateway, f"{JULY}&format=focus"))
    assert 409 == status
    assert (
        "The records of tenant 'acme' on 2026-07-28 are gone. Export CSV by day, which needs the totals alone." == told
    )


def test_files_of_exports_have_a_limit_and_are_released(make_gateway: MakeGateway, books: "redis.Redis") -> None:
    gateway = make_gateway(server={"max_spooled_bytes": 2000})
    settle(books, numbered(Settled(), 8))
    status, told = refusal(export(gateway, f"{JULY}&format=jsonl"))
    expected = (
        "with this file, exports exceed [server] max_spooled_bytes, 2000 bytes. Select fewer days, or one tenant."
    )
    assert (400, f"Invalid value for 'from': {expected}") == (status, told)
    for _ in range(20):
        assert 200 == export(gateway, f"{JULY}&by=model").status_code


def close(gateway: Gateway, **body: object) -> httpx.Response:
    return gateway.admin("POST", "/usage/closings", body)


def test_a_closed_month_has_the_digests_of_its_exports(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [*numbered(Settled(day=date(2025, 11, 3)), 2), Settled(tenant="b", day=date(2025, 11, 30))])
    dry = close(gateway, month="2025-11", dry_run=True)
    assert (200, 0) == (dry.status_code, dry.json()["closed_at"])
    done = close(gateway, month="2025-11")
    closing: dict[str, Any] = done.json()
    assert (201, 2, 3, "0.0105") == (
        done.status_code,
        closing["tenants"],
        closing["records"],
        closing["total"]["usd"],
    )
    conform(closing, {"$ref": "#/components/schemas/UsageClosing"}, "closing")
    month = "month=2025-11"
    for name, query in (("focus_sha256", "format=focus"), ("csv_sha256", "by=day,tenant,model,key")):
        assert f'"{closing[name]}"' == export(gateway, f"{month}&{query}").headers["etag"]
    assert {"data": [closing]} == gateway.admin("GET", "/usage/closings").json()
    entries = gateway.admin("GET", "/audit").json()["data"]
    assert [("usage.close", "acme"), ("usage.close", "b")] == sorted(
        (one["action"], one["tenant"]) for one in entries if one["action"] == "usage.close"
    )
    status, told = refusal(close(gateway, month="2025-11"))
    assert (409, True) == (status, told.startswith("2025-11 is closed since "))
    assert 409 == refusal(close(gateway, month="2025-11", dry_run=True))[0]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"month": "2026-13"}, 400, "expected a month, YYYY-MM, as 2026-01, but got '2026-13'."),
        ({"month": "2999-01"}, 409, "2999-01 is not over: it can be closed from 2999-02-01T01:00:00Z."),
        ({"month": 7}, 400, "month: Expected"),
        ({}, 400, "month"),
        ({"month": "2026-01", "force": True}, 400, "force"),
    ],
)
def test_a_wrong_close_says_what_is_expected(
    gateway: Gateway, body: dict[str, object], status: int, message: str
) -> None:
    told = refusal(close(gateway, **body))
    assert status == told[0]
    assert message in told[1]
