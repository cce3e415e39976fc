"""What surrounds every request: its id, OpenAI's headers, CORS."""

import re
from typing import Final

import httpx
import pytest

from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway

MADE: Final = re.compile(r"req_[0-9a-f]{32}")
ORIGIN: Final = "https://app.example.org"
EVERYWHERE: Final = ("/v1/models", "/v1/nope", "/healthz", "/readyz", "/metrics", "/openapi.json", "/admin/v1/pool")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", EVERYWHERE)
def test_every_answer_has_an_id_a_time_and_a_version(gateway: Gateway, path: str) -> None:
    headers = gateway.get(path).headers
    assert MADE.fullmatch(headers["x-request-id"])
    assert headers["openai-processing-ms"].isdecimal()
    assert "2020-10-01" == headers["openai-version"]
    assert "server" not in headers


@pytest.mark.shares_gateway
def test_ids_are_not_given_twice(gateway: Gateway) -> None:
    assert 20 == len({gateway.get("/healthz").headers["x-request-id"] for _ in range(20)})


@pytest.mark.shares_gateway
@pytest.mark.parametrize("given", ["a", "req_abc", "A.b-c_9", "0" * 128, "2f6d4c1b-8e0a-4f7d-9c3b-5a6e7f801234"])
def test_a_well_formed_id_of_the_client_is_kept(gateway: Gateway, given: str) -> None:
    for path in ("/v1/models", "/v1/nope"):
        assert given == gateway.get(path, x_request_id=given).headers["x-request-id"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("given", ["", "a b", "a;b", "a%0d%0ab", "0" * 129, '{"a":1}', "a,b", "<script>", "é"])
def test_any_other_id_is_replaced(gateway: Gateway, given: str) -> None:
    sent = [(b"x-request-id", given.encode("latin-1"))]
    request = httpx.Request("GET", f"{gateway.url}/v1/nope", headers=sent)
    with httpx.Client() as client:
        assert MADE.fullmatch(client.send(request).headers["x-request-id"])


@pytest.mark.shares_gateway
def test_the_time_includes_the_upstream(gateway: Gateway) -> None:
    response = gateway.generate(prompt="x [delay=0.2]")
    assert int(response.headers["openai-processing-ms"]) >= 200


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/images/generations", "/v1/models", "/v1/image_generation", "/v1/nope", "/v1//models", "/nope", "/"),
        *("/images/generations", "/openai/deployments/m/images/generations", "/minimaxi/v1/image_generation"),
    ],
)
def test_a_browser_may_ask_first(gateway: Gateway, path: str) -> None:
    wanted = "authorization, content-type, x-stainless-lang, x-request-id"
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
    }
    response = httpx.options(gateway.url + path, headers=headers)
    assert 200 == response.status_code
    assert "*" == response.headers["access-control-allow-origin"]
    assert {"GET", "POST"} <= set(response.headers["access-control-allow-methods"].split(", "))
    assert wanted == response.headers["access-control-allow-headers"]
    assert response.headers["x-request-id"]


@pytest.mark.shares_gateway
def test_a_browser_may_read_the_answer_and_our_headers(gateway: Gateway) -> None:
    response = gateway.post("/v1/images/generations", {"prompt": "x"}, origin=ORIGIN)
    assert 200 == response.status_code
    assert "*" == response.headers["access-control-allow-origin"]
    assert "*" == response.headers["access-control-expose-headers"], "every header, also those of later versions"
    assert "access-control-allow-credentials" not in response.headers, "with credentials, * would be a name"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/images/generations", {}, 400),
        ("/v1/images/generations", b"{", 400),
        ("/v1/images/generations", b" " * 2_000_000, 413),
        ("/v1/images/generations", {"prompt": "[code=1002]"}, 429),
        ("/v1/images/generations", {"prompt": "[http=502]"}, 502),
        ("/v1/nope", {}, 404),
        ("/v1/models", {}, 405),
        ("/images", {}, 404),
        ("/V1/images/generations", {}, 404),
        ("/openai/deployments/m/chat/completions", {}, 400),
        ("/", {}, 404),
    ],
)
def test_a_browser_may_read_errors_too(gateway: Gateway, path: str, body: object, status: int) -> None:
    response = gateway.post(path, body, origin=ORIGIN)
    assert status == response.status_code
    assert "*" == response.headers["access-control-allow-origin"]
    assert "*" == response.headers["access-control-expose-headers"]


