"""The overview of the admin API: exact spend, capacity, and what needs attention."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import redis

from gateway.domain.errors import ERROR_SPECS, Scope
from gateway.domain.errors.faults import FAULTS, fault_of
from tests.support.bookkeeping import Settled, numbered, settle
from tests.support.commands import run
from tests.support.console import person
from tests.support.harness import ADMIN_KEY, Gateway, wait_until
from tests.support.openapi import SCHEMAS, conform

DAY_S = 86_400


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def overview(gateway: Gateway) -> dict[str, Any]:
    answer = gateway.admin("GET", "/overview")
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    conform(found, SCHEMAS["Overview"], "Overview")
    return found


def test_the_spend_is_the_sum_of_all_tenants_by_day(gateway: Gateway, books: "redis.Redis") -> None:
    today = datetime.now(UTC).date()
    same_day = min(today.day, (today.replace(day=1) - timedelta(days=1)).day)
    previous = (today.replace(day=1) - timedelta(days=1)).replace(day=same_day)
    days = [today, today - timedelta(days=1), today - timedelta(days=29), today - timedelta(days=30), previous]
    for tenant in ("a", "b"):
        for at, day in enumerate(sorted(set(days))):
            settle(books, numbered(Settled(tenant=tenant, day=day), 3, 10 * at))
    found = overview(gateway)
    assert {"usd": "0.021", "images": 6, "requests": 6} == found["today"]
    shown = [date.fromisoformat(row["day"]) for row in found["days"]]
    assert [today - timedelta(days=29 - number) for number in range(30)] == shown
    assert {"0.021" if day in days else "0.00" for day in shown} == {row["usd"] for row in found["days"]}
    assert [day in days for day in shown] == [row["usd"] == "0.021" for row in found["days"]]
    in_month = [day for day in set(days) if (day.year, day.month) == (today.year, today.month)]
    before = [day for day in set(days) if (day.year, day.month) == (previous.year, previous.month) and day <= previous]
    assert 6 * len(in_month) == found["month"]["images"]
    assert f"{0.021 * len(before):.3f}" == f"{float(found['month']['previous_usd_same_days']):.3f}"


def test_what_is_out_of_rotation_or_expires_is_named(gateway: Gateway) -> None:
    assert [] == overview(gateway)["resting"]
    soon = int(time.time()) + 3 * DAY_S
    keys = [
        gateway.admin("POST", "/tenants/acme/keys", {"label": str(days), "expires_at": soon + days * DAY_S}).json()[
            "id"
        ]
        for days in (2, 0, 30)
    ]
    gateway.admin("PATCH", "/pool/sim/main/main-1", {"state": "disabled"})
    wait_until(lambda: bool(overview(gateway)["resting"]), "the first reading is too old")
    found = overview(gateway)
    [row] = [row for row in found["resting"] if row["key"]]
    assert ("sim", "main", "main-1", "disabled", "admin", None) == tuple(
        row[name] for name in ("upstream", "account", "key", "state", "held_by", "fault")
    )
    assert len(found["resting"]) == found["resting_total"]
    assert [keys[1], keys[0]] == [key["id"] for key in found["expiring_keys"]]
    assert [("sim", 1, 0, 0)] == [
        (row["upstream"], row["accounts"], row["with_room"], row["requests_free"]) for row in found["pool"]
    ]
    assert [] == found["certificates"]
    assert [("sim", 0, 0, None)] == [tuple(row.values()) for row in found["queue"]]
    printed = run("overview", "--url", gateway.url, "--admin-key", ADMIN_KEY)
    assert 0 == printed.returncode
    assert "sim/main/main-1" in printed.stdout
    assert keys[1] in printed.stdout


@pytest.mark.shares_gateway
def test_finance_sees_the_money_and_a_viewer_everything(gateway: Gateway) -> None:
    money = person(gateway.url, "finance").get("/admin/v1/overview").json()
    assert {"at", "today", "month", "days"} == set(money)
    assert set(SCHEMAS["Overview"]["properties"]) == set(person(gateway.url, "viewer").get("/admin/v1/overview").json())


def test_every_error_with_a_scope_has_words_for_operators() -> None:
    assert {code for code, spec in ERROR_SPECS.items() if spec.scope is not Scope.NOTHING} == set(FAULTS)
    assert fault_of("key_invalid") != fault_of("of_another_version") is None
