import asyncio
import gzip
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from itertools import pairwise

import httpx
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.generation.exchange import read_reply, transport_fault
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.retry_after import read_retry_after
from gateway.generation.transport import AiohttpTransport
from gateway.providers.replies import UpstreamResponse
from tests.support.harness import serving

pytestmark = pytest.mark.anyio

BODY = json.dumps({"base_resp": {"status_code": 0}}).encode()

NOT_SENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
}
"""What httpx raises before the first byte of a request has left; of everything else the outcome is unknown."""


def _with_subclasses(kind: type[httpx.TransportError]) -> set[type[httpx.TransportError]]:
    return {kind} | {leaf for child in kind.__subclasses__() for leaf in _with_subclasses(child)}


EVERY_ERROR = sorted(
    (kind for kind in _with_subclasses(httpx.TransportError) if kind.__module__.startswith("httpx")), key=str
)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_transport_error_of_httpx_says_what_is_known_of_the_money(kind: type[httpx.TransportError]) -> None:
    row = GatewayError(transport_fault(kind("text"))).row
    assert (Outcome.NOT_SENT if kind in NOT_SENT else Outcome.UNKNOWN) is row.outcome
    assert row.status >= 500


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.TimeoutException])
def test_a_time_out_after_sending_is_a_time_out_for_the_caller(kind: type[httpx.TransportError]) -> None:
    assert 504 == GatewayError(transport_fault(kind("text"))).row.status


def test_an_unknown_subclass_is_judged_as_its_parent() -> None:
    class ReadErrorOfTomorrow(httpx.ReadError):
        pass

    class ErrorOfTomorrow(httpx.TransportError):
        pass

    assert ErrorCode.CONNECTION_LOST is transport_fault(ReadErrorOfTomorrow("text"))
    assert ErrorCode.CONNECTION_LOST is transport_fault(ErrorOfTomorrow("text"))


def serving_answer(make: Callable[[], ASGIApp]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await make()(scope, receive, send)

    return answer


async def receive(
    make: Callable[[], ASGIApp], max_bytes: int = 10_000, memory: ByteAccount | None = None
) -> UpstreamResponse:
    return await asyncio.wait_for(_receive(make, max_bytes, memory), 30)


async def _receive(make: Callable[[], ASGIApp], max_bytes: int, memory: ByteAccount | None) -> UpstreamResponse:
    with serving(serving_answer(make)) as url:
        async with AiohttpTransport() as transport:
            timeout = {"timeout": {"connect": 5.0, "read": 10.0}}
            return await read_reply(
                transport, httpx.Request("POST", f"{url}/", content=b"{}", extensions=timeout), max_bytes, memory
            )


async def fault_of(reading: Awaitable[UpstreamResponse]) -> ErrorCode:
    with pytest.raises(GatewayError) as caught:
        await reading
    return caught.value.error_code


async def test_status_and_body_are_read() -> None:
    reply = await receive(lambda: Response(BODY, 503))
    assert UpstreamResponse(503, BODY, None) == reply


@pytest.mark.parametrize(
    ("size", "fits"), [(0, True), (9_999, True), (10_000, True), (10_001, False), (1_000_000, False)]
)
async def test_an_answer_is_read_up_to_its_cap_and_no_further(size: int, *, fits: bool) -> None:
    if fits:
        assert size == len((await receive(lambda: Response(b"x" * size))).body)
    else:
        assert ErrorCode.RESPONSE_TOO_LARGE is await fault_of(receive(lambda: Response(b"x" * size)))


async def test_an_endless_answer_ends_at_the_cap() -> None:
    assert ErrorCode.RESPONSE_TOO_LARGE is await fault_of(receive(_Endless))


class _Endless(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})


async def test_a_compressed_answer_is_understood_although_it_was_not_asked_for() -> None:
    assert BODY == (await receive(lambda: Response(gzip.compress(BODY), headers={"content-encoding": "gzip"}))).body


