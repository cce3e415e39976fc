"""The admin API: who gets in, what it tells, and how fast it takes effect."""

import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import redis
from starlette.routing import Route

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.admin_routes import ROUTES
from tests.support.harness import (
    ADMIN_KEY,
    Gateway,
    MakeGateway,
    Simulator,
    admin,
    document,
    environment,
    serving,
    upstream,
)

FUTURE: Final = 4_000_000_000


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert status == response.status_code, response.text
    assert {"message", "type", "param", "code"} == set(response.json()["error"])
    found: dict[str, Any] = response.json()["error"]
    return found


def secret_of(gateway: Gateway, tenant: str = "acme", **body: object) -> str:
    key: str = gateway.admin("POST", f"/tenants/{tenant}/keys", body).json()["key"]
    return key


def models_status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_a_refused_change_reserves_no_name(gateway: Gateway) -> None:
    gateway.admin("POST", "/tenants", {"name": "harbour"})
    tags = {f"tag{number}": "x" for number in range(9)}
    refused = error(gateway.admin("PATCH", "/tenants/harbour", {"name": "pier", "tags": tags}), 400)
    assert "tags" == refused["param"]
    assert 201 == gateway.admin("POST", "/tenants", {"name": "pier"}).status_code


def test_every_route_is_in_the_table_of_this_file(redis_url: str) -> None:
    configured = document(redis_url, upstream("sim", "minimax", "http://127.0.0.1:1"))
    environ = environment(configured)
    app = create_app(resolve(from_document(configured, environ, "test"), environ))
    found = [
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/admin/")
        for method in (route.methods or set()) - {"HEAD"}
    ]
    named = {"{name}": "acme", "{id}": "abc", "{upstream}": "sim", "{account}": "main", "{key}": "main-1"} | {
        "{delivery}": "dlv_1"
    }
    assert sorted(ROUTES) == sorted(
        (method, "/".join(named.get(part, part) for part in path.removeprefix("/admin/v1").split("/")))
        for path, method in found
    )


