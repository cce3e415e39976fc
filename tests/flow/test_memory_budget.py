"""The budget of bytes of one process: what is refused beyond it, and that everything is given back."""

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import httpx
import msgspec
import pytest

from tests.support.harness import Gateway, MakeGateway, new_key, upstream, wait_until
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.memory import HEAD, MB, NATIVE, begin, held, picture_reply
from tests.support.strangers import connected

GENERATIONS: Final = "/v1/images/generations"


@pytest.fixture(scope="module")
def provider() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture
def small(make_gateway: MakeGateway, provider: Hostile) -> Gateway:
    """A budget of 40 MB: 20 for one tenant, and 10 for the next."""
    provider.begin(Plan((HEAD + b"content-length: 2\r\n\r\n{}", "close")))
    return make_gateway(
        upstream("sim", "minimax", provider.url) | {"breaker_failures": 1000},
        server={"max_memory_bytes": 40 * MB, "write_timeout_s": 20},
        requests={"max_attempts": 1},
    )


def ask(gateway: Gateway) -> httpx.Response:
    return gateway.generate(prompt="x", padding="y" * 100_000)


def test_bodies_beyond_a_tenants_share_are_refused_and_another_tenant_is_served(small: Gateway) -> None:
    other = Gateway(small.url, new_key(small.url, "other"))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connected(small.url)).sendall(begin(small, 10 * MB + 1, body=b" " * 10 * MB))
        wait_until(lambda: held(small) == 20 * MB, "two bodies have come but for a byte")
        refused = ask(small)
        assert (429, "rate_limit_exceeded") == (refused.status_code, refused.json()["error"]["code"])
        assert {"message", "type", "param", "code"} == set(refused.json()["error"])
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert 400 == ask(other).status_code
        stack.enter_context(connected(small.url)).sendall(begin(other, 10 * MB + 1, body=b" " * 10 * MB))
        wait_until(lambda: held(small) == 30 * MB, "a third has")
        full = ask(other)
        assert (503, "gateway_unavailable") == (full.status_code, full.json()["error"]["code"])
        assert 1 <= int(full.headers["retry-after"]) <= 60
        assert 400 == ask(Gateway(small.url, new_key(small.url, "third"))).status_code
    wait_until(lambda: held(small) == 0, "all is given back")
    assert 400 == ask(small).status_code


def test_a_body_that_is_announced_holds_nothing(small: Gateway) -> None:
    other = Gateway(small.url, new_key(small.url, "other"))
    with ExitStack() as stack:
        for gateway in (small, other):
            for _ in range(12):
                stack.enter_context(connected(small.url)).sendall(begin(gateway, 16 * MB, body=b"{"))
        wait_until(lambda: held(small) == 24, "the first bytes of each have come")
        assert [400, 400] == [ask(small).status_code, ask(other).status_code]


@pytest.mark.parametrize("ends", [b"connection: close\r\n", b""])
def test_a_client_that_is_refused_while_it_sends_reads_the_reason(small: Gateway, ends: bytes) -> None:
    with ExitStack() as stack:
        stack.enter_context(connected(small.url)).sendall(begin(small, 15 * MB + 1, body=b" " * 15 * MB))
        wait_until(lambda: held(small) == 15 * MB, "most of the share is held")
        client = stack.enter_context(connected(small.url))
        head = begin(small, 15 * MB).replace(b"host: x\r\n", b"host: x\r\n" + ends)
        client.sendall(head + b" " * 15 * MB)
        assert b"rate limit exceeded" in client.recv(65536)