@pytest.mark.parametrize("encoding", ["identity", "identity, identity", " , IDENTITY"])
async def test_what_is_not_compressed_is_read_as_it_is(encoding: str) -> None:
    assert BODY == (await receive(lambda: Response(BODY, headers={"content-encoding": encoding}))).body


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "identity, br"])
async def test_what_cannot_be_inflated_is_unreadable(encoding: str) -> None:
    packed = Response(gzip.compress(BODY), headers={"content-encoding": encoding})
    assert ErrorCode.INVALID_RESPONSE is await fault_of(receive(lambda: packed))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_broken_content_encoding_is_an_unreadable_answer(encoding: str) -> None:
    broken = Response(b"neither gzip nor deflate", headers={"content-encoding": encoding})
    assert ErrorCode.INVALID_RESPONSE is await fault_of(receive(lambda: broken))


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_decompression_bomb_is_refused_without_being_unpacked(
    encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """100 MB in 100 kB: the cap bounds the memory, not only the result."""
    bomb = pack(bytes(100 * 2**20))
    tracemalloc.start()
    try:
        answer = Response(bomb, headers={"content-encoding": encoding})
        assert ErrorCode.RESPONSE_TOO_LARGE is await fault_of(receive(lambda: answer, max_bytes=2**20))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 2**20


EMPTY_BLOCKS = {
    "stored": b"\x00\x00\x00\xff\xff",
    "fixed": sum(2 << 10 * block for block in range(4)).to_bytes(5, "little"),
    "members": gzip.compress(b"") * 8,
}


def padded(kind: str, first: bytes, size: int) -> bytes:
    """`first`, and then compressed bytes that inflate to nothing. What follows the end of a stream does too."""
    packer = zlib.compressobj()
    begun = packer.compress(first) + packer.flush(zlib.Z_SYNC_FLUSH if kind != "members" else zlib.Z_FINISH)
    return begun + EMPTY_BLOCKS[kind] * (size // len(EMPTY_BLOCKS[kind]))


@pytest.mark.parametrize("first", [b"", bytes(500_000)], ids=["nothing", "zeros"])
@pytest.mark.parametrize("kind", EMPTY_BLOCKS)
async def test_compressed_bytes_that_inflate_to_nothing_are_cut_off(kind: str, first: bytes) -> None:
    """A megabyte of them: the body never reaches its cap."""
    answer = Response(padded(kind, first, 2**20), headers={"content-encoding": "deflate"})
    assert ErrorCode.INVALID_RESPONSE is await fault_of(receive(lambda: answer, max_bytes=2**20))


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_bytes_that_cannot_be_compressed_are_read_compressed(pack: Callable[[bytes], bytes]) -> None:
    body = bytes(1_000_000) + random.Random(1).randbytes(2_000_000) + bytes(1_000_000)
    reply = await receive(lambda: Response(pack(body), headers={"content-encoding": "gzip"}), max_bytes=2**22)
    assert body == reply.body


async def test_others_have_their_turn_while_a_reply_is_inflated() -> None:
    """64 MiB in one read of 64 KiB."""
    packed, held = zlib.compress(bytes(2**26)), [0]
    memory = ByteAccount()

    async def others() -> None:
        while True:
            held.append(memory.held_bytes)
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    answer = Response(packed, headers={"content-encoding": "deflate"})
    assert 2**26 == len((await receive(lambda: answer, 2**26, memory)).body)
    beside.cancel()
    assert max(after - before for before, after in pairwise(held)) <= 2**20


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 30 ", 30.0),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("Wed, 21 Foo 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026", None),
        ("1e9", None),
        ("9" * 50, None),
        ("inf", None),
    ],
)
async def test_retry_after_is_read_in_seconds_and_junk_is_none(header: str | None, expected: float | None) -> None:
    headers = {} if header is None else {"retry-after": header}
    assert expected == (await receive(lambda: Response(BODY, 429, headers))).retry_after_s


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("Wed, 21 Oct 2026 07:29:30 GMT", 90.0),
        ("Wednesday, 21-Oct-26 07:28:01 GMT", 1.0),
        ("Wed Oct 21 07:28:00 2026", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", 999_999_999.0),
    ],
)
def test_a_date_in_retry_after_counts_from_the_date_of_the_response(after: str, expected: float) -> None:
    headers = httpx.Headers({"retry-after": after, "date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert expected == read_retry_after(headers)


def test_a_date_in_retry_after_counts_from_now_without_a_date_of_the_response() -> None:
    after = read_retry_after(httpx.Headers({"retry-after": formatdate(time.time() + 3600, usegmt=True)}))
    assert after is not None
    assert 3000 < after <= 3600


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nobody.invalid/"])
async def test_an_upstream_that_is_not_there_was_sent_nothing(url: str) -> None:
    async with AiohttpTransport() as transport:
        error_code = await fault_of(read_reply(transport, httpx.Request("POST", url), 10))
    assert ErrorCode.CONNECT_FAILED is error_code
