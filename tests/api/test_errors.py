"""Whatever a client sends: OpenAI's error body, or `base_resp` on the native routes; never HTML, never a 500."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.harness import Gateway, MakeGateway, Simulator, document, environment, serving, upstream
from tests.support.scarce import scarce

GENERATIONS: Final = "/v1/images/generations"
NATIVE: Final = ("/v1/image_generation", "/minimaxi/v1/image_generation")
KEYS: Final = {"message", "type", "param", "code"}
MIB: Final = 1024 * 1024


def check_error(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    """An OpenAI error and nothing else; returns its inner object."""
    assert status == response.status_code, response.text[:300]
    assert "application/json" == response.headers["content-type"]
    assert response.headers["x-request-id"]
    assert response.headers["openai-processing-ms"].isdecimal()
    body = response.json()
    assert {"error"} == set(body)
    error: dict[str, Any] = body["error"]
    assert set(error) >= KEYS
    assert error["message"]
    assert code == error["code"]
    return error


def send_raw(gateway: Gateway, head: str, *bodies: bytes) -> httpx.Response:
    """Bytes as they are, for what no client library sends; the connection is closed by the server."""
    url = httpx.URL(gateway.url)
    request = httpx.Request("POST", url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1"))
        for body in bodies:
            connection.sendall(body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    start, _, content = received.partition(b"\r\n\r\n")
    status, *lines = start.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=content, request=request)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/nope",
        "/v1/images",
        "/v1/embeddings",
        "/v1//nope",
        "/v2/images/generations",
        "/admin/v1/nope",
        "/admin",
        "/favicon.ico",
        "/v1/images/%00",
        "/v1/%ff%fe",
        "/v1/%0d%0aset-cookie:%20a=b",
        "/..%2f..%2fetc/passwd",
        "/" + "x" * 4000,
    ],
)
def test_unknown_routes_are_404_and_name_method_and_path(gateway: Gateway, method: str, path: str) -> None:
    response = httpx.request(method, gateway.url + path)
    error = check_error(response, 404, "unknown_url")
    assert error["message"].startswith(f"Invalid URL ({method} /")
    assert "set-cookie" not in response.headers
    assert len(error["message"]) < 400


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "path",
    [
        "/healthz/",
        "/metrics/",
        "/openapi.json/",
        "//healthz",
        "/admin/v1/tenants/",
        "/admin/v1/pool/",
        "/admin//v1/pool",
    ],
)
def test_a_slash_too_many_is_404_on_operators_routes(gateway: Gateway, path: str) -> None:
    """A proxy that denies a path may compare it literally."""
    error = check_error(gateway.post(path, {"prompt": "x"}), 404, "unknown_url")
    assert error["message"].startswith(f"Invalid URL (POST {path}).")
    assert "Did you mean" not in error["message"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", GENERATIONS, {"POST"}),
        ("DELETE", GENERATIONS, {"POST"}),
        ("OPTIONS", GENERATIONS, {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("PUT", "/v1/models/image-01", {"GET", "HEAD"}),
        ("GET", NATIVE[0], {"POST"}),
        ("GET", NATIVE[1], {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("POST", "/readyz", {"GET", "HEAD"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("DELETE", "/openapi.json", {"GET", "HEAD"}),
        ("PUT", "/admin/v1/tenants", {"GET", "HEAD", "POST"}),
        ("POST", "/admin/v1/tenants/acme", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("DELETE", "/admin/v1/tenants/acme/keys", {"GET", "HEAD", "POST"}),
        ("POST", "/admin/v1/keys/abc", {"DELETE", "GET", "HEAD", "PATCH"}),
        ("PUT", "/admin/v1/pool", {"GET", "HEAD", "POST"}),
    ],
)
def test_wrong_methods_are_405_and_told_every_right_one(
    gateway: Gateway, method: str, path: str, allowed: set[str]
) -> None:
    response = httpx.request(method, gateway.url + path)
    check_error(response, 405, "method_not_allowed")
    assert allowed == set(response.headers["allow"].split(", "))


@pytest.mark.shares_gateway
def test_head_is_answered_without_a_body(gateway: Gateway) -> None:
    for path, status in (("/v1/models", 200), ("/healthz", 200), (GENERATIONS, 405), ("/nope", 404)):
        response = httpx.head(gateway.url + path, headers={"authorization": f"Bearer {gateway.api_key}"})
        assert (status, b"") == (response.status_code, response.content)


BROKEN: Final = [
    pytest.param(b"", id="empty"),
    pytest.param(b" ", id="blank"),
    pytest.param(b"{", id="open"),
    pytest.param(b"prompt=x", id="form"),
    pytest.param(b"[]", id="array"),
    pytest.param(b"null", id="null"),
    pytest.param(b"1", id="number"),
    pytest.param(b'"x"', id="string"),
    pytest.param(b'{"prompt": "x"} trailing', id="trailing"),
    pytest.param(b'{"prompt": "x",}', id="comma"),
    pytest.param(b"{'prompt': 'x'}", id="quotes"),
    pytest.param(b'{"prompt": NaN}', id="nan"),
    pytest.param(b'{"prompt": "\xff\xfe"}', id="not-utf8"),
    pytest.param(b'{"prompt": "\\x00"}', id="bad-escape"),
    pytest.param(b'{"prompt": "a\nb"}', id="raw-control"),
    pytest.param(b"\xef\xbb\xbf", id="bom"),
    pytest.param('{"prompt": "x"}'.encode("utf-16"), id="utf16"),
    pytest.param(b'{"style":' * 20_000 + b"1" + b"}" * 20_000, id="deep-objects"),
    pytest.param(b'{"prompt": ' + b"[" * 100_000, id="deep-arrays"),
    pytest.param(b"\x00" * 1000, id="zeros"),
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("body", BROKEN)
def test_broken_json_is_400_without_a_code(gateway: Gateway, body: bytes) -> None:
    error = check_error(gateway.post(GENERATIONS, body), 400, None)
    assert ("invalid_request_error", None) == (error["type"], error["param"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("body", BROKEN)
def test_broken_json_is_base_resp_on_the_native_routes(gateway: Gateway, path: str, body: bytes) -> None:
    check_native(gateway.post(path, body), 2013)


HOSTILE: Final = [
    pytest.param(b'{"prompt": 1e999}', None, id="huge-float"),
    pytest.param(b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", None, id="huge-integer"),
    pytest.param(b'{"prompt": "x", "n": -' + b"9" * 30 + b"}", "n", id="huge-negative"),
    pytest.param(b'{"prompt": "x", "__proto__": {}}', "__proto__", id="proto"),
    pytest.param(b'{"prompt": "x", "": 1}', "", id="empty-name"),
    pytest.param(b'{"prompt": "x", "a\\r\\nset-cookie: b": 1}', "a\r\nset-cookie: b", id="header-in-name"),
    pytest.param(b'{"prompt": "x", "' + b"k" * 5000 + b'": 1}', "k" * 64 + "...", id="long-name"),
    pytest.param(b'{"prompt": "x", "model": "a\\r\\nx-evil: 1"}', "model", id="header-in-model"),
    pytest.param(b'{"prompt": "x", "size": "1024x1024\\n"}', "size", id="newline-in-size"),
    pytest.param('{"prompt": "x", "size": "\u0661\u0660x\u0661\u0660"}'.encode(), "size", id="arabic-digits"),
    pytest.param(b'{"prompt": "x", "subject_reference": [[[[]]]]}', "subject_reference", id="nested"),
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(("body", "param"), HOSTILE)
def test_hostile_json_is_refused_by_name(gateway: Gateway, body: bytes, param: str | None) -> None:
    response = gateway.post(GENERATIONS, body)
    assert 400 == response.status_code, response.text
    error = check_error(response, 400, response.json()["error"]["code"])
    assert param == error["param"]
    assert not {"set-cookie", "x-evil"} & set(response.headers)
    assert len(response.content) < 1000


@pytest.mark.shares_gateway
def test_a_field_given_twice_is_not_an_accident_waiting_to_happen(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.post(GENERATIONS, b'{"prompt": "x", "n": 1, "n": 2}')
    assert 200 == response.status_code
    assert len(response.json()["data"]) == simulator.images_billed()


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-type", "application/jsonp"),
        ("content-type", "json"),
        ("content-type", ";"),
        ("content-type", ""),
        ("content-encoding", "br"),
        ("content-encoding", "gzip, br"),
    ],
)
def test_other_content_types_and_encodings_are_refused(gateway: Gateway, header: str, value: str) -> None:
    headers = {"authorization": f"Bearer {gateway.api_key}", "content-type": "application/json", header: value}
    response = httpx.post(gateway.url + GENERATIONS, content=b'{"prompt": "x"}', headers=headers)
    check_error(response, 415, "unsupported_content_type")


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "value", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"]
)
def test_every_spelling_of_json_is_accepted(gateway: Gateway, value: str) -> None:
    assert 200 == gateway.post(GENERATIONS, {"prompt": "x"}, content_type=value).status_code


@pytest.mark.shares_gateway
def test_a_body_without_content_type_is_taken_for_json(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    response = httpx.post(gateway.url + GENERATIONS, content=b'{"prompt": "x"}', headers=headers)
    assert 200 == response.status_code


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total // 65536):
        yield b" " * 65536


def test_bodies_up_to_the_limit_are_read(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"max_body_bytes": 1000})
    body = b'{"prompt": "x"}'
    assert 200 == gateway.post(GENERATIONS, body.ljust(1000)).status_code
    check_error(gateway.post(GENERATIONS, body.ljust(1001)), 413, "request_too_large")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 30 * MIB])
def test_oversize_bodies_are_413(gateway: Gateway, size: int) -> None:
    response = gateway.post(GENERATIONS, b" " * size)
    check_error(response, 413, "request_too_large")
    assert "false" == response.headers["x-should-retry"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("size", [2 * MIB, 30 * MIB])
def test_oversize_bodies_without_a_length_are_413(gateway: Gateway, size: int) -> None:
    headers = {"authorization": f"Bearer {gateway.api_key}", "content-type": "application/json"}
    response = httpx.post(gateway.url + GENERATIONS, content=chunks(size), headers=headers, timeout=30)
    check_error(response, 413, "request_too_large")


@pytest.mark.shares_gateway
def test_an_oversize_body_leaves_the_gateway_in_order(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {gateway.api_key}"}) as client:
        check_error(client.post(GENERATIONS, content=b" " * 3 * MIB), 413, "request_too_large")
        assert 200 == client.get("/v1/models").status_code
        assert 200 == client.post(GENERATIONS, json={"prompt": "x"}).status_code


@pytest.mark.shares_gateway
def test_the_admin_api_has_the_same_bound(gateway: Gateway) -> None:
    check_error(gateway.admin("POST", "/tenants", {"name": "x" * 2 * MIB}), 413, "request_too_large")


@pytest.mark.shares_gateway
def test_native_bodies_may_hold_a_portrait_and_are_bounded_too(gateway: Gateway) -> None:
    portrait = "data:image/jpeg;base64," + "A" * 5 * MIB
    body = {"model": "image-01", "prompt": "x"}
    reference = [{"type": "character", "image_file": portrait}]
    response = gateway.post(NATIVE[0], body | {"subject_reference": reference})
    assert 0 == response.json()["base_resp"]["status_code"]
    check_native(gateway.post(NATIVE[0], b" " * 17 * MIB), 2013)


def test_a_body_that_never_comes_is_408(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"body_timeout_s": 0.1})
    head = (
        f"POST {GENERATIONS} HTTP/1.1\nhost: x\nauthorization: Bearer {gateway.api_key}\n"
        "content-type: application/json\ncontent-length: 100\nconnection: close\n\n"
    )
    response = send_raw(gateway, head, b'{"prompt')
    check_error(response, 408, "request_timeout")


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Basic dXNlcjpwYXNz", None),
        ("sk-ig-abc", None),
        ("Bearer sk-ig-abc", "invalid_api_key"),
        ("Bearer sk-proj-something-of-openai", "invalid_api_key"),
        ("Bearer " + "sk-ig-" + "a" * 42, "invalid_api_key"),
        ("Bearer sk-ig-" + "*" * 42, "invalid_api_key"),
        ("Bearer sk-ig-" + "a" * 5000, "invalid_api_key"),
        ("Bearer two words", "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/models", "/v1/models/image-01"])
def test_missing_and_malformed_credentials_are_401(
    gateway: Gateway, path: str, authorization: str | None, code: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = httpx.request("POST" if path == GENERATIONS else "GET", gateway.url + path, headers=headers)
    error = check_error(response, 401, code)
    assert "invalid_request_error" == error["type"]
    assert ("Bearer", "false") == (response.headers["www-authenticate"], response.headers["x-should-retry"])
    assert authorization is None or len(authorization) < 20 or authorization.split(" ")[-1] not in response.text


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("authorization", "code"),
    [(None, 1004), ("Basic x", 1004), ("Bearer sk-ig-abc", 2049), ("Bearer " + "x" * 300, 2049)],
)
@pytest.mark.parametrize("path", NATIVE)
def test_credentials_are_refused_in_minimax_words_on_the_native_routes(
    gateway: Gateway, path: str, authorization: str | None, code: int
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    check_native(httpx.post(gateway.url + path, json={}, headers=headers), code)


def check_native(response: httpx.Response, code: int) -> None:
    assert 200 == response.status_code, response.text[:300]
    assert "application/json" == response.headers["content-type"]
    assert response.headers["x-request-id"]
    body = response.json()
    assert {"base_resp"} == set(body)
    assert code == body["base_resp"]["status_code"]
    assert body["base_resp"]["status_msg"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"model": "image-01"}, id="no-prompt"),
        pytest.param({"prompt": "x"}, id="no-model"),
        pytest.param({"model": "nope", "prompt": "x"}, id="unknown-model"),
        pytest.param({"model": 1, "prompt": "x"}, id="model-of-wrong-type"),
        pytest.param({"model": "image-01", "prompt": "x", "n": 10}, id="too-many"),
        pytest.param({"model": "image-01", "prompt": "x" * 1500}, id="prompt-too-long"),
        pytest.param({"model": "image-01", "prompt": "x", "response_format": "b64_json"}, id="openai-format"),
    ],
)
@pytest.mark.parametrize("path", NATIVE)
def test_bad_requests_are_2013_on_the_native_routes(gateway: Gateway, path: str, body: object) -> None:
    check_native(gateway.post(path, body), 2013)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", ["x-request-id", "x-client-request-id", "origin", "user-agent", "cookie"])
def test_no_request_header_ends_up_as_another_header(gateway: Gateway, name: str) -> None:
    """Servers refuse line ends in headers; what they let through is not copied into an answer's head."""
    value = "a%0d%0aset-cookie: b=c"
    response = httpx.get(f"{gateway.url}/v1/nope", headers={name: value})
    check_error(response, 404, "unknown_url")
    assert "set-cookie" not in response.headers
    assert value not in response.headers.values()


