"""Guessing keys, being somebody else, and reading what is another tenant's."""

import json
import re
from typing import Any, Final

import httpx
import pytest

from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, new_key
from tests.support.logging_aside import logging_aside
from tests.support.servers import free_port
from tests.support.strangers import FIXED_HEADERS, ask, head

WRONG: Final = "sk-ig-" + "w" * 42


def guess(gateway: Gateway, key: str = WRONG, path: str = "/v1/models", **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(
        "POST" if path.endswith(("generation", "generations")) else "GET", gateway.url + path, headers=sent
    )


def told(answer: httpx.Response) -> tuple[int, object]:
    return answer.status_code, answer.json()["error"]["code"]


def test_after_so_many_wrong_keys_an_address_is_refused_whatever_it_sends(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"auth_failures_per_minute": 3})
    unseen = new_key(gateway.url, "other")
    assert 200 == gateway.get("/v1/models").status_code
    assert [(401, "invalid_api_key")] * 2 == [told(guess(gateway)) for _ in range(2)]
    assert (401, "invalid_admin_key") == told(guess(gateway, path="/admin/v1/tenants"))
    for path in ("/v1/models", "/v1/models/image-01", "/v1/images/generations", "/admin/v1/tenants", "/admin/v1/pool"):
        answer = guess(gateway, path=path)
        assert (429, "rate_limit_exceeded") == told(answer)
        assert "rate_limit_error" == answer.json()["error"]["type"]
        assert 1 <= int(answer.headers["retry-after"]) <= 61
    native = guess(gateway, path="/v1/image_generation")
    assert (200, 1002) == (native.status_code, native.json()["base_resp"]["status_code"])
    assert 429 == guess(gateway, unseen).status_code
    assert 200 == gateway.get("/v1/models").status_code
    assert 200 == gateway.admin("GET", "/tenants").status_code
    assert 401 == httpx.get(f"{gateway.url}/v1/models").status_code
    assert (
        'imagegate_request_errors_total{code="authentication_throttled",origin="caller",tenant=""} 7.0'
        in gateway.get("/metrics").text
    )


def test_strangers_at_the_same_address_do_not_lock_an_administrator_out(make_gateway: MakeGateway) -> None:
    """The administrator comes for the first time from there."""
    gateway = make_gateway(server={"auth_failures_per_minute": 3, "trusted_proxies": ["127.0.0.1"]})
    here: dict[str, str] = {"x_forwarded_for": "203.0.113.1"}
    path = "/admin/v1/tenants"
    wrong = [guess(gateway, f"{WRONG}{number}", path, **here).status_code for number in range(6)]
    assert [401, 401, 401, 429, 429, 429] == wrong
    assert 200 == guess(gateway, ADMIN_KEY, path, **here).status_code
    assert 429 == guess(gateway, WRONG, path, **here).status_code


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "true_client_ip", "cf_connecting_ip"])
def test_nobody_is_believed_to_be_at_another_address(make_gateway: MakeGateway, header: str) -> None:
    gateway = make_gateway(server={"auth_failures_per_minute": 3}, logs={"client_address": True})
    with logging_aside() as log:
        answers = [guess(gateway, **{header: f"203.0.113.{number}"}) for number in range(5)]
        assert [401, 401, 401, 429, 429] == [answer.status_code for answer in answers]
        assert {"127.0.0.1"} == {log.request(answer.headers["x-request-id"])["client"] for answer in answers}


def test_a_trusted_proxy_is_believed_and_what_a_client_adds_is_not(make_gateway: MakeGateway) -> None:
    """The last address of the list is the proxy's word; those before it are the client's own."""
    gateway = make_gateway(server={"auth_failures_per_minute": 2, "trusted_proxies": ["127.0.0.1"]})
    forged = [guess(gateway, x_forwarded_for=f"198.51.100.{number}, 203.0.113.1") for number in range(4)]
    assert [401, 401, 429, 429] == [answer.status_code for answer in forged]
    assert 401 == guess(gateway, x_forwarded_for="203.0.113.2").status_code


