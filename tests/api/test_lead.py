"""What a team's lead does by itself, and what it may not."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis

from gateway.api.lead import PREFIX
from tests.support.bookkeeping import Settled, settle
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, new_key
from tests.support.openapi import DESCRIBED, conform

ROUTES = [
    ("GET", ""),
    ("PATCH", ""),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("GET", "/keys/KEY"),
    ("PATCH", "/keys/KEY"),
    ("DELETE", "/keys/KEY"),
    ("POST", "/keys/KEY/rotate"),
    ("GET", "/usage"),
    ("GET", "/members"),
    ("POST", "/members"),
    ("DELETE", "/members/KEY"),
    ("GET", "/audit"),
    ("GET", "/refusals"),
    ("GET", "/requests"),
    ("GET", "/requests/KEY"),
]


class Lead:
    """A key of role `lead`, and its requests."""

    def __init__(self, gateway: Gateway, tenant: str = "team", **fields: object) -> None:
        self.gateway, self.tenant = gateway, tenant
        gateway.admin("POST", "/tenants", {"name": tenant, **fields})
        self.made: dict[str, Any] = gateway.admin("POST", f"/tenants/{tenant}/keys", {"role": "lead"}).json()
        self.id, self.key = self.made["id"], self.made["key"]

    def ask(self, method: str, path: str, body: object = None, key: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.request(method, f"{self.gateway.url}/v1/tenant{path}", json=body, headers=headers, verify=False)

    def done(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer = self.ask(method, path, body)
        assert answer.status_code in {200, 201}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str, str | None]:
        error = (answer := self.ask(method, path, body)).json()["error"]
        return answer.status_code, error["code"], error["param"]


@pytest.fixture
def lead(gateway: Gateway) -> Lead:
    return Lead(gateway, limits={"requests_per_minute": 60}, quotas={"usd_per_month": "10"})


def works(gateway: Gateway, key: str) -> bool:
    return gateway.get("/v1/models", authorization=f"Bearer {key}").status_code == 200


def test_the_routes_tested_here_are_all_that_there_are() -> None:
    described = {
        (method.upper(), path.removeprefix(PREFIX).replace("{id}", "KEY"))
        for path, item in DESCRIBED["paths"].items()
        if path.startswith(PREFIX)
        for method in item
        if method != "parameters"
    }
    assert described == set(ROUTES)


def test_a_lead_manages_the_keys_of_its_tenant(lead: Lead) -> None:
    body = {"label": "web", "limits": {"requests_per_minute": 60}, "quotas": {"usd_per_month": "9.99"}}
    made = lead.done("POST", "/keys", body)
    conform(made, {"$ref": "#/components/schemas/CreatedKey"}, "CreatedKey")
    secret, place = made.pop("key"), f"/keys/{made['id']}"
    assert works(lead.gateway, secret)
    described = lead.done("GET", place)
    assert abs(described["last_used_at"] - time.time()) < 360
    assert made | {"last_used_at": described["last_used_at"]} == described
    assert [lead.id, made["id"]] == [key["id"] for key in lead.done("GET", "/keys")["data"]]
    changed = lead.done("PATCH", place, {"label": "shop", "quotas": {"usd_per_month": "10.00"}})
    assert ("shop", {"usd_per_month": "10.00"}) == (changed["label"], changed["quotas"])
    rotated = lead.done("POST", f"{place}/rotate", {"grace_s": 0})
    assert (False, True) == (works(lead.gateway, secret), works(lead.gateway, rotated["key"]))
    assert lead.done("DELETE", place)["revoked"]
    assert not works(lead.gateway, rotated["key"])
    actors = {(entry["actor"], entry["action"], entry["key_id"]) for entry in lead.done("GET", "/audit")["data"]}
    acts = ("key.create", "key.update", "key.rotate", "key.revoke")
    assert {(f"key:{lead.id}", act, made["id"]) for act in acts} <= actors


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.shares_gateway
def test_a_plain_key_does_none_of_it(gateway: Gateway, method: str, path: str) -> None:
    [described] = gateway.admin("GET", "/tenants/acme/keys").json()["data"]
    own = path.replace("KEY", described["id"])
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    answer = httpx.request(method, f"{gateway.url}/v1/tenant{own}", headers=headers, verify=False)
    error = answer.json()["error"]
    assert (403, "not_permitted") == (answer.status_code, error["code"])
    assert "Use a key of role 'lead', which an administrator creates." in error["message"]
    assert [described["id"]] == [key["id"] for key in gateway.admin("GET", "/tenants/acme/keys").json()["data"]]


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path in ROUTES if "KEY" in path])
def test_a_key_of_another_tenant_is_not_found_and_not_changed(lead: Lead, method: str, path: str) -> None:
    other = lead.gateway.admin("POST", "/tenants/acme/keys", {}).json()
    refused = lead.ask(method, path.replace("KEY", other["id"]))
    unknown = lead.ask(method, path.replace("KEY", "unknown000"))
    assert 404 == refused.status_code == unknown.status_code
    assert refused.text.replace(other["id"], "unknown000") == unknown.text
    assert works(lead.gateway, other["key"])
    assert "key.revoke" not in str(lead.gateway.admin("GET", "/audit?tenant=acme").json())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"limits": {"requests_per_minute": 61}}, "limits.requests_per_minute"),
        ({"quotas": {"usd_per_month": "10.000001"}}, "quotas.usd_per_month"),
    ],
)
def test_a_key_gets_no_more_than_the_tenant_has(lead: Lead, body: object, param: str) -> None:
    assert (400, "invalid_value", param) == lead.refused("POST", "/keys", body)
    made = lead.gateway.admin("POST", "/tenants/team/keys", body).json()
    place = f"/keys/{made['id']}"
    lead.done("PATCH", place, {"label": "an administrator's limit stays"})
    lead.done("PATCH", place, {"limits": None, "quotas": None})
    assert (400, "invalid_value", param) == lead.refused("PATCH", place, body)


def test_a_lead_makes_no_lead_and_touches_no_other(lead: Lead) -> None:
    other, plain = Lead(lead.gateway), lead.done("POST", "/keys", {})
    refused = (403, "not_permitted", "role")
    assert refused == lead.refused("POST", "/keys", {"role": "lead"})
    assert refused == lead.refused("PATCH", f"/keys/{plain['id']}", {"role": "lead"})
    for key in (other.id, lead.id):
        assert refused == lead.refused("PATCH", f"/keys/{key}", {"limits": {"concurrency": 5}})
    for method, path in (("DELETE", f"/keys/{other.id}"), ("POST", f"/keys/{other.id}/rotate")):
        assert (403, "not_permitted", None) == lead.refused(method, path)
    assert 200 == other.ask("GET", "").status_code
    rotated = lead.done("POST", f"/keys/{lead.id}/rotate", {"grace_s": 0})
    assert (401, 200) == tuple(lead.ask("GET", "", key=key).status_code for key in (lead.key, rotated["key"]))
    lead.key = rotated["key"]
    assert lead.done("DELETE", f"/keys/{lead.id}")["revoked"]
    assert 401 == lead.ask("GET", "").status_code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/images/edits"),
        ("POST", "/v1/image_generation"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/image-01"),
    ],
)
def test_a_lead_makes_no_images(lead: Lead, method: str, path: str) -> None:
    body = {"prompt": "x", "model": "image-01"} if method == "POST" else None
    headers = {"authorization": f"Bearer {lead.key}"}
    answer = httpx.request(method, f"{lead.gateway.url}{path}", json=body, headers=headers, verify=False)
    assert (200 if "image_generation" in path else 403) == answer.status_code
    assert "This key manages its tenant and makes no images." in answer.text
    assert {"requests": 0} | (total := lead.done("GET", "/usage")["total"]) == total


def test_a_lead_reads_the_usage_of_its_tenant_only(lead: Lead) -> None:
    gateway = lead.gateway
    made = lead.done("POST", "/keys", {})
    for key, count in ((made["key"], 2), (gateway.api_key, 3)):
        assert (
            200
            == gateway.post(
                "/v1/images/generations", {"prompt": "x", "n": count}, authorization=f"Bearer {key}"
            ).status_code
        )
    found = lead.done("GET", "/usage?by=key,model")
    conform(found, {"$ref": "#/components/schemas/UsageReport"}, "UsageReport")
    assert [(made["id"], "image-01", 2)] == [(row["key"], row["model"], row["images"]) for row in found["data"]]
    assert (400, "unknown_parameter", "tenant") == lead.refused("GET", "/usage?tenant=acme")
    assert (400, "invalid_value", "by") == lead.refused("GET", "/usage?by=tenant")
    assert (400, "invalid_value", "from") == lead.refused("GET", "/usage?from=2020-01-01&to=2021-01-01")
    cursors = [
        gateway.admin("GET", f"/usage?by=tenant,key&limit=1{tenant}").json()["next_cursor"]
        for tenant in ("", "&tenant=acme")
    ]
    assert cursors[0]
    for cursor in filter(None, cursors):
        assert 400 == lead.ask("GET", f"/usage?cursor={cursor}").status_code


def test_a_lead_groups_by_tags_and_never_by_upstream(make_gateway: MakeGateway) -> None:
    lead = Lead(make_gateway(attribution={"keys": ["feature"]}))
    for feature, count in (("shop", 2), ("blog", 1)):
        made = lead.done("POST", "/keys", {"tags": {"feature": feature}})
        sent = {"authorization": f"Bearer {made['key']}"}
        body = {"prompt": "x", "n": count}
        assert 200 == lead.gateway.post("/v1/images/generations", body, **sent).status_code
    rows = lead.done("GET", "/usage?by=tag&tag=feature&last=2d")["data"]
    assert [("feature=blog", 1), ("feature=shop", 2)] == [(row["tag"], row["images"]) for row in rows]
    assert 2 == lead.done("GET", "/usage?by=model&tag=feature%3Dshop&last=2d")["total"]["images"]
    for query in ("by=upstream", "by=day,upstream", "by=cost_centre", "by=upstream&tag=feature"):
        assert (400, "invalid_value", "by") == lead.refused("GET", f"/usage?{query}")
    cursor = lead.gateway.admin("GET", "/usage?tenant=team&by=upstream,key&limit=1").json()["next_cursor"]
    assert cursor
    assert (400, "invalid_value", "by") == lead.refused("GET", f"/usage?cursor={cursor}")


def test_the_audit_log_is_that_of_the_tenant(lead: Lead) -> None:
    lead.done("POST", "/keys", {"label": "web"})
    lead.gateway.admin("PATCH", "/tenants/team", {"weight": 3})
    entries = lead.done("GET", "/audit")["data"]
    assert {"team"} == {entry["tenant"] for entry in entries}
    assert ["admin", f"key:{lead.id}", "admin", "admin"] == [entry["actor"] for entry in entries]
    assert "sk-ig-" not in str(entries)
    assert (400, "unknown_parameter", "tenant") == lead.refused("GET", "/audit?tenant=acme")
    assert (400, "invalid_value", "before") == lead.refused("GET", "/audit?before=x")


def test_a_lead_chooses_alerts_to_permitted_hosts_and_the_contact(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(alerts={"webhook_hosts": ["hooks.example.com"]})
    lead = Lead(gateway, contact="jo@example.com", alerts={"to": ["https://old.example.net/x"]})
    to = ["https://hooks.example.com/a?b=c", "mailto:jo@example.com", "https://old.example.net/x"]
    changed = lead.done("PATCH", "", {"alerts": {"percent": [70, 90], "to": to}})
    assert {"percent": [70, 90], "to": to} == changed["alerts"] == lead.done("GET", "")["alerts"]
    for address in (
        "http://hooks.example.com/",
        "https://hooks.example.com.evil.example/",
        "https://hooks.example.com@evil.example/",
        "https://user@hooks.example.com/",
        "https://evil.example/hooks.example.com",
        "https://[/",
        "mailto:other@example.com",
        "mailto:jo@example.com,other@example.com",
    ):
        status, code, param = lead.refused("PATCH", "", {"alerts": {"to": [address]}})
        assert (400, "invalid_value", "alerts.to") == (status, code, (param or "").removesuffix("[0]"))
    for field in ("contact", "limits", "quotas", "weight", "models", "disabled", "owner"):
        assert (400, "invalid_value", field) == lead.refused("PATCH", "", {field: None})
    newest = gateway.admin("GET", "/audit?tenant=team&limit=1").json()["data"][0]
    assert (f"key:{lead.id}", "tenant.update") == (newest["actor"], newest["action"])


def test_the_keys_of_a_tenant_are_bounded_and_expired_ones_do_not_count(make_gateway: MakeGateway) -> None:
    lead = Lead(make_gateway(api_keys={"max_per_tenant": 3}))
    last = [lead.done("POST", "/keys", {}) for _ in range(2)][-1]
    for ask in (lead.ask, lambda method, path, body: lead.gateway.admin(method, f"/tenants/team{path}", body)):
        answer = ask("POST", "/keys", {})
        assert (409, "too_many_keys") == (answer.status_code, answer.json()["error"]["code"])
        assert "Tenant 'team' has 3 keys, its limit ([api_keys] max_per_tenant)." in answer.text
    lead.done("PATCH", f"/keys/{last['id']}", {"expires_at": int(time.time()) + 1})
    deadline = time.monotonic() + 30
    while lead.ask("POST", "/keys", {}).status_code == 409 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert 3 == len(lead.done("GET", "/keys")["data"])


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


def test_a_lead_cannot_fill_the_audit_log(lead: Lead, client: "redis.Redis") -> None:
    client.eval("for _ = 1, 100000 do redis.call('XADD', KEYS[1], '*', 'x', '') end", 1, "ig3:{team}:audit")
    assert (403, "not_permitted", None) == lead.refused("POST", "/keys", {})
    assert 200 == lead.gateway.admin("PATCH", "/tenants/team", {"weight": 2}).status_code


def test_leads_are_throttled_and_an_admin_key_is_none(lead: Lead) -> None:
    assert 401 == lead.ask("GET", "", key=ADMIN_KEY).status_code
    with (
        httpx.Client(base_url=f"{lead.gateway.url}/v1/tenant", headers={"authorization": f"Bearer {lead.key}"}) as http,
        ThreadPoolExecutor(16) as pool,
    ):  # faster than a busy machine answers one after another
        statuses = [answer.status_code for answer in pool.map(lambda _: http.get(""), range(1000))]
    assert {200, 429} == set(statuses)


def test_a_key_that_becomes_a_lead_makes_no_more_images(gateway: Gateway) -> None:
    key = new_key(gateway.url, "team")
    [described] = gateway.admin("GET", "/tenants/team/keys").json()["data"]
    assert works(gateway, key)
    gateway.admin("PATCH", f"/keys/{described['id']}", {"role": "lead"})
    assert 403 == gateway.get("/v1/models", authorization=f"Bearer {key}").status_code


def test_a_lead_reads_the_records_of_its_own_tenant_without_upstreams(lead: Lead, redis_url: str) -> None:
    today = datetime.fromtimestamp(time.time(), UTC).date()
    mine = Settled(tenant="team", day=today, request_id="mine")
    with redis.Redis.from_url(redis_url, decode_responses=True) as books:
        settle(books, [mine, replace(mine, outcome="lost"), replace(mine, tenant="other", request_id="theirs")])
    page = lead.done("GET", "/requests?last=2d&order=desc")
    conform(page, {"$ref": "#/components/schemas/OwnUsageRecords"}, "OwnUsageRecords")
    assert [("mine", "lost"), ("mine", "delivered")] == [(row["request_id"], row["outcome"]) for row in page["data"]]
    assert not {"upstream", "account", "calls"} & set(page["data"][0])
    assert ["lost"] == [row["outcome"] for row in lead.done("GET", "/requests/mine?outcome=lost")["data"]]
    assert 404 == lead.ask("GET", "/requests/theirs").status_code
    assert (400, "unknown_parameter", "tenant") == lead.refused("GET", "/requests?tenant=other")