@pytest.mark.shares_gateway
def test_a_browser_may_read_a_401(gateway: Gateway) -> None:
    response = httpx.get(f"{gateway.url}/v1/models", headers={"origin": ORIGIN})
    assert (401, "*") == (response.status_code, response.headers["access-control-allow-origin"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    [
        *("/admin/v1/tenants", "/admin/v1/pool", "/admin/v1/nope", "/admin", "/%61dmin/v1/pool"),
        *("/metrics", "/readyz", "/healthz", "/openapi.json"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_what_is_not_the_tenants_is_closed_to_browsers(gateway: Gateway, method: str, path: str) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "GET", "authorization": f"Bearer {ADMIN_KEY}"}
    headers["access-control-request-private-network"] = "true"
    response = httpx.request(method, gateway.url + path, headers=headers)
    assert [] == [name for name in response.headers if name.startswith("access-control-")]


def test_only_configured_origins_are_let_in(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"cors_origins": [ORIGIN]})
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        for response in (
            gateway.get("/v1/models", origin=origin),
            gateway.get("/v1/nope", origin=origin),
            httpx.options(
                f"{gateway.url}/v1/models", headers={"origin": origin, "access-control-request-method": "GET"}
            ),
        ):
            assert allowed == response.headers.get("access-control-allow-origin")


@pytest.mark.shares_gateway
def test_a_program_that_is_no_browser_gets_no_cors_headers(gateway: Gateway) -> None:
    assert "access-control-allow-origin" not in gateway.get("/v1/models").headers


def test_the_timer_ends_with_a_refused_preflight(make_gateway: MakeGateway) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "PUT"}
    response = httpx.options(f"{make_gateway().url}/v1/models", headers=headers)
    assert 400 == response.status_code
    assert {"x-request-id", "openai-processing-ms"} <= set(response.headers)


@pytest.mark.shares_gateway
def test_a_refused_preflight_has_an_error_body_too(gateway: Gateway) -> None:
    asked = {"origin": ORIGIN, "access-control-request-method": "PUT"}
    answer = httpx.options(f"{gateway.url}/v1/images/generations", headers=asked)
    assert (400, "preflight_refused") == (answer.status_code, answer.json()["error"]["code"])
    assert MADE.fullmatch(answer.headers["x-request-id"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/models", "/images/generations"])
def test_a_page_of_the_web_may_use_a_gateway_of_the_private_network(gateway: Gateway, path: str, value: str) -> None:
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    answer = httpx.options(gateway.url + path, headers=asked | {"access-control-request-private-network": value})
    assert (200, "true") == (answer.status_code, answer.headers["access-control-allow-private-network"])
    assert "access-control-allow-private-network" not in httpx.options(gateway.url + path, headers=asked).headers


def test_only_pages_of_configured_origins_may_use_it(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"cors_origins": [ORIGIN]})
    for origin, status, allowed in ((ORIGIN, 200, "true"), ("https://evil.example", 400, None)):
        asked = {"origin": origin, "access-control-request-method": "POST"}
        asked["access-control-request-private-network"] = "true"
        answer = httpx.options(f"{gateway.url}/v1/models", headers=asked)
        assert status == answer.status_code
        assert allowed == answer.headers.get("access-control-allow-private-network")


@pytest.mark.shares_gateway
def test_a_browser_may_send_azure_s_header(gateway: Gateway) -> None:
    asked = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "api-key"}
    answer = httpx.options(f"{gateway.url}/v1/images/generations", headers=asked)
    assert (200, "api-key") == (answer.status_code, answer.headers["access-control-allow-headers"])
