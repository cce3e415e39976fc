"""Limits and quotas as administrators send them: merged, bounded, exact, and in force everywhere within a second."""

import time
from typing import Any

import httpx
import pytest

from tests.support.harness import Gateway, admin, new_key

EVERY: dict[str, Any] = {
    "limits": {"requests_per_minute": 60, "images_per_minute": 120, "concurrency": 10},
    "quotas": {"images_per_day": 500, "images_per_month": 10_000, "usd_per_month": "50.00"},
}


def shape(document: dict[str, Any]) -> dict[str, Any]:
    return {"limits": document["limits"], "quotas": document["quotas"]}


def refusal(response: httpx.Response) -> dict[str, Any]:
    assert 400 == response.status_code, response.text
    found: dict[str, Any] = response.json()["error"]
    assert "invalid_value" == found["code"]
    return found


def places(gateway: Gateway) -> list[str]:
    """Where limits stand: at a tenant and at a key."""
    made = gateway.admin("POST", "/tenants/acme/keys", {}).json()
    return ["/tenants/acme", f"/keys/{made['id']}"]


def test_a_tenant_and_a_key_are_made_with_every_limit(gateway: Gateway) -> None:
    made = gateway.admin("POST", "/tenants", {"name": "shop", "weight": 3, **EVERY})
    key = gateway.admin("POST", "/tenants/shop/keys", EVERY).json()
    assert (201, 3) == (made.status_code, made.json()["weight"])
    for found in (made.json(), gateway.admin("GET", "/tenants/shop").json()):
        assert EVERY == shape(found)
    for found in (key, gateway.admin("GET", f"/keys/{key['id']}").json()):
        assert EVERY == shape(found)
    assert [EVERY] == [shape(found) for found in gateway.admin("GET", "/tenants/shop/keys").json()["data"]]


def test_a_change_merges(gateway: Gateway) -> None:
    """RFC 7396: what is not given stays, null removes, an object is merged into."""
    for place in places(gateway):
        gateway.admin("PATCH", place, EVERY)
        for change, expected in (
            ({}, EVERY),
            ({"limits": {}}, EVERY),
            ({"limits": {"concurrency": 0}}, EVERY | {"limits": EVERY["limits"] | {"concurrency": 0}}),
            (
                {"limits": {"concurrency": None, "images_per_minute": None}},
                EVERY | {"limits": {"requests_per_minute": 60}},
            ),
            ({"limits": None}, EVERY | {"limits": {}}),
            (
                {"quotas": {"usd_per_month": None}},
                {"limits": {}, "quotas": {"images_per_day": 500, "images_per_month": 10_000}},
            ),
            (
                {"quotas": {"usd_per_month": "0"}, "limits": {"requests_per_minute": 1}},
                {
                    "limits": {"requests_per_minute": 1},
                    "quotas": {"images_per_day": 500, "images_per_month": 10_000, "usd_per_month": "0.00"},
                },
            ),
        ):
            changed = gateway.admin("PATCH", place, change)
            assert 200 == changed.status_code, changed.text
            assert expected == shape(changed.json()) == shape(gateway.admin("GET", place).json())


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("50", "50.00"),
        ("50.5", "50.50"),
        ("0.000001", "0.000001"),
        ("0012.340000", "12.34"),
        ("999999999.999999", "999999999.999999"),
        ("123456789.123457", "123456789.123457"),
    ],
)
def test_money_is_exact(gateway: Gateway, sent: str, shown: str) -> None:
    for place in places(gateway):
        changed = gateway.admin("PATCH", place, {"quotas": {"usd_per_month": sent}}).json()
        assert shown == changed["quotas"]["usd_per_month"]
        assert shown == gateway.admin("GET", place).json()["quotas"]["usd_per_month"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("value", [-1, 1_000_000_001, 1.5, "1", True, [], {}, 10**30])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("limits", "requests_per_minute"),
        ("limits", "images_per_minute"),
        ("limits", "concurrency"),
        ("quotas", "images_per_day"),
        ("quotas", "images_per_month"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_its_name(gateway: Gateway, part: str, name: str, value: object) -> None:
    refused = refusal(gateway.admin("PATCH", "/tenants/acme", {part: {name: value}}))
    assert f"{part}.{name}" == refused["param"]
    assert refused["message"].startswith(f"{part}.{name}: ")
    assert {} == gateway.admin("GET", "/tenants/acme").json()[part]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "value", [50, 50.0, "", "-1", "1.0000001", "1e3", "1,5", "1000000000", " 1", "1\n", "½", ".5", "5."]
)
def test_money_that_is_no_exact_decimal_is_refused_by_its_name(gateway: Gateway, value: object) -> None:
    refused = refusal(gateway.admin("PATCH", "/tenants/acme", {"quotas": {"usd_per_month": value}}))
    assert "quotas.usd_per_month" == refused["param"]
    assert "decimal string up to" in refused["message"]


@pytest.mark.parametrize("value", [0, 1_000_000_000])
def test_the_bounds_themselves_are_taken(gateway: Gateway, value: int) -> None:
    changed = gateway.admin("PATCH", "/tenants/acme", {"limits": {"concurrency": value}})
    assert value == changed.json()["limits"]["concurrency"]


@pytest.mark.shares_gateway
def test_an_unknown_limit_is_named(gateway: Gateway) -> None:
    assert "colour" in refusal(gateway.admin("PATCH", "/tenants/acme", {"limits": {"colour": 1}}))["message"]


def status_of(url: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "x"}, headers=headers).status_code


@pytest.mark.parametrize("of_key", [False, True])
def test_a_new_limit_is_in_force_at_the_other_gateway_within_a_second(
    two_gateways: tuple[str, str], *, of_key: bool
) -> None:
    here, there = two_gateways
    secret = new_key(here)
    place = f"/keys/{secret[6:16]}" if of_key else "/tenants/acme"
    assert 200 == status_of(there, secret)
    for change, expected in (({"limits": {"requests_per_minute": 0}}, 429), ({"limits": None}, 200)):
        assert 200 == admin(here, "PATCH", place, change).status_code
        deadline = time.monotonic() + 1.0
        while status_of(there, secret) != expected:
            assert time.monotonic() < deadline, "still as before after a second"


def test_a_change_keeps_what_is_counted(gateway: Gateway) -> None:
    """Two requests are in the window before the limit is: with a limit of two the third is refused."""
    assert [200, 200] == [gateway.generate(prompt="x").status_code for _ in range(2)]
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 2}})
    assert 429 == gateway.generate(prompt="x").status_code
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"requests_per_minute": 3}})
    assert [200, 429] == [gateway.generate(prompt="x").status_code for _ in range(2)]
