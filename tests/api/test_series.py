"""How many series there are: labels are closed sets, whatever strangers send."""

import re
import socket
from collections.abc import Iterator
from itertools import islice
from typing import Final

import httpx
import pytest

from gateway.server.config import ConnectionLimits
from tests.support.harness import Gateway, MakeGateway, new_key
from tests.support.samples import labels, samples

ROUTES: Final = frozenset(
    {"/v1/images/generations", "/v1/models", "/v1/models/{name:path}", "/metrics", "/healthz", "/readyz", "_unknown"}
    | {"/admin/v1/tenants", "/admin/v1/tenants/{name}/keys"}
)


def exchange(gateway: Gateway, requests: Iterator[bytes], answer: bytes) -> int:
    """Send requests as many at a time as the gateway takes ahead, and count the answers that begin so."""
    host, port = gateway.url.removeprefix("http://").split(":")
    count = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        while batch := list(islice(requests, ConnectionLimits().pipelined_max)):
            connection.sendall(b"".join(batch))
            received = b""
            while received.count(b"HTTP/1.1 ") < len(batch) or not received.endswith(b"}"):
                part = connection.recv(2**16)
                assert part, "it hung up"
                received += part
            count += received.count(answer)
    return count


def request_line(gateway: Gateway, start: str, body: bytes = b"") -> bytes:
    head = (
        f"{start} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def series(url: str) -> set[tuple[str, ...]]:
    return {(name, *found.values()) for name, found, _ in samples(url)}


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_paths_and_junk_models_add_no_series(make_gateway: MakeGateway, count: int) -> None:
    """Beyond those that one of each adds."""
    gateway = make_gateway(server={"rejections_per_second": 0})
    junk = (b'{"prompt":"x","model":"junk-%d"}' % number for number in range(count + 1))
    models = (request_line(gateway, "POST /v1/images/generations", body) for body in junk)
    paths = (request_line(gateway, f"GET /random/{number}") for number in range(count + 1))
    refused = ((models, b"HTTP/1.1 400 "), (paths, b"HTTP/1.1 404 "))
    assert [1, 1] == [exchange(gateway, islice(kind, 1), answer) for kind, answer in refused]
    samples(gateway.url)
    before = series(gateway.url)
    assert [count] * 2 == [exchange(gateway, kind, answer) for kind, answer in refused]
    assert before == series(gateway.url)
    assert count + 1 == sum(
        value
        for name, told, value in samples(gateway.url)
        if (name, told.get("route")) == ("imagegate_requests_total", "_unknown")
    )


def test_tenants_beyond_the_cap_are_counted_together(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(metrics={"max_tenant_series": 2})
    keys = {name: new_key(gateway.url, name) for name in ("acme", "beta", "gamma", "delta")}
    for key in keys.values():
        Gateway(gateway.url, key).generate(prompt="x")
    found = {told["tenant"]: value for name, told, value in samples(gateway.url) if name == "imagegate_images_total"}
    assert {"acme": 1.0, "beta": 1.0, "_other": 2.0} == found


def test_random_paths_and_junk_do_not_grow_the_metrics(gateway: Gateway) -> None:
    """Labels are closed sets: nothing that a stranger writes becomes one."""
    for number in range(30):
        httpx.get(f"{gateway.url}/random/{number}")
        httpx.post(f"{gateway.url}/v1/models/{number}")
        gateway.get(f"/v1/models/junk-{number}")
        gateway.generate(prompt="x", model=f"junk-{number}")
        gateway.get("/v1/models", authorization=f"Bearer junk-{number}")
    assert set() == labels(gateway.url, "route") - {route.replace(":path}", "}") for route in ROUTES}
    assert {"", "acme"} == labels(gateway.url, "tenant")
    assert set() == labels(gateway.url, "model") - {"", "image-01"}
    assert not re.search(r"junk|random", httpx.get(f"{gateway.url}/metrics").text)
