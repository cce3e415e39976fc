"""Who changed what, as the admin API tells it."""

import time
from typing import Any

import httpx
import pytest
import redis

from tests.support.harness import ADMIN_KEY, Gateway


def audit(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.admin("GET", f"/audit{query}").json()["data"]
    return found


def test_every_change_is_told_with_what_was_and_what_is(gateway: Gateway) -> None:
    tenant = gateway.admin("POST", "/tenants", {"name": "shop", "limits": {"concurrency": 1}}).json()
    changed = gateway.admin("PATCH", "/tenants/shop", {"limits": {"concurrency": 2}}).json()
    key = gateway.admin("POST", "/tenants/shop/keys", {"label": "web"}).json()
    del key["key"], key["last_used_at"]
    gateway.admin("POST", f"/keys/{key['id']}/rotate")
    gateway.admin("PATCH", f"/keys/{key['id']}", {"label": "app"})
    gateway.admin("DELETE", f"/keys/{key['id']}")
    disabled = gateway.admin("DELETE", "/tenants/shop").json()
    entries = audit(gateway, "?tenant=shop")[::-1]
    assert [
        ("tenant.create", None, None, tenant),
        ("tenant.update", None, tenant, changed),
        ("key.create", key["id"], None, key),
    ] == [tuple(entry[name] for name in ("action", "key_id", "before", "after")) for entry in entries[:3]]
    assert ["key.rotate", "key.update", "key.revoke", "tenant.disable"] == [entry["action"] for entry in entries[3:]]
    until = {"old_secret_until": entries[3]["after"]["old_secret_until"]}
    assert (key, key | until) == (entries[3]["before"], entries[3]["after"])
    assert (key | until | {"label": "app"}, None) == (entries[5]["before"], entries[5]["after"])
    assert (changed, disabled) == (entries[6]["before"], entries[6]["after"])
    assert abs(entries[3]["after"]["old_secret_until"] - time.time() - 86_400) < 60


def test_an_entry_has_the_request_that_made_it(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "x-request-id": "deploy-42"}
    httpx.post(f"{gateway.url}/admin/v1/tenants", json={"name": "shop"}, headers=headers)
    [entry] = audit(gateway, "?tenant=shop")
    assert {"at", "actor", "action", "tenant", "key_id", "target", "before", "after", "request_id"} == set(entry)
    assert ("admin", "deploy-42", "shop") == (entry["actor"], entry["request_id"], entry["tenant"])
    assert abs(time.time() - entry["at"]) < 60


def test_what_changes_nothing_and_what_is_refused_is_not_told(gateway: Gateway) -> None:
    before = audit(gateway)
    gateway.admin("PATCH", "/tenants/acme", {})
    gateway.admin("PATCH", "/tenants/acme", {"disabled": False, "limits": {}})
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"concurrency": -1}})
    gateway.admin("POST", "/tenants", {"name": "acme"})
    gateway.admin("DELETE", "/keys/0123456789")
    assert before == audit(gateway)


def test_the_list_is_paged(gateway: Gateway) -> None:
    for number in range(5):
        gateway.admin("POST", "/tenants", {"name": f"tenant-{number}"})
    whole = audit(gateway)
    found: list[dict[str, Any]] = []
    query = "?limit=2"
    while True:
        page = gateway.admin("GET", f"/audit{query}").json()
        assert len(page["data"]) <= 2
        found += page["data"]
        if page["next"] is None:
            break
        query = f"?limit=2&before={page['next']}"
    assert whole == found
    assert 7 == len(whole)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=1001", 400, "limit"),
        ("limit=x", 400, "limit"),
        ("limit=-1", 400, "limit"),
        ("limit=" + "9" * 5000, 400, "limit"),
        ("before=yesterday", 400, "before"),
        ("before=%00", 400, "before"),
        ("colour=red", 400, "colour"),
        ("tenant=nobody", 404, None),
        ("tenant=%7Bacme%7D", 404, None),
        ("limit=", 400, "limit"),
        ("tenant=", 400, "tenant"),
        ("upstream=", 400, "upstream"),
        ("before", 400, "before"),
        ("limit=1&limit=2", 400, "limit"),
        ("limit=1&limit=1", 400, "limit"),
        ("tenant=acme&tenant=", 400, "tenant"),
        ("colour=red&colour=blue", 400, "colour"),
        ("before=9999999999999999999-0@acme", 200, None),
        ("before=99999999999999999999-0@acme", 400, "before"),
        ("before=0-0@acme", 400, "before"),
        ("before=0-1@acme", 200, None),
    ],
)
def test_a_query_is_taken_or_refused_by_name(gateway: Gateway, query: str, status: int, param: str | None) -> None:
    answer = gateway.admin("GET", f"/audit?{query}")
    assert status == answer.status_code, answer.text
    assert param == answer.json().get("error", {}).get("param")


def test_no_secret_is_in_the_audit_nor_in_the_stream(gateway: Gateway, redis_url: str) -> None:
    made = gateway.admin("POST", "/tenants/acme/keys", {"label": "web"}).json()
    rotated = gateway.admin("POST", f"/keys/{made['id']}/rotate").json()
    gateway.admin("PATCH", f"/keys/{made['id']}", {"label": "app"})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        records = str(client.hgetall("ig3:{acme}:keys"))
        stream = str(client.xrange("ig3:{acme}:audit"))
        pepper = str(client.get("ig3:pepper"))
    gateway.admin("DELETE", f"/keys/{made['id']}")
    hashes = [word for word in records.split('"') if len(word) == 64]
    hidden = [made["key"][16:], rotated["key"][16:], gateway.api_key[16:], ADMIN_KEY, pepper, *hashes]
    told = stream + gateway.admin("GET", "/audit").text
    assert 3 == len(hashes)
    assert [] == [secret for secret in hidden if secret in told]


def test_entries_are_filtered_by_actor_action_and_day(gateway: Gateway) -> None:
    for number in range(3):
        gateway.admin("POST", "/tenants", {"name": f"tenant-{number}"})
    gateway.admin("PATCH", "/tenants/tenant-1", {"weight": 2})
    whole, today = audit(gateway), time.strftime("%Y-%m-%d", time.gmtime())
    created = [entry for entry in whole if entry["action"] == "tenant.create" and entry["actor"] == "admin"]
    assert ["tenant-2", "tenant-1", "tenant-0"] == [entry["tenant"] for entry in created][:3]
    assert len(created) < len(whole)
    assert created == audit(gateway, "?action=tenant.create&actor=admin")
    assert whole == audit(gateway, f"?from={today}&to={today}")
    assert [] == audit(gateway, "?to=2020-01-01") == audit(gateway, "?from=2999-01-01") == audit(gateway, "?actor=eve")
    first = gateway.admin("GET", "/audit?action=tenant.&limit=2&actor=admin").json()
    rest = audit(gateway, f"?action=tenant.&actor=admin&before={first['next']}")
    assert [entry for entry in whole if entry["action"].startswith("tenant.")] == first["data"] + rest
    refused = gateway.admin("GET", "/audit?from=2026-02-02&to=2026-02-01")
    assert (400, "from") == (refused.status_code, refused.json()["error"]["param"])