@pytest.fixture(scope="module")
def closed(one_redis_server: str) -> Iterator[str]:
    """The address of a gateway without an admin key."""
    configured = document(one_redis_server, upstream("sim", "minimax", "http://127.0.0.1:1"), admin={})
    environ = environment(configured)
    with serving(create_app(resolve(from_document(configured, environ, "test"), environ))) as url:
        yield url


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", ["", f"Bearer {ADMIN_KEY}", "Bearer", "Bearer None"])
def test_without_a_configured_key_it_is_closed(closed: str, method: str, path: str, given: str) -> None:
    headers = {"authorization": given} if given else {}
    refused = error(httpx.request(method, f"{closed}/admin/v1{path}", headers=headers), 403)
    assert "admin_api_disabled" == refused["code"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_enters_without_the_key(gateway: Gateway, method: str, path: str) -> None:
    wrong = ["", ADMIN_KEY, f"Basic {ADMIN_KEY}", f"Bearer {ADMIN_KEY[:-1]}", f"Bearer {ADMIN_KEY}x", "Bearer"]
    for given in [*wrong, f"Bearer {ADMIN_KEY.upper()}", f"Bearer {gateway.api_key}", "Bearer \xff"]:
        headers = [(b"authorization", given.encode("latin-1"))]
        response = httpx.request(method, f"{gateway.url}/admin/v1{path}", headers=headers)
        assert "invalid_admin_key" == error(response, 401)["code"]
        assert "Bearer" == response.headers["www-authenticate"]
    assert 200 == gateway.get("/v1/models").status_code


@pytest.mark.shares_gateway
def test_the_admin_key_opens_nothing_else(gateway: Gateway) -> None:
    assert 401 == models_status(gateway.url, ADMIN_KEY)


def test_a_tenant_from_birth_to_end(gateway: Gateway) -> None:
    made = gateway.admin("POST", "/tenants", {"name": "shop", "models": ["dall-e-3"]})
    assert 201 == made.status_code
    created_at = made.json().pop("created_at")
    assert abs(time.time() - created_at) < 60
    expected = {
        "name": "shop",
        "limits": {},
        "quotas": {},
        "models": ["image-01"],
        "keep_hours": None,
        "storage_bytes": None,
        "owner": "",
        "contact": "",
        "cost_centre": "",
        "tags": {},
        "required_tags": [],
        "alerts": {"percent": None, "to": []},
        "weight": 1,
        "disabled": False,
        "disabled_by": None,
        "declared": False,
        "created_at": created_at,
    }
    assert expected == made.json()
    shown = gateway.admin("GET", "/tenants/shop").json()
    assert set((shown.pop("used") | shown.pop("credited")).values()) == {0, "0.00"}
    assert expected == shown
    assert {"data": ["acme", "shop"]} == {
        "data": [tenant["name"] for tenant in gateway.admin("GET", "/tenants").json()["data"]]
    }
    assert expected | {"models": None} == gateway.admin("PATCH", "/tenants/shop", {"models": None}).json()
    assert expected | {"models": None} == gateway.admin("PATCH", "/tenants/shop", {}).json()
    ended = expected | {"models": None, "disabled": True, "disabled_by": "admin"}
    assert ended == gateway.admin("DELETE", "/tenants/shop").json()
    assert ended in gateway.admin("GET", "/tenants").json()["data"]
    assert "already_exists" == error(gateway.admin("POST", "/tenants", {"name": "shop"}), 409)["code"]
    assert 200 == gateway.admin("PATCH", "/tenants/shop", {"disabled": False}).status_code


def test_a_tenant_says_who_answers_and_pays_for_it(gateway: Gateway) -> None:
    about = {
        "owner": "Jo",
        "contact": "jo@example.com",
        "cost_centre": "4711",
        "tags": {"env": "prod", "team": "a b"},
        "required_tags": ["feature"],
        "alerts": {"percent": [50, 90], "to": ["mailto:jo@example.com", "https://example.com/hook"]},
        "quotas": {"soft_usd_per_month": "40.00"},
    }
    made = gateway.admin("POST", "/tenants", {"name": "about"} | about).json()
    assert about == {name: made[name] for name in about}
    shown = gateway.admin("GET", "/tenants/about").json()
    assert about == {name: shown[name] for name in about}
    change = {"owner": None, "tags": {"env": None, "x": "1"}, "alerts": {"percent": [90, 10, 90]}, "quotas": None}
    changed = gateway.admin("PATCH", "/tenants/about", change).json()
    assert ("", "4711", {"team": "a b", "x": "1"}) == (changed["owner"], changed["cost_centre"], changed["tags"])
    assert {"percent": [10, 90], "to": about["alerts"]["to"]} == changed["alerts"]  # type: ignore[index]
    assert {} == changed["quotas"]
    emptied = gateway.admin("PATCH", "/tenants/about", {"tags": None, "alerts": None, "required_tags": None}).json()
    assert ({}, [], {"percent": None, "to": []}) == (emptied["tags"], emptied["required_tags"], emptied["alerts"])
    wrong: list[tuple[dict[str, object], str]] = [
        ({"tags": {"UP": "x"}}, "tags"),
        ({"tags": {"a": "\n"}}, "tags"),
        ({"tags": {f"t{number}": "x" for number in range(9)}}, "tags"),
        ({"alerts": {"to": ["ftp://x"]}}, "alerts"),
        ({"alerts": {"percent": [0]}}, "alerts"),
        ({"owner": "x" * 101}, "owner"),
    ]
    for body, field in wrong:
        refused = error(gateway.admin("PATCH", "/tenants/about", body), 400)
        assert str(refused["param"]).startswith(field)


def test_a_key_has_a_role_and_tags(gateway: Gateway) -> None:
    body: dict[str, object] = {"role": "lead", "tags": {"feature": "shop"}}
    made = gateway.admin("POST", "/tenants/acme/keys", body).json()
    assert ("lead", {"feature": "shop"}) == (made["role"], made["tags"])
    changed = gateway.admin("PATCH", f"/keys/{made['id']}", {"role": "", "tags": {"feature": None}}).json()
    assert ("", {}) == (changed["role"], changed["tags"])
    assert 400 == gateway.admin("PATCH", f"/keys/{made['id']}", {"role": "owner"}).status_code


def test_a_key_from_birth_to_end(gateway: Gateway) -> None:
    made = gateway.admin("POST", "/tenants/acme/keys", {"label": "web", "expires_at": FUTURE})
    assert 201 == made.status_code
    body: dict[str, Any] = made.json()
    secret = body.pop("key")
    assert secret.startswith(f"sk-ig-{body['id']}")
    known = {"id", "tenant", "label", "role", "tags", "limits", "quotas", "declared", "created_at", "expires_at"}
    assert known | {"last_used_at"} == set(body)
    assert ("acme", "web", FUTURE) == (body["tenant"], body["label"], body["expires_at"])
    assert body in gateway.admin("GET", "/tenants/acme/keys").json()["data"]
    assert 200 == models_status(gateway.url, secret)
    revoked = gateway.admin("DELETE", f"/keys/{body['id']}").json()
    assert abs(revoked["last_used_at"] - time.time()) < 360
    assert body | {"revoked": True, "last_used_at": revoked["last_used_at"]} == revoked
    assert 401 == models_status(gateway.url, secret)
    assert "not_found" == error(gateway.admin("DELETE", f"/keys/{body['id']}"), 404)["code"]
    assert body["id"] not in [key["id"] for key in gateway.admin("GET", "/tenants/acme/keys").json()["data"]]
    assert 200 == gateway.get("/v1/models").status_code


def test_a_key_may_be_made_without_a_body(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert 201 == httpx.post(f"{gateway.url}/admin/v1/tenants/acme/keys", headers=headers).status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_tenant_is_404(gateway: Gateway, method: str) -> None:
    body: object = {} if method == "PATCH" else None
    for name in ("nobody", "no%20body", "%00", "x" * 500, "{acme}", "*"):
        assert "not_found" == error(gateway.admin(method, f"/tenants/{name}", body), 404)["code"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "name",
    ["", " ", "Acme", "a b", "-a", ".a", "a/b", "a\n", "\na", "a\r\nx: y", "é", "a" * 64, "{a}", "a*", "_other", "a\0"],
)
def test_invalid_names_are_refused(gateway: Gateway, name: str) -> None:
    refused = error(gateway.admin("POST", "/tenants", {"name": name}), 400)
    assert "name" == refused["param"]
    assert ["acme"] == [tenant["name"] for tenant in gateway.admin("GET", "/tenants").json()["data"]]


@pytest.mark.parametrize("name", ["a", "0", "acme-2", "a.b_c", "a" * 63])
def test_valid_names_are_taken(gateway: Gateway, name: str) -> None:
    assert 201 == gateway.admin("POST", "/tenants", {"name": name}).status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tenants", {"name": "b", "colour": 1}),
        ("POST", "/tenants", {"name": "b", "created_at": 1}),
        ("POST", "/tenants", {}),
        ("POST", "/tenants", []),
        ("POST", "/tenants", {"name": 1}),
        ("POST", "/tenants", {"name": "b", "models": "image-01"}),
        ("POST", "/tenants", {"name": "b", "models": [1]}),
        ("POST", "/tenants", {"name": "b", "models": ["nope"]}),
        ("POST", "/tenants", {"name": "b", "disabled": "yes"}),
        ("PATCH", "/tenants/acme", {"name": "B"}),
        ("PATCH", "/tenants/acme", {"disabled": None}),
        ("PATCH", "/tenants/acme", {"models": ["nope"]}),
        ("POST", "/tenants", {"name": "b", "weight": 0}),
        ("POST", "/tenants", {"name": "b", "declared": True}),
        ("PATCH", "/tenants/acme", {"weight": None}),
        ("PATCH", "/tenants/acme", {"limits": []}),
        ("PATCH", "/tenants/acme", {"limits": {"images_per_day": 1}}),
        ("PATCH", "/tenants/acme", {"quotas": {"requests_per_minute": 1}}),
        ("POST", "/tenants/acme/keys", {"key": "mine"}),
        ("POST", "/tenants/acme/keys", {"label": "x" * 101}),
        ("POST", "/tenants/acme/keys", {"label": None}),
        ("POST", "/tenants/acme/keys", {"expires_at": 1}),
        ("POST", "/tenants/acme/keys", {"expires_at": "2030-01-01"}),
        ("POST", "/tenants/acme/keys", {"expires_at": 1e12}),
    ],
)
def test_wrong_documents_are_refused_and_change_nothing(gateway: Gateway, method: str, path: str, body: object) -> None:
    before: list[Any] = [gateway.admin("GET", where).json() for where in ("/tenants", "/tenants/acme/keys")]
    refused = error(gateway.admin(method, path, body), 400)
    assert "invalid_value" == refused["code"]
    assert before == [gateway.admin("GET", where).json() for where in ("/tenants", "/tenants/acme/keys")]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("moment", [10**17, 10**18, 2**63, 10**30])
