"""Base URLs that are a character off, and Azure's paths and key headers."""

import re
from typing import Final
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.addresses import Addresses
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, Simulator, new_key
from tests.support.strangers import ask, head

GENERATIONS: Final = "/v1/images/generations"
IMAGE: Final = {"prompt": "x", "response_format": "url"}
NATIVE_IMAGE: Final = {"model": "image-01", "prompt": "x"}


def labels(gateway: Gateway) -> set[str]:
    """Returns the routes that the metrics name, except those of operators."""
    lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("imagegate_requests_total{")]
    found = {line.partition('route="')[2].partition('"')[0] for line in counted}
    return {label for label in found - {"/metrics"} if not label.startswith("/admin/")}


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1//images/generations",
            "//v1/images/generations",
            "/v1/images/generations/",
            "///v1///images//generations//",
        ),
        *("/v1/v1/images/generations", "/v1/v1/v1//images/generations/", "/images/generations", "//images/generations"),
        *("/openai/v1/images/generations", "/openai/v1/v1/images/generations", "/openai/images/generations"),
    ],
)
def test_an_address_that_is_clear_is_served_as_the_route_it_means(
    gateway: Gateway, simulator: Simulator, path: str
) -> None:
    response = gateway.post(path, IMAGE)
    assert 200 == response.status_code, response.text
    assert response.json()["data"][0]["url"]
    assert 1 == simulator.images_billed()
    assert {GENERATIONS} == labels(gateway)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    [
        *("/v1//image_generation", "/v1/image_generation/", "/v1/v1/image_generation", "/image_generation"),
        *("/minimaxi//v1/image_generation", "/minimaxi/v1/image_generation/", "/minimaxi/v1/v1/image_generation"),
        *("/minimaxi/image_generation", "/minimaxi/minimaxi/v1/image_generation"),
    ],
)
def test_the_native_routes_are_repaired_too(gateway: Gateway, path: str) -> None:
    made, refused = gateway.post(path, NATIVE_IMAGE), gateway.post(path, {})
    assert (200, 0) == (made.status_code, made.json()["base_resp"]["status_code"])
    assert (200, 2013) == (refused.status_code, refused.json()["base_resp"]["status_code"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path", ["/v1/models/", "/v1//models", "/models", "/models/", "/v1/v1/models", "/openai/models"]
)
def test_every_spelling_of_the_list_of_models_lists_them(gateway: Gateway, path: str) -> None:
    listed = gateway.get(path)
    assert 200 == listed.status_code
    assert gateway.get("/v1/models").json() == listed.json()
    assert 401 == httpx.get(gateway.url + path).status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path", ["/v1//models/dall-e-3", "/v1/models//dall-e-3", "/v1/models/dall-e-3/", "/models/dall-e-3"]
)
def test_every_spelling_of_a_model_finds_it(gateway: Gateway, path: str) -> None:
    assert "dall-e-3" == gateway.get(path).json()["id"]


@pytest.mark.shares_gateway
def test_a_name_with_an_encoded_slash_stays_one_name(gateway: Gateway) -> None:
    for path in ("/v1/models/org%2Fname", "/v1//models/org%2Fname"):
        assert "The model 'org/name' does not exist." == gateway.get(path).json()["error"]["message"]


POST_IMAGES: Final = "Did you mean POST /v1/images/generations?"


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("/v1/image/generations", POST_IMAGES),
        ("/V1/images/generations", POST_IMAGES),
        ("/api/v1/images/generations", POST_IMAGES),
        ("/v1/images/generations/images/generations", POST_IMAGES),
        ("/v1/images", POST_IMAGES),
        ("/v1/images/generate", POST_IMAGES),
        ("/v1/Images/Generations", POST_IMAGES),
        ("/v1/engines/dall-e-2/images/generations", POST_IMAGES),
        ("/v1/generations", POST_IMAGES),
        ("/openai/deployments/gpt-image-1/image/generations", POST_IMAGES),
        ("/v1/image_generations", "Did you mean POST /v1/image_generation?"),
        ("/minimaxi/v2/image_generation", "Did you mean POST /v1/image_generation?"),
        ("/v1/model", "Did you mean GET /v1/models?"),
        ("/api/models", "Did you mean GET /v1/models?"),
    ],
)
def test_any_other_address_ends_with_the_closest_route(gateway: Gateway, path: str, suggestion: str) -> None:
    response = gateway.post(path, IMAGE)
    error = response.json()["error"]
    assert (404, "unknown_url") == (response.status_code, error["code"])
    assert f"Invalid URL (POST {path}). {suggestion}" == error["message"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/nope", "/v1/chat/completions", "/v1/responses", "/v1/files", "/v1/moderations", "/x" * 8000],
)
def test_nothing_is_suggested_if_no_route_is_close(gateway: Gateway, path: str) -> None:
    assert "Did you mean" not in httpx.get(gateway.url + path).text


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/completions", "/v1/embeddings", "/v1/nope"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that_is_close_to_none_says_what_is_here(gateway: Gateway, method: str, path: str) -> None:
    response = httpx.request(method, gateway.url + path)
    error = response.json()["error"]
    assert (404, "invalid_request_error", "unknown_url") == (response.status_code, error["type"], error["code"])
    assert (
        f"Invalid URL ({method} {path}). This server makes images: use POST /v1/images/generations or POST "
        "/v1/images/edits. GET /v1/models lists its models." == error["message"]
    )


