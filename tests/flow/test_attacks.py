"""What strangers do to a connection: bytes that are too many, too slow, ambiguous or meant for somebody else."""

import json
import time
from contextlib import suppress

import pytest

from tests.support.attack_vectors import (
    AMBIGUOUS,
    BODY,
    HEADS_TOO_LARGE,
    HEADS_WITHOUT_A_HOST,
    IN_CHUNKS,
    LIMITS,
    METHODS,
    NO_PATHS_OF_OURS,
    POST,
    SMUGGLED,
)
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, Simulator
from tests.support.logging_aside import logging_aside
from tests.support.strangers import (
    FIXED_HEADERS,
    ask,
    connected,
    head,
    replies,
    serves,
    talk,
)

GROWTH_MAX_MB = 100
"""Far above what a few connections need, far below what an attack of a second could make of them."""


def test_a_head_that_trickles_is_cut_off(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"header_timeout_s": 0.3})
    slow = [bytes([byte]) for byte in b"GET /healthz HTTP/1.1\r\nhost: " + b"x" * 400]
    assert b"" == talk(gateway.url, *slow, pause_s=0.02)
    assert serves(gateway)


@pytest.mark.parametrize("framing", ["content-length: 400", "transfer-encoding: chunked"])
def test_a_body_that_trickles_is_refused_when_its_time_is_over(make_gateway: MakeGateway, framing: str) -> None:
    """The whole body has the time, not each byte of it."""
    gateway = make_gateway(server={"body_timeout_s": 0.3, "header_timeout_s": 0.3})
    piece = b"x" if "length" in framing else b"1\r\nx\r\n"
    begin = head(POST, framing.encode(), key=gateway.api_key)
    (reply,) = replies(talk(gateway.url, begin, *[piece] * 50, pause_s=0.02))
    assert (408, "request_timeout") == (reply.status, reply.code)
    assert serves(gateway)


def test_the_rest_of_a_refused_body_is_not_read_for_ever(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"header_timeout_s": 0.3})
    with connected(gateway.url) as client:
        client.sendall(POST + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n")
        with suppress(OSError):
            while True:
                client.sendall(b"x" * 65536)
                time.sleep(0.01)
        assert serves(gateway)


def test_who_waits_for_a_100_continue_gets_it_and_no_more_time(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"body_timeout_s": 0.3})
    begin = head(POST, b"expect: 100-continue", b"content-length: 10", key=gateway.api_key)
    first, _, rest = talk(gateway.url, begin).partition(b"\r\n\r\n")
    assert b"HTTP/1.1 100 Continue" == first
    assert [408] == [reply.status for reply in replies(rest)]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", list(HEADS_TOO_LARGE))
def test_a_complete_head_that_is_too_large_is_refused(gateway: Gateway, kind: str) -> None:
    reply = ask(gateway.url, HEADS_TOO_LARGE[kind])
    assert (431, "headers_too_large") == (reply.status, reply.code)
    assert reply.headers.items() >= FIXED_HEADERS.items()


@pytest.mark.shares_gateway
def test_as_many_fields_and_bytes_as_are_allowed_pass(gateway: Gateway) -> None:
    fields = [b"x: " + b"y" * 200] * (LIMITS.fields_max - 2)
    assert 200 == ask(gateway.url, head(b"GET /healthz", *fields)).status


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", list(AMBIGUOUS))
def test_what_two_servers_may_read_differently_is_refused_at_once(
    gateway: Gateway, simulator: Simulator, kind: str
) -> None:
    """One answer, though another request stands behind it; and nobody paid for the first."""
    headers, body = AMBIGUOUS[kind]
    keyed = b"authorization: Bearer " + gateway.api_key.encode()
    begin = b"\r\n".join([POST + b" HTTP/1.1", b"host: x", keyed, *headers, b"", b""])
    reply = ask(gateway.url, begin + body + SMUGGLED)
    assert (400, None) == (reply.status, reply.code)
    assert "close" == reply.headers["connection"]
    assert 0 == simulator.images_billed()
    assert serves(gateway)


@pytest.mark.shares_gateway
def test_chunks_in_http_1_0_are_refused(gateway: Gateway) -> None:
    begin = head(POST, b"transfer-encoding: chunked", key=gateway.api_key).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert 400 == ask(gateway.url, begin + IN_CHUNKS).status


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", list(HEADS_WITHOUT_A_HOST))
def test_a_head_without_a_host_or_of_another_version_is_refused(gateway: Gateway, kind: str) -> None:
    assert 400 == ask(gateway.url, HEADS_WITHOUT_A_HOST[kind] + SMUGGLED).status


@pytest.mark.shares_gateway
def test_http_1_0_needs_no_host(gateway: Gateway) -> None:
    assert 200 == ask(gateway.url, b"GET /healthz HTTP/1.0\r\n\r\n").status