def test_a_moment_beyond_all_time_is_the_callers_fault_and_leaves_no_key(gateway: Gateway, moment: int) -> None:
    refused = error(gateway.admin("POST", "/tenants/acme/keys", {"expires_at": moment}), 400)
    assert "expires_at" == refused["param"]
    assert 1 == len(gateway.admin("GET", "/tenants/acme/keys").json()["data"])


@pytest.mark.shares_gateway
def test_an_unknown_field_is_named(gateway: Gateway) -> None:
    assert "colour" in error(gateway.admin("POST", "/tenants", {"name": "b", "colour": 1}), 400)["message"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b"{" * 10])
def test_broken_json_is_400(gateway: Gateway, body: bytes) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    error(httpx.post(f"{gateway.url}/admin/v1/tenants", content=body, headers=headers), 400)


def test_secrets_are_in_no_answer_and_not_in_redis(gateway: Gateway, redis_url: str) -> None:
    key = secret_of(gateway)
    gateway.generate(prompt="x")
    answers = [
        gateway.admin(method, path, {} if method in {"PATCH", "POST"} else None).text
        for method, path in ROUTES
        if (method, path) not in {("POST", "/tenants/acme/keys"), ("DELETE", "/tenants/acme")}
    ]
    hidden = key.removeprefix("sk-ig-")[10:]
    assert [] == [text for text in answers for secret in (hidden, ADMIN_KEY) if secret in text]
    with redis.Redis.from_url(redis_url) as client:
        kept = [client.dump(name) or b"" for name in client.keys("*")]
    assert kept
    assert [] == [record for record in kept if hidden.encode() in record]