@pytest.mark.shares_gateway
@pytest.mark.parametrize("host", ["[", "[::1", "a b", "", 'x"y', "\xff", "evil.example:notaport"])
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/nope", NATIVE[0]])
def test_a_hostile_host_header_is_refused(gateway: Gateway, path: str, host: str) -> None:
    response = send_raw(gateway, f"POST {path} HTTP/1.1\nhost: {host}\nconnection: close\ncontent-length: 0\n\n")
    assert 400 == response.status_code
    assert "invalid_request_error" == response.json()["error"]["type"]


@contextmanager
def serving_with(redis_url: str, path: str, endpoint: Callable[[Request], Any]) -> Iterator[str]:
    """The whole program with one more route."""
    configured = document(redis_url, upstream("sim", "minimax", "http://127.0.0.1:1"))
    environ = environment(configured)
    app = create_app(resolve(from_document(configured, environ, "test"), environ))
    app.router.routes.insert(0, Route(path, endpoint, methods=["POST"]))
    with serving(app) as url:
        yield url


class SecretBearingError(Exception):
    """Something nobody thought of."""


async def fail(request: Request) -> Response:
    raise SecretBearingError("canary-of-the-exception at /srv/path")


async def fail_in_a_group(request: Request) -> Response:
    raise ExceptionGroup("canary-of-the-exception", [SecretBearingError("canary-of-the-exception")])