def test_every_key_that_is_not_right_is_told_the_same(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"auth_failures_per_minute": 0})
    gone, disabled = new_key(gateway.url, "gone"), new_key(gateway.url, "disabled")
    (described,) = gateway.admin("GET", "/tenants/gone/keys").json()["data"]
    gateway.admin("DELETE", f"/keys/{described['id']}")
    gateway.admin("DELETE", "/tenants/disabled")
    right = gateway.api_key
    keys = {
        "unknown": WRONG,
        "wrong secret": right[:-4] + "0000",
        "revoked": gone,
        "disabled": disabled,
        "none": "x" * 20,
    }
    answers = {kind: guess(gateway, key) for kind, key in keys.items()}
    texts = {re.sub(r"\S+\.\.\.\S{4}\.", "KEY", answer.json()["error"]["message"]) for answer in answers.values()}
    assert {"Incorrect API key provided: KEY Keys of this gateway begin with 'sk-ig-'."} == texts
    assert {(401, "invalid_api_key")} == {told(answer) for answer in answers.values()}
    varying = {"x-request-id", "openai-processing-ms", "content-length", "date"}
    headers = [{(name, text) for name, text in one.headers.items() if name not in varying} for one in answers.values()]
    assert [headers[0]] * 5 == headers


def routes(gateway: Gateway) -> list[tuple[str, str]]:
    """Every route that the gateway says it has."""
    described: dict[str, Any] = gateway.get("/openapi.json").json()["paths"]
    methods = {"get", "post", "patch", "put", "delete"}
    return [(method.upper(), path) for path, item in described.items() for method in item if method in methods]


def test_a_tenants_key_shows_nothing_of_another_tenant_on_any_route(make_gateway: MakeGateway) -> None:
    targets = [{"upstream": "sim", "model": "image-01"}]
    models = [
        {"id": name, "price_per_image_usd": "0.0035", "targets": targets} for name in ("image-01", "restricted-model")
    ]
    gateway = make_gateway(models=models, metrics={"port": free_port()})
    gateway.admin("PATCH", "/tenants/acme", {"models": ["image-01"]})
    bravos = new_key(gateway.url, "bravo", limits={"requests_per_minute": 733_109})
    (described,) = gateway.admin("GET", "/tenants/bravo/keys").json()["data"]
    body = {"model": "restricted-model", "prompt": "bravos-secret-prompt", "response_format": "url"}
    bought = Gateway(gateway.url, bravos).generate(**body, n=1)
    assert 200 == bought.status_code
    planted = {"bravo", "733109", described["id"], bravos[-16:], bought.json()["data"][0]["url"]}
    names = {
        "name": "bravo",
        "id": described["id"],
        "upstream": "sim",
        "account": "main",
        "key": "main-1",
        "model": "x",
        "extension": "jpg",
        "delivery": "x",
    }
    found = routes(gateway)
    assert len(found) > 25
    for method, path in found:
        named = names | ({"id": "x"} if path.startswith(("/v1/batches/", "/v1/files/", "/files/")) else {})
        asked = path.format_map(named).replace("/v1/models/bravo", "/v1/models/x")
        answer = httpx.request(
            method,
            gateway.url + asked,
            params={"tenant": "bravo"} if method == "GET" else None,
            headers={"authorization": f"Bearer {gateway.api_key}", "x-tenant": "bravo"},
            content=json.dumps(body | {"tenant": "bravo"}) if method != "GET" else None,
        )
        assert not [word for word in planted if word in answer.text + str(answer.headers)], (method, path)
        if path.startswith("/admin/"):
            assert (401, "invalid_admin_key") == told(answer), (method, path)
    refused = Gateway(gateway.url, gateway.api_key).generate(**body)
    assert (400, "model_not_found") == told(refused)
    assert 404 == gateway.get("/v1/models/restricted-model").status_code
    assert 404 == gateway.get("/metrics").status_code
    assert ["image-01"] == [model["id"] for model in gateway.get("/v1/models").json()["data"]]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_a_browser_gets_no_leave_to_use_the_admin_api(gateway: Gateway, method: str) -> None:
    wish = (b"origin: https://evil.example", f"access-control-request-method: {method}".encode())
    preflight = ask(
        gateway.url, head(b"OPTIONS /admin/v1/tenants", *wish, b"access-control-request-headers: authorization")
    )
    assert 405 == preflight.status
    plain = ask(gateway.url, head(b"GET /admin/v1/tenants", wish[0], key=ADMIN_KEY))
    assert 200 == plain.status
    for reply in (preflight, plain):
        assert [] == [name for name in reply.headers if name.startswith("access-control-")]
        assert reply.headers.items() >= FIXED_HEADERS.items()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/nope"])
def test_every_answer_has_the_headers_that_keep_browsers_from_it_and_none_that_names_a_server(
    gateway: Gateway, path: str
) -> None:
    reply = ask(gateway.url, head(f"GET {path}".encode()))
    assert reply.headers.items() >= FIXED_HEADERS.items()
    assert {"server", "via", "x-powered-by", "strict-transport-security"}.isdisjoint(reply.headers)
    over_a_proxy = ask(gateway.url, head(f"GET {path}".encode(), b"x-forwarded-proto: https"))
    assert "strict-transport-security" not in over_a_proxy.headers