@pytest.mark.shares_gateway
def test_operators_routes_say_nothing_of_the_tenants(gateway: Gateway) -> None:
    error = httpx.get(f"{gateway.url}/admin/v1/nope").json()["error"]
    assert "Invalid URL (GET /admin/v1/nope)." == error["message"]


@pytest.mark.shares_gateway
def test_a_wrong_method_of_a_repaired_address_is_405(gateway: Gateway) -> None:
    response = gateway.get("/v1//images/generations/")
    assert (405, "POST") == (response.status_code, response.headers["allow"])
    assert "method_not_allowed" == response.json()["error"]["code"]


OPERATORS: Final = ("/admin/v1/tenants", "/admin/v1/pool", "/metrics", "/openapi.json", "/healthz", "/readyz")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", OPERATORS)
@pytest.mark.parametrize(
    "spelling",
    ["/{}", "{}/", "/v1{}", "/openai{}", "/v1/..{}", "/v1/%2e%2e{}", "/v1%2f..{}", "/openai/deployments/x{}"],
)
def test_no_spelling_leads_to_what_is_the_operators(gateway: Gateway, spelling: str, path: str) -> None:
    request = head(b"GET " + spelling.format(path).encode(), key=ADMIN_KEY)
    assert 404 == ask(gateway.url, request).status


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    ["/v1/%2Fimages/generations", "/v1%2f/models", "/%76%31//models", "/v1/./models", "/v1/x/../models", "/v1\\models"],
)
def test_encoded_characters_and_dots_are_never_repaired(gateway: Gateway, path: str) -> None:
    assert 404 == ask(gateway.url, head(b"GET " + path.encode(), key=gateway.api_key)).status


def test_addresses_without_a_route_have_one_label(gateway: Gateway) -> None:
    for number in range(5):
        gateway.post(f"/v1/images/generations{number}", IMAGE)
        gateway.post(f"/openai/deployments/m{number}/images/generations", {})
    assert {"_unknown", GENERATIONS} == labels(gateway)


SEGMENTS: Final = (
    *("v1", "V1", "openai", "minimaxi", "deployments", "images", "generations", "image_generation", "models", "m"),
    *(
        "admin",
        "tenants",
        "metrics",
        "healthz",
        "readyz",
        "openapi.json",
        "",
        ".",
        "..",
        "%2f",
        "%2e%2e",
        "v1%2f",
        "a%2fb",
    ),
)


async def nothing(_: Request) -> Response:
    return Response()


@given(st.lists(st.sampled_from(SEGMENTS), max_size=8))
def test_whatever_is_repaired_becomes_a_route_of_tenants(segments: list[str]) -> None:
    paths = ("/v1/images/generations", "/v1/image_generation", "/minimaxi/v1/image_generation", "/v1/models")
    addresses = Addresses([Route(path, nothing) for path in (*paths, "/v1/models/{name:path}")])
    raw = "/" + "/".join(segments)
    scope = {"type": "http", "path": unquote(raw), "raw_path": raw.encode()}
    addresses.repair(scope)
    if scope["path"] != unquote(raw):
        assert re.fullmatch("|".join(map(re.escape, paths)) + "|/v1/models/.+", str(scope["path"]))
        assert not scope.get("path_params") or "deployments" in segments


AZURE: Final = (
    "/openai/deployments/{}/images/generations?api-version=2025-04-01-preview",
    "/v1/deployments/{}/images/generations?api-version=2024-10-21",
    "/v1/openai/deployments/{}/images/generations?api-version=2024-10-21",
    "/openai/openai/deployments/{}/images/generations",
    "/deployments/{}/images/generations",
    "/openai//deployments/{}/images/generations/",
)


@pytest.mark.parametrize("path", AZURE)
def test_an_azure_deployment_is_a_model(gateway: Gateway, path: str) -> None:
    headers = {"api-key": gateway.api_key}
    made = httpx.post(gateway.url + path.format("dall-e-3"), json={"prompt": "x"}, headers=headers, timeout=30)
    assert 200 == made.status_code, made.text
    assert made.json()["data"][0]["url"], "dall-e names have links"
    unknown = httpx.post(gateway.url + path.format("nope"), json={"prompt": "x"}, headers=headers)
    assert (400, "model_not_found") == (unknown.status_code, unknown.json()["error"]["code"])
    assert {GENERATIONS} == labels(gateway)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", ["org/name", "org%2Fname", "a%20b"])
