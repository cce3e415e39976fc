"""Requests that were refused before anything was bought: what is kept of each, and who sees it."""

import time
from typing import Any

import httpx
import pytest
import redis

from tests.support.commands import run
from tests.support.console import person
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, admin, new_key, upstream, wait_until
from tests.support.openapi import SCHEMAS, conform

PROMPT = "a canary on a lighthouse"


def refusals(gateway: Gateway, query: str = "", count: int = 0) -> list[dict[str, Any]]:
    """Returns the refusals, once there are so many: they are written once a second."""

    def read() -> list[dict[str, Any]]:
        answer = gateway.admin("GET", f"/refusals?{query}")
        assert 200 == answer.status_code, answer.text
        conform(answer.json(), SCHEMAS["RefusalPage"], "RefusalPage")
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    wait_until(lambda: len(read()) >= count, "too few refusals")
    return read()


def refused(gateway: Gateway, key: str = "", **body: object) -> str:
    headers = {"authorization": f"Bearer {key or gateway.api_key}"}
    answer = httpx.post(f"{gateway.url}/v1/images/generations", json={"prompt": PROMPT, **body}, headers=headers)
    assert answer.is_error
    return answer.headers["x-request-id"]


def test_a_refusal_is_found_by_its_request_id_and_holds_no_prompt(gateway: Gateway, redis_url: str) -> None:
    lead = gateway.admin("POST", "/tenants/acme/keys", {"role": "lead"}).json()["key"]
    [own] = [key["id"] for key in gateway.admin("GET", "/tenants/acme/keys").json()["data"] if not key.get("role")]
    ids = [
        refused(gateway, model="image-01", size="secret words"),
        refused(gateway, model="another canary"),
        refused(gateway, "sk-ig-wrong", model="image-01"),
        refused(gateway, model="image-01", canary=1),
    ]
    gateway.generate(prompt=PROMPT)  # delivered
    found = refusals(gateway, count=4)
    assert ids[::-1] == [row["request_id"] for row in found]
    assert [
        ("acme", own, None, "unknown_parameter", 400, "canary"),
        (None, None, None, "invalid_api_key", 401, None),
        ("acme", own, None, "model_unknown", 400, "model"),
        ("acme", own, None, "invalid_value", 400, "size"),
    ] == [tuple(row[name] for name in ("tenant", "key", "model", "code", "status", "param")) for row in found]
    assert abs(found[0]["at"] - time.time()) < 60
    [row] = refusals(gateway, f"request_id={ids[0]}")
    assert found[3] == row
    mine = refusals(gateway, f"key={own}&tenant=acme&limit=2")
    assert [ids[3], ids[1]] == [each["request_id"] for each in mine]
    assert [ids[2]] == [each["request_id"] for each in refusals(gateway, "code=invalid_api_key")]
    assert [] == refusals(gateway, "to=2020-01-01")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        kept = [str(client.xrange(key)) for key in client.scan_iter("*:refusals")]
    assert 2 == len(kept)
    assert not [text for text in kept if "secret words" in text or "another canary" in text or PROMPT in text]
    url = ("--url", gateway.url)
    printed = run("refusals", "--request-id", ids[0], *url, "--admin-key", ADMIN_KEY).stdout
    assert "invalid_value" in printed
    own_list = run("me", "refusals", "--key-id", own, "--limit", "2", *url, "--key", lead).stdout
    assert (True, False) == (ids[3] in own_list, ids[0] in own_list)


@pytest.mark.shares_gateway
def test_leads_and_members_see_their_own_tenants_refusals(gateway: Gateway) -> None:
    other = refused(gateway, new_key(gateway.url, "globex"), canary=1)
    ours = refused(gateway, canary=2)
    refusals(gateway, f"request_id={ours}", 1)
    for role in ("lead", "member"):
        page = person(gateway.url, role, "acme").get("/console/tenant/refusals").json()
        conform(page, SCHEMAS["OwnRefusalPage"], "OwnRefusalPage")
        ids = {row["request_id"] for row in page["data"]}
        assert (True, False) == (ours in ids, other in ids)
    assert {"unknown_parameter"} <= {
        row["code"] for row in admin(gateway.url, "GET", "/overview").json()["refusals_24h"]
    }


@pytest.mark.shares_gateway
@pytest.mark.parametrize("query", ["code=nonsense", "limit=0", "before=x", "from=2026-02-01&to=2026-01-01", "x=1"])
def test_a_wrong_query_is_refused(gateway: Gateway, query: str) -> None:
    assert 400 == gateway.admin("GET", f"/refusals?{query}").status_code


def test_a_request_that_no_account_can_take_is_a_refusal_and_one_of_the_provider_is_not(
    make_gateway: MakeGateway, simulator: Any
) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url))
    content = refused(gateway, prompt="[code=1026]")
    gateway.admin("PATCH", "/pool/sim/main", {"state": "disabled"})
    idle = refused(gateway, "")
    [row] = refusals(gateway, count=1)
    assert (idle, "no_healthy_account", "image-01") == (row["request_id"], row["code"], row["model"])
    assert [row] == refusals(gateway, "model=image-01")
    assert [] == refusals(gateway, "model=image-02")
    assert [] == refusals(gateway, f"request_id={content}")
