"""`GET /v1/usage`: what a tenant's key may use, has used and has left."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from tests.support.bookkeeping import Settled, know, settle
from tests.support.harness import Gateway, MakeGateway, new_key
from tests.support.openapi import conform

ZERO = {"requests": 0, "asked": 0, "images": 0, "withheld": 0, "lost": 0, "unconfirmed": 0, "usd": "0.00"}


def usage(gateway: Gateway, key: str, query: str = "") -> dict[str, Any]:
    answer = gateway.get(f"/v1/usage{query}", authorization=f"Bearer {key}")
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    conform(found, {"$ref": "#/components/schemas/OwnUsage"}, "OwnUsage")
    return found


def generate(gateway: Gateway, key: str, count: int) -> None:
    sent = {"authorization": f"Bearer {key}"}
    assert 200 == gateway.post("/v1/images/generations", {"prompt": "x", "n": count}, **sent).status_code


def test_a_key_sees_the_limits_and_what_is_left_of_its_tenant_and_of_itself(gateway: Gateway) -> None:
    limits, quotas = {"images_per_minute": 20, "concurrency": 4}, {"usd_per_month": "1", "soft_usd_per_month": "0.5"}
    other = new_key(gateway.url, "team", limits=limits, quotas=quotas)
    made = gateway.admin(
        "POST",
        "/tenants/team/keys",
        {"label": "web", "limits": {"requests_per_minute": 9}, "quotas": {"images_per_day": 5}},
    ).json()
    generate(gateway, other, 3)
    generate(gateway, made["key"], 2)
    found = usage(gateway, made["key"])
    tenant, key = found["tenant"], found["key"]
    frees_at = tenant["limits"]["images_per_minute"].pop("resets_at")
    assert 0 < datetime.fromisoformat(frees_at).timestamp() - time.time() <= 62
    assert {"limit": 20, "used": 5, "remaining": 15} == tenant["limits"]["images_per_minute"]
    assert {"limit": 4, "used": 0, "remaining": 4, "resets_at": None} == tenant["limits"]["concurrency"]
    month = tenant["quotas"]["usd_per_month"].pop("resets_at")
    assert month == tenant["budgets"]["soft_usd_per_month"].pop("resets_at")
    assert month.endswith("-01T00:00:00Z")
    assert {"usd_per_month": {"limit": "1.00", "used": "0.0175", "remaining": "0.9825"}} == tenant["quotas"]
    assert {"soft_usd_per_month": {"limit": "0.50", "used": "0.0175", "remaining": "0.4825"}} == tenant["budgets"]
    assert (5, "0.0175", 2) == tuple(
        tenant["used"][name] for name in ("images_today", "usd_this_month", "requests_last_minute")
    )
    assert (made["id"], "web", "") == (key["id"], key["label"], key["role"])
    assert {"limit": 5, "used": 2, "remaining": 3} | key["quotas"]["images_per_day"] == key["quotas"]["images_per_day"]
    assert (9, 1, 8) == tuple(key["limits"]["requests_per_minute"][name] for name in ("limit", "used", "remaining"))
    assert (2, {}) == (key["used"]["images_today"], key["budgets"])
    [row] = found["data"]
    assert ("image-01", 2, 5, "0.0175") == (row["model"], row["requests"], row["images"], row["usd"])
    assert ZERO | {"requests": 1, "asked": 2, "images": 2, "usd": "0.007"} == row["key"] == found["total"]["key"]
    assert row | found["total"] == row


def test_the_answer_costs_no_request_of_the_minute_and_has_the_headers(gateway: Gateway) -> None:
    key = new_key(gateway.url, "team", limits={"requests_per_minute": 3}, quotas={"images_per_month": 10})
    for _ in range(5):
        answer = gateway.get("/v1/usage", authorization=f"Bearer {key}")
        assert ("3", "10") == tuple(
            answer.headers[name] for name in ("x-ratelimit-remaining-requests", "x-imagegate-quota-remaining-images")
        )


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def test_nothing_of_another_key_is_shown_but_its_part_of_the_totals(gateway: Gateway, books: "redis.Redis") -> None:
    """Of days of the past, by day and model."""
    [own] = [key["id"] for key in gateway.admin("GET", "/tenants/acme/keys").json()["data"]]
    know(books, "acme", "globex")
    rows = (
        ("acme", own, "image-01", 1),
        ("acme", "other00000", "image-01", 1),
        ("acme", "other00000", "image-02", 1),
        ("acme", own, "image-01", 2),
        ("acme", "other00000", "image-01", 3),
        ("acme", own, "image-01", 9),
        ("globex", "else000000", "image-01", 2),
    )
    settle(
        books,
        [
            Settled(tenant, date(2026, 7, day), key, model, reservation=f"t{number}", request_id=f"req_{number}")
            for number, (tenant, key, model, day) in enumerate(rows)
        ],
    )
    found = usage(gateway, gateway.api_key, "?from=2026-07-01&to=2026-07-03")
    assert [
        ("2026-07-01", "image-01", 2, 1),
        ("2026-07-01", "image-02", 1, 0),
        ("2026-07-02", "image-01", 1, 1),
        ("2026-07-03", "image-01", 1, 0),
    ] == [(row["day"], row["model"], row["requests"], row["key"]["requests"]) for row in found["data"]]
    assert (5, 2) == (found["total"]["requests"], found["total"]["key"]["requests"])
    assert "other00000" not in str(found)
    assert "upstream" not in str(found)


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-07-02&to=2026-07-01",
        "from=2026-04-01&to=2026-07-02",
        "from=yesterday",
        "from=",
        "by=key",
        "tenant=globex",
    ],
)
def test_a_question_of_too_many_days_or_another_kind_is_refused(gateway: Gateway, query: str) -> None:
    answer = gateway.get(f"/v1/usage?{query}")
    assert (400, query.partition("=")[0]) == (answer.status_code, answer.json()["error"]["param"])


def test_days_and_quotas_are_those_of_the_time_zone_less_what_was_credited(make_gateway: MakeGateway) -> None:
    """Kiritimati is 14 hours ahead of UTC, without summer time."""
    gateway, zone = make_gateway(metering={"time_zone": "Pacific/Kiritimati"}), ZoneInfo("Pacific/Kiritimati")
    key = new_key(gateway.url, "team", quotas={"images_per_day": 5, "images_per_month": 9})
    today = datetime.now(zone).date()
    generate(gateway, key, 4)
    gateway.admin("POST", "/tenants/team/credit", {"images": 3, "reason": "outage"})
    found = usage(gateway, key, "?last=2d")
    if today == datetime.now(zone).date():
        quotas = found["tenant"]["quotas"]
        day, month = quotas["images_per_day"], quotas["images_per_month"]
        assert f"{today}T10:00:00Z" == day.pop("resets_at")
        assert "T10:00:00Z" == month.pop("resets_at")[10:]
        assert ({"limit": 5, "used": 1, "remaining": 4}, {"limit": 9, "used": 1, "remaining": 8}) == (day, month)
        assert (str(today - timedelta(1)), str(today)) == (found["from"], found["to"])
        assert [(str(today), 4)] == [(row["day"], row["images"]) for row in found["data"]]
    assert "Pacific/Kiritimati" == found["time_zone"]


def test_the_default_is_this_month_and_92_days_are_the_most(gateway: Gateway) -> None:
    today = datetime.now(UTC).date()
    found = usage(gateway, gateway.api_key)
    assert found["from"] in {f"{today:%Y-%m}-01", f"{today + timedelta(1):%Y-%m}-01"}
    assert ([], ZERO | {"key": ZERO}) == (found["data"], found["total"])
    assert "2026-04-02" == usage(gateway, gateway.api_key, "?from=2026-04-02&to=2026-07-02")["from"]


def test_reading_a_long_ledger_counts_as_many_reads(gateway: Gateway, books: "redis.Redis") -> None:
    """Ten days of 2,500 keys take as long as 250 reads."""
    know(books, "acme")
    for day in range(1, 11):
        name = f"202607{day:02}"
        books.hset(
            f"ig3:{{acme}}:sums:{name}", mapping={f"k{number:09}|requests|image-01": 1 for number in range(2500)}
        )
        books.zadd("ig3:{acme}:days", {name: int(name)})
    answer = gateway.get("/v1/usage?from=2026-07-01&to=2026-07-10")
    assert (200, 25_000) == (answer.status_code, answer.json()["total"]["requests"])
    refused = gateway.get("/v1/usage")
    assert 429 == refused.status_code
    assert "reads of files, batches, keys and usage of tenant 'acme': limit 20 per second" in refused.text
    assert 200 == gateway.generate(prompt="x").status_code


def test_few_reports_of_a_tenant_run_at_the_same_time(gateway: Gateway, books: "redis.Redis") -> None:
    """Each is counted when it has been read: many that begin together are refused."""
    know(books, "acme")
    for day in range(1, 6):
        name = f"202607{day:02}"
        books.hset(f"ig3:{{acme}}:sums:{name}", mapping={f"k{number:09}|requests|m": 1 for number in range(1000)})
        books.zadd("ig3:{acme}:days", {name: int(name)})
    with ThreadPoolExecutor(20) as pool:
        query = "/v1/usage?from=2026-07-01&to=2026-07-05"
        answers = list(pool.map(lambda _: gateway.get(query), range(20)))
    assert {200, 429} == {answer.status_code for answer in answers}
    refused = {answer.json()["error"]["message"] for answer in answers if answer.status_code == 429}
    assert (
        "Rate limit reached for concurrent reports of usage of tenant 'acme': limit 4. Please try again in 1 s."
        in refused
    )
