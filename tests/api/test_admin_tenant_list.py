"""Searching, sorting and counting tenants."""

from typing import Any

import httpx
import pytest
import redis

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway


def listed(gateway: Gateway, query: str) -> tuple[list[str], int]:
    """Returns the names of every page, and the total that each of them states."""
    names: list[str] = []
    totals = set()
    cursor = ""
    while True:
        answer = gateway.admin("GET", f"/tenants?limit=1&{query}{cursor}")
        page: dict[str, Any] = answer.json()
        assert 200 == answer.status_code, answer.text
        names += [tenant["name"] for tenant in page["data"]]
        totals.add(page["total"])
        if page["next"] is None:
            break
        cursor = f"&after={page['next']}"
    [total] = totals
    return names, total


def test_tenants_are_searched_sorted_and_counted_over_all_pages(gateway: Gateway) -> None:
    gateway.admin("POST", "/tenants", {"name": "shop", "owner": "Ann Lee", "cost_centre": "K-77"})
    gateway.admin("POST", "/tenants", {"name": "lab", "owner": "Bo"})
    gateway.admin("PATCH", "/tenants/lab", {"name": "studio"})
    for _ in range(2):
        key = gateway.admin("POST", "/tenants/shop/keys", {}).json()["key"]
        body, headers = {"prompt": "a cat", "model": "image-01"}, {"authorization": f"Bearer {key}"}
        bought = httpx.post(f"{gateway.base_url}/images/generations", json=body, headers=headers, timeout=30)
        assert 200 == bought.status_code, bought.text
    assert 200 == gateway.generate(prompt="a cat").status_code
    assert (["acme", "studio", "shop"], 3) == listed(gateway, "")
    assert (["shop", "studio", "acme"], 3) == listed(gateway, "order=desc")
    for sort in ("usd", "images"):
        assert (["shop", "acme", "studio"], 3) == listed(gateway, f"sort={sort}")
        assert (["studio", "acme", "shop"], 3) == listed(gateway, f"sort={sort}&order=asc")
    for search, found in (("ANN", "shop"), ("k-77", "shop"), ("stud", "studio")):
        assert ([found], 1) == listed(gateway, f"q={search}&sort=usd")
    assert ([], 0) == listed(gateway, "q=lab")
    printed = run("tenant", "list", "--search", "ann", "--url", gateway.url, "--admin-key", ADMIN_KEY).stdout
    assert ["shop"] == [line.split()[0] for line in printed.splitlines()[1:]]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("query", ["sort=age", "order=up", "sort=usd&after=acme"])
def test_a_wrong_order_is_refused_by_name(gateway: Gateway, query: str) -> None:
    refused = gateway.admin("GET", f"/tenants?{query}")
    expected = query.rpartition("&")[2].partition("=")[0]
    assert (400, expected) == (refused.status_code, refused.json()["error"]["param"])


def test_too_many_tenants_are_neither_sorted_by_usage_nor_searched(gateway: Gateway, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(2000):
            pipeline.hset(f"ig3:{{t{number}}}:tenant", "created_at", 1)
            pipeline.sadd("ig3:tenants", f"t{number}")
        pipeline.execute()
        refused = gateway.admin("GET", "/tenants?sort=usd")
        assert (400, "sort") == (refused.status_code, refused.json()["error"]["param"])
        assert "2,000" in refused.json()["error"]["message"]
        assert ([], 0) == listed(gateway, "sort=usd&q=nothing")
        assert 2001 == gateway.admin("GET", "/tenants?limit=1").json()["total"]
        client.sadd("ig3:tenants", *(f"x{number}" for number in range(8000)))
    page = gateway.admin("GET", "/tenants?limit=1").json()
    assert (["acme"], None) == ([tenant["name"] for tenant in page["data"]], page["total"])
    refused = gateway.admin("GET", "/tenants?q=a")
    assert (400, "q") == (refused.status_code, refused.json()["error"]["param"])
    assert "10,000" in refused.json()["error"]["message"]