def test_what_two_tenants_do_not_read_leaves_room_for_another(small: Gateway, provider: Hostile) -> None:
    other = Gateway(small.url, new_key(small.url, "other"))
    tenants = (small, Gateway(small.url, new_key(small.url, "second")))
    provider.begin(Plan((picture_reply(12 * MB), "close")))
    body = msgspec.json.encode({"prompt": "x"})
    with ExitStack() as stack:
        for gateway in tenants:
            for _ in range(8):
                client = stack.enter_context(connected(small.url, receive_bytes=4096))
                client.sendall(begin(gateway, len(body), GENERATIONS, body))
        wait_until(lambda: provider.requests == 16, "all are asked for")
        wait_until(lambda: held(small) > 34 * MB, "the budget is held by what is not read")
        provider.begin(Plan((picture_reply(MB // 2), "close")))
        assert [200] * 3 == [other.generate(prompt="x").status_code for _ in range(3)]
    wait_until(lambda: held(small) == 0, "all is given back")


def test_a_body_without_a_length_is_counted_as_it_comes(small: Gateway) -> None:
    head = begin(small, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    with connected(small.url) as client:
        client.sendall(head + b"%x\r\n" % MB + b" " * MB + b"\r\n")
        wait_until(lambda: held(small) == MB, "what came is counted")
    wait_until(lambda: held(small) == 0, "it is given back")


def test_responses_that_are_not_read_are_counted_until_they_are(small: Gateway, provider: Hostile) -> None:
    provider.begin(Plan((picture_reply(12 * MB), "close")))
    body = msgspec.json.encode({"prompt": "x"})
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(small.url, receive_bytes=4096)) for _ in range(2)]
        for client in clients:
            client.sendall(begin(small, len(body), GENERATIONS, body))
        wait_until(lambda: held(small) > 20 * MB, "two responses wait")
        assert 429 == ask(small).status_code
        for client in clients:
            client.close()
        wait_until(lambda: held(small) == 0, "they are given back")
    answer = small.generate(prompt="x")
    assert 200 == answer.status_code
    assert len(answer.content) > 12 * MB


def test_replies_wait_for_room_and_all_are_delivered(small: Gateway, provider: Hostile) -> None:
    """Six of 12 MB within 40: none of them is lost, as each is paid for."""
    provider.begin(Plan((picture_reply(12 * MB), "close")))
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: small.generate(prompt="x"), range(6)))
    assert [True] * 6 == [answer.status_code == 200 and len(answer.content) > 12 * MB for answer in answers]
    wait_until(lambda: held(small) == 0, "all is given back")


ENDS: Final[dict[str, Any]] = {
    "not JSON": Plan((HEAD + b"content-length: 1000000\r\n\r\n" + b"x" * 1_000_000, "close")),
    "cut off": Plan((HEAD + b"content-length: 2000000\r\n\r\n" + b"x" * 1_000_000, "close")),
    "too large": Plan((HEAD + b"content-length: 90000000\r\n\r\n", "flood"), drop=b"x" * 65536),
    "reset": Plan((HEAD + b"content-length: 2000000\r\n\r\n" + b"x" * 1_000_000, "reset")),
}


@pytest.mark.parametrize("kind", list(ENDS))
def test_every_reply_that_cannot_be_used_is_given_back(small: Gateway, provider: Hostile, kind: str) -> None:
    provider.begin(ENDS[kind])
    assert small.generate(prompt="x").status_code >= 500
    wait_until(lambda: held(small) == 0, "it is given back")


def abort(gateway: Gateway, sent: bytes) -> None:
    with connected(gateway.url) as client:
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ABORTS: Final[dict[str, Callable[[Gateway], object]]] = {
    "a refused body": ask,
    "a body that is too large": lambda gateway: gateway.post(NATIVE, b" " * (17 * MB)),
    "a body that is cut off": lambda gateway: abort(gateway, begin(gateway, MB, body=b" " * 100_000)),
    "a body of the admin API": lambda gateway: gateway.admin("POST", "/tenants", {"x": "y" * 100_000}),
    "a wrong key": lambda gateway: Gateway(gateway.url, "none").generate(prompt="x" * 100_000),
    "a request that hangs up": lambda gateway: abort(
        gateway, begin(gateway, MB, GENERATIONS, b'{"prompt":"x"}' + b" " * (MB - 14))
    ),
}


@pytest.mark.parametrize("kind", list(ABORTS))
def test_every_request_that_ends_early_is_given_back(small: Gateway, kind: str) -> None:
    for _ in range(5):
        ABORTS[kind](small)
    wait_until(lambda: held(small) == 0, "it is given back")