def test_refusals_are_logged_with_their_problem_and_not_each(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    with logging_aside(level="info") as log:
        for _ in range(20):
            ask(gateway.url, head(b"GET /healthz", b"host: y"))
    problems = [json.loads(line)["problem"] for line in log.text.splitlines() if "connections_rejected" in line]
    assert ["several Host fields"] == problems


@pytest.mark.shares_gateway
@pytest.mark.parametrize("target", list(NO_PATHS_OF_OURS), ids=repr)
def test_a_path_that_is_nearly_one_of_ours_is_none(gateway: Gateway, target: bytes) -> None:
    reply = ask(gateway.url, head(b"GET " + target, key=gateway.api_key))
    assert NO_PATHS_OF_OURS[target] == reply.status
    assert "x-injected" not in reply.headers
    assert reply.headers.items() >= FIXED_HEADERS.items()
    assert {"message", "type", "param", "code"} == set(reply.document["error"])


@pytest.mark.shares_gateway
def test_the_absolute_form_of_the_admin_api_asks_for_its_key_too(gateway: Gateway) -> None:
    reply = ask(gateway.url, head(b"GET http://x/admin/v1/tenants", key=gateway.api_key))
    assert (401, "invalid_admin_key") == (reply.status, reply.code)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "target",
    [
        *(b"/%61dmin/v1/tenants", b"/admin%2fv1/tenants", b"/admin/v1%2Ftenants", b"/admin/%761/tenants"),
        *(b"/%6detrics", b"/metric%73", b"/%2e/metrics", b"/openapi%2Ejson", b"/read%79z", b"/%68ealthz"),
        *(b"http://x/%61dmin/v1/tenants", b"http://x/metric%73"),
    ],
    ids=repr,
)
def test_operators_routes_have_one_spelling(gateway: Gateway, target: bytes) -> None:
    """A rule of a proxy that compares undecoded paths would let another one pass."""
    assert 404 == ask(gateway.url, head(b"GET " + target, key=ADMIN_KEY)).status


@pytest.mark.shares_gateway
def test_tenants_routes_may_be_encoded(gateway: Gateway) -> None:
    assert 200 == ask(gateway.url, head(b"GET /v1/model%73", key=gateway.api_key)).status


NO_HOSTS = [
    *(b"[", b"]:[", b"[::g]", b"[::1", b"::1", b"a?b", b"a/b", b"a#b", b"a@b", b"a:999999", b"a:x", b"a:", b"a:1:2"),
    *(b"", b" ", b"a, b", b"a,b", b"a b", b"a;b", b"a%2fb", b"a\\b", b"\xff", b"b\xc3\xbccher.example", b"http://a"),
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("host", NO_HOSTS, ids=repr)
def test_a_host_that_is_none_is_refused(gateway: Gateway, host: bytes) -> None:
    """Servers before this one may choose between the parts of it."""
    request = b"GET /healthz HTTP/1.1\r\nconnection: close\r\nhost: " + host + b"\r\n\r\n"
    assert 400 == ask(gateway.url, request).status


HOSTS = [
    b"x",
    b"x:8080",
    b"img_gate.example.org.",
    b"xn--bcher-kva.example:443",
    b"10.0.0.1",
    b"[::1]:80",
    b"[fe80::1.2.3.4]",
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_any_host_is_served(gateway: Gateway, host: bytes) -> None:
    request = b"GET /healthz HTTP/1.1\r\nconnection: close\r\nhost: \t" + host + b" \t\r\n\r\n"
    assert 200 == ask(gateway.url, request).status


@pytest.mark.shares_gateway
@pytest.mark.parametrize("line", list(METHODS), ids=repr)
def test_other_methods_are_refused(gateway: Gateway, line: bytes) -> None:
    assert METHODS[line] == ask(gateway.url, head(line, key=gateway.api_key)).status


@pytest.mark.shares_gateway
@pytest.mark.parametrize("header", [b"x-http-method-override", b"x-http-method", b"x-method-override"])
def test_no_header_changes_the_method(gateway: Gateway, header: bytes) -> None:
    reply = ask(gateway.url, head(b"GET /v1/images/generations", header + b": POST", key=gateway.api_key))
    assert (405, "method_not_allowed") == (reply.status, reply.code)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "other",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + b"\0" * 100,
    ],
    ids=["HTTP/2", "TLS"],
)
def test_another_protocol_is_refused(gateway: Gateway, other: bytes) -> None:
    assert 400 == ask(gateway.url, other).status


WISHES = {
    "websocket": (b"upgrade: websocket", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-version: 13"),
    "h2c": (b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"),
}


@pytest.mark.shares_gateway
@pytest.mark.parametrize("wish", list(WISHES))
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_wish_for_another_protocol_is_ignored(gateway: Gateway, wish: str, size: int) -> None:
    begin = head(POST, b"content-length: 45", *WISHES[wish], key=gateway.api_key) + BODY
    begin = begin.replace(b"connection: close", b"connection: close, upgrade")
    pieces = [begin[at : at + size] for at in range(0, len(begin), size)]
    (reply,) = replies(talk(gateway.url, *pieces))
    assert 200 == reply.status
