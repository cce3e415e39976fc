"""Tenants' keys: changed, rotated, and what both gateways make of it."""

import time
from typing import Any

import httpx
import pytest

from tests.support.harness import Gateway, admin

FUTURE = 4_000_000_000


def status_of(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def made_key(gateway: Gateway, **body: object) -> dict[str, Any]:
    made: dict[str, Any] = gateway.admin("POST", "/tenants/acme/keys", body).json()
    return made


def test_a_key_is_changed_field_by_field(gateway: Gateway) -> None:
    made = made_key(gateway, label="web")
    secret = made.pop("key")
    place = f"/keys/{made['id']}"
    for change in ({"label": "shop"}, {"expires_at": FUTURE}, {"expires_at": None}, {"label": ""}, {}):
        made |= change
        assert made == gateway.admin("PATCH", place, change).json() == gateway.admin("GET", place).json()
    assert 200 == status_of(gateway.url, secret)


def test_a_rotation_answers_like_a_creation(gateway: Gateway) -> None:
    made = made_key(gateway, label="web", limits={"concurrency": 3})
    rotated = gateway.admin("POST", f"/keys/{made['id']}/rotate")
    assert 201 == rotated.status_code
    assert made | {name: rotated.json()[name] for name in ("key", "old_secret_until")} == rotated.json()
    assert made["key"] != rotated.json()["key"]
    assert [200, 200] == [status_of(gateway.url, key) for key in (made["key"], rotated.json()["key"])]


def test_the_end_of_an_old_secret_is_shown_while_it_opens(gateway: Gateway) -> None:
    made = made_key(gateway)
    place = f"/keys/{made['id']}"
    before = gateway.admin("GET", place).json()
    until = gateway.admin("POST", f"{place}/rotate", {"grace_s": 600}).json()["old_secret_until"]
    assert abs(until - time.time() - 600) < 60
    during = before | {"old_secret_until": until}
    assert during == gateway.admin("GET", place).json()
    assert during in gateway.admin("GET", "/tenants/acme/keys").json()["data"]
    assert during | {"label": "x"} == gateway.admin("PATCH", place, {"label": "x"}).json()
    assert "old_secret_until" not in gateway.admin("POST", f"{place}/rotate", {"grace_s": 0}).json()
    assert before | {"label": "x"} == gateway.admin("GET", place).json()
    newest = gateway.admin("GET", "/audit?limit=1").json()["data"][0]
    del during["last_used_at"]  # no part of a change
    assert ("key.rotate", during | {"label": "x"}) == (newest["action"], newest["before"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tenants", {}, "name"),
        ("/tenants", {"name": "b", "colour": 1}, "colour"),
        ("/tenants", {"name": "b", "limits": {"speed": 1}}, "limits.speed"),
        ("/tenants", {"name": "b", "limits": {"concurrency": "x"}}, "limits.concurrency"),
        ("/tenants", {"name": "b", "x" * 999: 1}, "x" * 64),
        ("/tenants", [], None),
    ],
)
def test_a_refusal_names_the_field(gateway: Gateway, path: str, body: object, param: str | None) -> None:
    refused = gateway.admin("POST", path, body)
    assert (400, param) == (refused.status_code, refused.json()["error"]["param"])


@pytest.mark.shares_gateway
def test_a_key_given_for_its_id_is_not_repeated(gateway: Gateway) -> None:
    refused = gateway.admin("GET", f"/keys/{gateway.api_key}")
    assert (404, False) == (refused.status_code, gateway.api_key in refused.text)
    assert "the 10 characters after 'sk-ig-'" in refused.text


def test_without_grace_the_old_key_ends_at_the_other_gateway_within_a_second(two_gateways: tuple[str, str]) -> None:
    """It is in the other's cache, and in constant use there."""
    here, there = two_gateways
    admin(here, "POST", "/tenants", {"name": "acme"})
    made = admin(here, "POST", "/tenants/acme/keys", {}).json()
    assert 200 == status_of(there, made["key"])
    rotated = admin(here, "POST", f"/keys/{made['id']}/rotate", {"grace_s": 0}).json()
    deadline = time.monotonic() + 1.0
    while status_of(there, made["key"]) != 401:
        assert time.monotonic() < deadline, "still let in after a second"
    assert [401, 200, 200] == [
        status_of(url, key) for url, key in ((here, made["key"]), (here, rotated["key"]), (there, rotated["key"]))
    ]


def test_the_grace_ends_by_itself_at_both_gateways(two_gateways: tuple[str, str]) -> None:
    here, there = two_gateways
    admin(here, "POST", "/tenants", {"name": "acme"})
    made = admin(here, "POST", "/tenants/acme/keys", {}).json()
    rotated = admin(here, "POST", f"/keys/{made['id']}/rotate", {"grace_s": 2}).json()
    assert [200] * 4 == [status_of(url, key) for url in (here, there) for key in (made["key"], rotated["key"])]
    time.sleep(2.1)  # the grace is a whole number of seconds of the real clock
    assert [401, 200] * 2 == [status_of(url, key) for url in (here, there) for key in (made["key"], rotated["key"])]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("grace_s", [-1, 30 * 86_400 + 1, "1h", 1.5, None, True])
def test_a_grace_out_of_bounds_is_refused(gateway: Gateway, grace_s: object) -> None:
    made = made_key(gateway)
    refused = gateway.admin("POST", f"/keys/{made['id']}/rotate", {"grace_s": grace_s})
    assert (400, "grace_s") == (refused.status_code, refused.json()["error"]["param"])
    assert 200 == status_of(gateway.url, made["key"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")])
@pytest.mark.parametrize("key_id", ["0123456789", "%00", "x" * 500, "*", "{acme}"])
def test_an_unknown_key_is_404(gateway: Gateway, method: str, path: str, key_id: str) -> None:
    answer = gateway.admin(method, f"/keys/{key_id}{path}", None if method in {"GET", "DELETE"} else {})
    assert (404, "not_found") == (answer.status_code, answer.json()["error"]["code"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "body",
    [
        {"label": None},
        {"label": "x" * 101},
        {"expires_at": 1},
        {"expires_at": 10**17},
        {"tenant": "b"},
        {"key": "mine"},
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(gateway: Gateway, body: dict[str, object]) -> None:
    made = made_key(gateway, label="web")
    del made["key"]
    assert 400 == gateway.admin("PATCH", f"/keys/{made['id']}", body).status_code
    assert made == gateway.admin("GET", f"/keys/{made['id']}").json()


def test_the_keys_of_all_tenants_are_listed_and_the_revoked_ones(gateway: Gateway) -> None:
    gateway.admin("POST", "/tenants", {"name": "shop"})
    made = gateway.admin("POST", "/tenants/shop/keys", {"label": "web"}).json()
    listed = gateway.admin("GET", "/keys?q=WEB").json()
    shown = {name: value for name, value in made.items() if name != "key"}
    assert {"data": [shown], "next": None} == listed
    first = gateway.admin("GET", "/keys?limit=1").json()
    assert ["acme"] == [key["tenant"] for key in first["data"]]
    assert [made["id"]] == [key["id"] for key in gateway.admin("GET", f"/keys?after={first['next']}").json()["data"]]
    gateway.admin("PATCH", "/tenants/shop", {"name": "store"})
    assert [("store", "web")] == [
        (key["tenant"], key["label"]) for key in gateway.admin("GET", "/keys?tenant=store").json()["data"]
    ]
    gateway.admin("DELETE", f"/keys/{made['id']}")
    assert [] == gateway.admin("GET", "/keys?tenant=store").json()["data"]
    [revoked] = gateway.admin("GET", "/keys?view=revoked").json()["data"]
    assert (made["id"], "store", "web", "admin") == tuple(
        revoked[name] for name in ("id", "tenant", "label", "revoked_by")
    )
    assert [] == gateway.admin("GET", "/keys?view=revoked&tenant=acme").json()["data"]
    for query, param in (("view=all", "view"), ("after=yesterday", "after"), ("view=revoked&after=acme/", "after")):
        refused = gateway.admin("GET", f"/keys?{query}")
        assert (400, param) == (refused.status_code, refused.json()["error"]["param"])
    assert 404 == gateway.admin("GET", "/keys?tenant=nobody").status_code