def test_a_disabled_tenant_is_401_and_comes_back(gateway: Gateway) -> None:
    assert 200 == gateway.get("/v1/models").status_code
    gateway.admin("DELETE", "/tenants/acme")
    for response in (gateway.get("/v1/models"), gateway.generate(prompt="x")):
        assert "invalid_api_key" == error(response, 401)["code"]
    assert 2049 == gateway.post("/v1/image_generation", {}).json()["base_resp"]["status_code"]
    gateway.admin("PATCH", "/tenants/acme", {"disabled": False})
    assert 200 == gateway.get("/v1/models").status_code


@pytest.mark.parametrize("how", ["revoke", "disable", "delete"])
def test_a_revocation_is_effective_at_the_other_gateway_within_a_second(
    two_gateways: tuple[str, str], how: str
) -> None:
    """The key is in the other's cache, and in constant use there."""
    here, there = two_gateways
    admin(here, "POST", "/tenants", {"name": "acme"})
    made = admin(here, "POST", "/tenants/acme/keys", {}).json()
    assert 200 == models_status(there, made["key"])
    ended = {
        "revoke": lambda: admin(here, "DELETE", f"/keys/{made['id']}"),
        "disable": lambda: admin(here, "PATCH", "/tenants/acme", {"disabled": True}),
        "delete": lambda: admin(here, "DELETE", "/tenants/acme"),
    }[how]()
    assert 200 == ended.status_code
    deadline = time.monotonic() + 1.0
    while models_status(there, made["key"]) != 401:
        assert time.monotonic() < deadline, "still let in after a second"


def test_a_new_key_is_known_at_the_other_gateway_at_once(two_gateways: tuple[str, str]) -> None:
    here, there = two_gateways
    admin(here, "POST", "/tenants", {"name": "acme"})
    made = admin(here, "POST", "/tenants/acme/keys", {}).json()
    assert 200 == models_status(there, made["key"])


def test_a_tenant_uses_its_own_models_only(make_gateway: MakeGateway, simulator: Simulator) -> None:
    target = [{"upstream": "sim", "model": "image-01"}]
    models = [
        {"id": name, "aliases": [f"{name}-alias"], "price_per_image_usd": "0.0035", "targets": target}
        for name in ("one", "two")
    ]
    gateway = make_gateway(models=models)
    gateway.admin("PATCH", "/tenants/acme", {"models": ["two-alias"]})
    listed = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
    assert ["two", "two-alias"] == listed
    for name in ("one", "one-alias"):
        assert "model_not_found" == error(gateway.get(f"/v1/models/{name}"), 404)["code"]
        assert "model_not_found" == error(gateway.generate(prompt="x", model=name), 400)["code"]
        native = gateway.post("/v1/image_generation", {"model": name, "prompt": "x"}).json()
        assert 2013 == native["base_resp"]["status_code"]
    for name in listed:
        assert 200 == gateway.get(f"/v1/models/{name}").status_code
        assert 200 == gateway.generate(prompt="x", model=name).status_code
    gateway.admin("PATCH", "/tenants/acme", {"models": []})
    assert [] == gateway.get("/v1/models").json()["data"]
    assert 400 == gateway.generate(prompt="x", model="two").status_code
    assert 2 == simulator.images_billed()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", ["/tenants/acme", "/tenants/acme/keys", "/pool"])
def test_a_query_that_a_route_does_not_take_is_refused(gateway: Gateway, path: str) -> None:
    refused = gateway.admin("GET", f"{path}?limit=-1")
    assert (400, "unknown_parameter") == (refused.status_code, refused.json()["error"]["code"])
    assert "limit" == refused.json()["error"]["param"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("limit", ["-1", "0", "1001", "x", "1e2"])
@pytest.mark.parametrize("path", ["/audit", "/tenants", "/usage", "/usage/records"])
def test_a_limit_out_of_its_range_is_refused_with_the_range(gateway: Gateway, path: str, limit: str) -> None:
    refused = gateway.admin("GET", f"{path}?limit={limit}")
    assert (400, "limit") == (refused.status_code, refused.json()["error"]["param"])
    assert "an integer from 1 to 1000" in refused.text