def test_a_deployment_may_have_any_model_s_name(gateway: Gateway, name: str) -> None:
    told = gateway.post(f"/openai/deployments/{name}/images/generations", {"prompt": "x"}).json()["error"]["message"]
    assert f"'{httpx.URL('http://x/' + name).path[1:]}'" in told


@pytest.mark.shares_gateway
def test_the_deployment_decides_and_another_model_is_reported_as_ignored(gateway: Gateway) -> None:
    path = "/openai/deployments/dall-e-3/images/generations"
    same, other = (gateway.post(path, {"prompt": "x", "model": name}) for name in ("dall-e-3", "nope"))
    assert (200, None) == (same.status_code, same.headers.get("x-imagegate-ignored"))
    assert (200, "model") == (other.status_code, other.headers["x-imagegate-ignored"])


@pytest.mark.shares_gateway
def test_a_tenant_without_a_deployment_s_model_is_refused(gateway: Gateway) -> None:
    key = new_key(gateway.url, "poor", models=[])
    response = gateway.post(AZURE[0].format("dall-e-3"), {"prompt": "x"}, authorization=f"Bearer {key}")
    assert (400, "model_not_found") == (response.status_code, response.json()["error"]["code"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", ["api-key", "x-api-key", "Api-Key"])
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/image_generation", "/v1/models"])
def test_a_key_is_read_from_azure_s_header_everywhere(gateway: Gateway, name: str, path: str) -> None:
    method, body = ("GET", None) if path.endswith("models") else ("POST", NATIVE_IMAGE)
    response = httpx.request(method, gateway.url + path, json=body, headers={name: gateway.api_key}, timeout=30)
    assert 200 == response.status_code
    assert 0 == response.json().get("base_resp", {"status_code": 0})["status_code"]


@pytest.mark.shares_gateway
def test_an_admin_key_is_read_from_there_too(gateway: Gateway) -> None:
    assert 200 == httpx.get(f"{gateway.url}/admin/v1/tenants", headers={"api-key": ADMIN_KEY}).status_code
    assert 401 == httpx.get(f"{gateway.url}/admin/v1/tenants", headers={"api-key": gateway.api_key}).status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("others", "status"),
    [
        ({"authorization": "Bearer KEY"}, 200),
        ({"authorization": "bearer  KEY"}, 200),
        ({"authorization": "Bearer"}, 200),
        ({"authorization": "Basic eDp5"}, 200),
        ({"x-api-key": "a-proxy's"}, 200),
        ({"authorization": "Bearer KEY", "x-api-key": "a-proxy's"}, 200),
        ({"authorization": "Bearer sk-other"}, 401),
        ({"authorization": "Bearer sk-other", "x-api-key": "KEY"}, 401),
    ],
)
def test_two_different_keys_are_refused(gateway: Gateway, others: dict[str, str], status: int) -> None:
    sent = {name: value.replace("KEY", gateway.api_key) for name, value in others.items()}
    response = httpx.get(f"{gateway.url}/v1/models", headers={"api-key": gateway.api_key} | sent)
    assert status == response.status_code
    if status == 401:
        assert "different keys" in response.json()["error"]["message"]
        assert "sk-" not in response.text


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", [b"api-key", b"x-api-key"])
def test_two_lines_with_a_key_are_refused(gateway: Gateway, name: bytes) -> None:
    line = name + b": " + gateway.api_key.encode()
    assert 400 == ask(gateway.url, head(b"GET /v1/models", line, line)).status


def test_wrong_keys_of_azure_s_header_are_throttled_and_masked(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"auth_failures_per_minute": 3})
    assert 200 == httpx.get(f"{gateway.url}/v1/models", headers={"api-key": gateway.api_key}).status_code
    wrong = [f"sk-ig-{number:042}" for number in range(5)]
    answers = [httpx.get(f"{gateway.url}/v1/models", headers={"api-key": key}) for key in wrong]
    assert [401, 401, 401, 429, 429] == [answer.status_code for answer in answers]
    assert not [key for key, answer in zip(wrong, answers, strict=True) if key in answer.text]
    assert 200 == httpx.get(f"{gateway.url}/v1/models", headers={"api-key": gateway.api_key}).status_code


@pytest.mark.shares_gateway
def test_a_version_in_the_query_is_accepted_everywhere(gateway: Gateway) -> None:
    assert 200 == gateway.post(f"{GENERATIONS}?api-version=preview", IMAGE).status_code
    assert 200 == gateway.get("/openai/v1/models?api-version=preview").status_code