@pytest.mark.parametrize("endpoint", [fail, fail_in_a_group])
def test_an_unexpected_failure_is_500_without_its_text(
    redis_url: str, endpoint: Callable[[Request], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with serving_with(redis_url, "/v1/boom", endpoint) as url:
        response = httpx.post(f"{url}/v1/boom", headers={"origin": "https://app.example"})
        error = check_error(response, 500, "internal_error")
        assert "server_error" == error["type"]
        assert "false" == response.headers["x-should-retry"]
        assert "*" == response.headers["access-control-allow-origin"]
        assert not [word for word in ("canary", "Secret", "Traceback", "/srv") if word in response.text]
        assert 200 == httpx.get(f"{url}/healthz").status_code


def test_an_unexpected_failure_is_base_resp_on_a_native_route(redis_url: str) -> None:
    with serving_with(redis_url, NATIVE[0], fail) as url:
        check_native(httpx.post(url + NATIVE[0], json={}), 1001)


def test_a_failing_answer_is_cut_and_not_mended(redis_url: str) -> None:
    async def fail_late(request: Request) -> Response:
        class Half(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise SecretBearingError("late")

        return Half()

    with serving_with(redis_url, "/v1/late", fail_late) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{url}/v1/late")


@pytest.mark.parametrize("retryable", [429, 503])
def test_the_wait_is_at_most_two_minutes_and_never_60(
    make_gateway: MakeGateway, simulator: Simulator, retryable: int
) -> None:
    gateway = make_gateway(scarce(simulator.url, max_wait_s=0))
    code = {429: 1002, 503: 1008}[retryable]
    for _ in range(2):
        response = gateway.generate(prompt=f"x [code={code}]")
        assert retryable == response.status_code
        assert 1 <= int(response.headers["retry-after"]) <= 120
        assert "60" != response.headers["retry-after"]
        assert "x-should-retry" not in response.headers


@pytest.mark.parametrize("count", [1, 10])
def test_a_store_that_fails_is_503_however_many_images_were_asked_for(
    make_gateway: MakeGateway, redis_url: str, count: int
) -> None:
    """Ten images are two calls: what one of them raises must not come out as something else."""
    import redis  # noqa: PLC0415 - only this test spoils the store

    gateway = make_gateway()
    assert 200 == gateway.generate(prompt="x").status_code
    with redis.Redis.from_url(redis_url) as client:
        for key in client.keys("*:timers"):
            client.set(key, "no sorted set")
    response = gateway.generate(prompt="x", n=count)
    check_error(response, 503, "gateway_unavailable")
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_a_client_that_leaves_before_its_body_is_complete_harms_nobody(gateway: Gateway, simulator: Simulator) -> None:
    url = httpx.URL(gateway.url)
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(head.encode() + b'{"prompt": "x"')
    deadline = time.monotonic() + 10
    while 'route="/v1/images/generations"' not in httpx.get(f"{gateway.url}/metrics").text:
        assert time.monotonic() < deadline
    assert 'fault="internal"' not in httpx.get(f"{gateway.url}/metrics").text
    assert 0 == simulator.images_billed()


@pytest.mark.shares_gateway
def test_messages_survive_as_json(gateway: Gateway) -> None:
    """Quotes, line ends and odd signs of a name come back as they were sent."""
    name = 'quo"te \n  <script>é'
    response = gateway.post(GENERATIONS, json.dumps({"prompt": "x", "model": name}).encode())
    assert name in check_error(response, 400, "model_not_found")["message"]
