"""The transport against real servers that misbehave, each at another stage of a call."""

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.connections import BoundedHandler, TlsPortError, UnreadRequestError
from gateway.generation.transport.failures import kind_of
from tests.support.servers import free_port

pytestmark = pytest.mark.anyio

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SELF_SIGNED = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgea5qoxNQWu8hOwpI
shlRXK+InLT1bw1Ce2MfR2NRt8yhRANCAATLbKHNARvXwRWGh+cwoQ7r0avgJvX8
jwzZhmIAgGTHiOR1xoRPMF6lxhrBs9okEfBtyz6nlp9csSEL1ntMdkI0
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBgDCCASWgAwIBAgIUOxislEZSzbgYE6SnpWGmUUiURWswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzE1MDQyM1oYDzIxMjYxMDMw
MTUwNDIzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATLbKHNARvXwRWGh+cwoQ7r0avgJvX8jwzZhmIAgGTHiOR1xoRPMF6l
xhrBs9okEfBtyz6nlp9csSEL1ntMdkI0o1MwUTAdBgNVHQ4EFgQUZnDzL9eI2wjT
KaMo8rEFr2wXGVYwHwYDVR0jBBgwFoAUZnDzL9eI2wjTKaMo8rEFr2wXGVYwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA7EytiVcadPedNrSKCHYd
FPOh6o3R+4dg4aNkzOZuXykCIQDUYWU8Jiw0olitMoAATrMGYYbT7McLpfJnsNxu
rhGQ3Q==
-----END CERTIFICATE-----
"""
"""Made for these tests; guards nothing."""


@asynccontextmanager
async def misbehaving(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that treats every connection so; yields its address without a scheme."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):  # the client has left
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def send(
    url: str, *, method: str = "POST", public_only: bool = False, timeout_s: float = 10.0, connect_s: float = 10.0
) -> tuple[httpx.Response, bytes]:
    """One request with a transport of its own; the answer and its bytes as they came."""
    async with AiohttpTransport(public_only=public_only) as transport:
        return await send_with(transport, url, method=method, timeout_s=timeout_s, connect_s=connect_s)


async def send_with(
    transport: AiohttpTransport, url: str, *, method: str = "POST", timeout_s: float = 10.0, connect_s: float = 10.0
) -> tuple[httpx.Response, bytes]:
    request = httpx.Request(
        method,
        url,
        content=b"{}" if method == "POST" else None,
        extensions={"timeout": {"connect": connect_s, "read": timeout_s}},
    )
    response = await transport.handle_async_request(request)
    try:
        return response, b"".join([chunk async for chunk in response.aiter_raw()])
    finally:
        await response.aclose()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(raw: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(raw)
        await writer.drain()

    return behave


async def close_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closes as soon as the connection stands."""


async def close_before_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    await reader.readexactly(2)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    _abort(writer)


async def reset_inside_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.05)  # so that the half is not lost with the connection
    _abort(writer)


async def break_a_later_chunk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(HALF_CHUNKED)
    await asyncio.sleep(0.05)  # so that it is a read of its own
    writer.write(b"zz\r\n")
    await reader.read()


def _abort(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the client has left."""
    await reader.read()


def stalling_after(raw: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(raw)
        await writer.drain()
        await reader.read()

    return behave


HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        pytest.param(close_before_answering, httpx.RemoteProtocolError, id="closes before answering"),
        pytest.param(reset, httpx.ReadError, id="resets"),
        pytest.param(reset_inside_the_body, (httpx.NetworkError, httpx.RemoteProtocolError), id="resets mid-body"),
        pytest.param(answering(HALF), httpx.RemoteProtocolError, id="closes mid-body"),
        pytest.param(answering(HALF_CHUNKED), httpx.RemoteProtocolError, id="closes mid-chunks"),
        pytest.param(answering(b"HTTP/1.1 200 OK\r\ncontent-le"), httpx.RemoteProtocolError, id="closes mid-head"),
        pytest.param(answering(b"\x00\x01 no HTTP\r\n\r\n"), httpx.RemoteProtocolError, id="speaks no HTTP"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
            httpx.RemoteProtocolError,
            id="endless header",
        ),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
            httpx.RemoteProtocolError,
            id="broken chunk",
        ),
        pytest.param(break_a_later_chunk, httpx.RemoteProtocolError, id="broken later chunk"),
    ],
)
async def test_a_broken_answer_is_an_error_that_says_that_something_was_sent(
    behave: Behaviour, expected: type[httpx.TransportError] | tuple[type[httpx.TransportError], ...]
) -> None:
    async with misbehaving(behave) as address:
        with pytest.raises(expected) as caught:
            await send(f"http://{address}/")
    assert not isinstance(caught.value, httpx.ConnectError | httpx.ConnectTimeout)


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(stall, id="before the headers"),
        pytest.param(stalling_after(b"HTTP/1.1 200 OK\r\n"), id="inside the headers"),
        pytest.param(stalling_after(HALF), id="inside the body"),
    ],
)
async def test_a_stalling_server_is_a_read_timeout(behave: Behaviour) -> None:
    async with misbehaving(behave) as address:
        with pytest.raises(httpx.ReadTimeout):
            await send(f"http://{address}/", timeout_s=0.1)


async def test_a_refused_connection_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        await send(f"http://127.0.0.1:{free_port()}/")


async def test_a_name_that_does_not_resolve_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        await send("http://nobody.invalid/")


async def test_a_connection_that_is_not_accepted_in_time_is_a_connect_timeout() -> None:
    """A full backlog: the kernel drops further handshakes."""
    with full_backlog() as port, pytest.raises(httpx.ConnectTimeout):
        await send(f"http://127.0.0.1:{port}/", connect_s=0.2)


@contextmanager
def full_backlog() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for one in waiting:
                one.close()


async def test_a_tls_handshake_that_stalls_is_a_connect_timeout() -> None:
    async with misbehaving(stall) as address:
        with pytest.raises(httpx.ConnectTimeout):
            await send(f"https://{address}/", connect_s=0.2)


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(close_unread, id="closes in the handshake"),
        pytest.param(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="closes without TLS"),
        pytest.param(stalling_after(b""), id="no TLS"),
    ],
)
async def test_a_failed_tls_handshake_is_a_failed_connection(behave: Behaviour) -> None:
    async with misbehaving(behave) as address:
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
            await send(f"https://{address}/", connect_s=0.2)


async def test_a_certificate_that_nobody_vouches_for_is_a_connect_error(tmp_path: Path) -> None:
    (tmp_path / "self-signed.pem").write_text(SELF_SIGNED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "self-signed.pem")
    async with misbehaving(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), context) as address:
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            await send(f"https://{address.replace('127.0.0.1', 'localhost')}/")


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_a_large_response_over_tls_arrives_whole(tmp_path: Path) -> None:
    (tmp_path / "self-signed.pem").write_text(SELF_SIGNED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "self-signed.pem")
    trusted = ssl.create_default_context(cafile=str(tmp_path / "self-signed.pem"))
    body = bytes(range(250)) * 20_000
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with misbehaving(answering(raw), context) as address, AiohttpTransport(trusted) as transport:
        url = f"https://{address.replace('127.0.0.1', 'localhost')}/"
        assert body == (await send_with(transport, url, timeout_s=60))[1]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "gopher://127.0.0.1/", "/no/host"])
async def test_what_is_no_http_url_is_an_unsupported_protocol(url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await send(url)


def _concrete(kind: type[aiohttp.ClientError]) -> set[type[aiohttp.ClientError]]:
    return {kind} | {leaf for child in kind.__subclasses__() for leaf in _concrete(child)}


@pytest.mark.parametrize("kind", sorted(_concrete(aiohttp.ClientError), key=str))
def test_every_exception_of_aiohttp_has_a_counterpart(kind: type[aiohttp.ClientError]) -> None:
    """Only a failure to connect may be told as one: all others may have cost money."""
    error = kind.__new__(kind)
    never_sent = (
        aiohttp.ClientConnectorError,
        aiohttp.ClientConnectorCertificateError,
        aiohttp.ClientHttpProxyError,
        TlsPortError,
        UnreadRequestError,
        aiohttp.ServerFingerprintMismatch,
        aiohttp.ConnectionTimeoutError,
        aiohttp.InvalidURL,
        aiohttp.NonHttpUrlClientError,
    )
    told_as = kind_of(error)
    not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    assert issubclass(kind, never_sent) == issubclass(told_as, not_sent)


async def test_an_aborted_call_is_cancelled_and_no_error_of_the_transport() -> None:
    async with misbehaving(stall) as address:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send(f"http://{address}/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        head = f"HTTP/1.1 {status} Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()

    async with misbehaving(behave) as address:
        response, _ = await send(f"http://{address}/", method="GET")
    assert (status, "/elsewhere") == (response.status_code, response.headers["location"])
    assert 1 == len(seen)


async def test_cookies_are_not_kept() -> None:
    """A cookie jar would join what tenants do."""
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for _ in range(2):
            await send_with(transport, f"http://{address}/", method="GET")
    assert [False, False] == [b"cookie" in head.lower() for head in seen]


async def test_the_headers_are_those_of_the_request_and_no_others() -> None:
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        request = httpx.Request("POST", f"http://{address}/", headers={"authorization": "Bearer x"}, content=b"{}")
        await (await transport.handle_async_request(request)).aclose()
    names = sorted(line.partition(b":")[0].lower().decode() for line in seen[0].split(b"\r\n")[1:] if line)
    assert ["authorization", "content-length", "host"] == names


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb/c.jpeg?Expires=1&OSSAccessKeyId=L%2BT&Signature=ab%2Bcd%2Fef%3D",
        "/a%2fb?x=%7e~",
        "/images/%E6%BC%AB.jpg?sig=a+b%20c",
        "/x?q=%25%2F&empty=&again",
    ],
)
async def test_a_signed_url_is_sent_byte_for_byte(target: str) -> None:
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with misbehaving(behave) as address:
        await send(f"http://{address}{target}", method="GET")
    assert f"GET {target} HTTP/1.1" == seen[0].partition(b"\r\n")[0].decode()


async def test_a_compressed_answer_is_handed_on_as_it_came() -> None:
    packed = gzip.compress(b"picture")
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n"
    async with misbehaving(answering(head.encode() + packed)) as address:
        response, raw = await send(f"http://{address}/")
    assert ("gzip", packed) == (response.headers["content-encoding"], raw)


async def test_a_connection_is_used_again_after_an_answer_was_read() -> None:
    connections: list[int] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        for _ in range(3):
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for _ in range(3):
            assert b"ok" == (await send_with(transport, f"http://{address}/", method="GET"))[1]
    assert 1 == len(connections)


async def test_a_post_on_a_connection_that_the_server_closed_meanwhile_is_not_sent_again() -> None:
    """Whoever retries must know what it costs: the transport does not."""
    seen: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader) + await reader.readexactly(2))
        if len(seen) == 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            seen.append(await read_head(reader))

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        await send_with(transport, f"http://{address}/")
        with pytest.raises(httpx.RemoteProtocolError):
            await send_with(transport, f"http://{address}/")
    assert 2 == len(seen)


async def announced(
    transport: AiohttpTransport, url: str, tell: Callable[[], None], *, content: bytes = b"{}", timeout_s: float = 10.0
) -> None:
    """One request that tells when it is sent, and its answer read."""
    limits = {"connect": 0.2, "read": timeout_s}
    request = httpx.Request("POST", url, content=content, extensions={"timeout": limits, "on_sent": tell})
    response = await transport.handle_async_request(request)
    await response.aread()
    await response.aclose()


async def test_the_moment_of_sending_is_told_before_the_answer_comes() -> None:
    """The server answers only after the client has said that its request was sent."""
    told = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await told.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        await announced(transport, f"http://{address}/", told.set)


async def test_the_moment_of_sending_is_told_once_a_request_on_new_and_used_connections_however_large() -> None:
    connections: list[int] = []
    arrived: list[bytes] = []
    told: list[int] = []
    content = bytes(range(256)) * 4096

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        for _ in range(3):
            await read_head(reader)
            arrived.append(await reader.readexactly(len(content)))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for number in range(3):
            await announced(transport, f"http://{address}/", lambda: told.append(len(arrived)), content=content)
            assert number + 1 == len(told)
    assert 1 == len(connections)
    assert [content] * 3 == arrived
    assert [0, 1, 2] == told


@pytest.mark.parametrize("behave", [close_before_answering, reset, stall])
async def test_the_moment_of_sending_is_told_also_where_no_answer_comes(behave: Behaviour) -> None:
    told: list[int] = []
    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        with pytest.raises(httpx.TransportError):
            await announced(transport, f"http://{address}/", lambda: told.append(1), timeout_s=0.1)
    assert [1] == told


async def test_nothing_is_told_where_nothing_is_sent() -> None:
    """Refused, not accepted in time, without a name, stalled in the TLS handshake."""
    told: list[int] = []
    async with AiohttpTransport() as transport, misbehaving(stall) as address:
        with full_backlog() as port:
            urls = [f"http://127.0.0.1:{free_port()}/", f"http://127.0.0.1:{port}/", "http://nobody.invalid/"]
            for url in (*urls, f"https://{address}/"):
                with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
                    await announced(transport, url, lambda: told.append(1))
    assert [] == told


async def noting(reader: asyncio.StreamReader, arrived: list[bytes]) -> bytes:
    """The target of the next request, noted with its first byte; empty at the end."""
    first = await reader.read(1)
    if not first:
        return b""
    line = first + await reader.readline()
    arrived.append(line.split(b" ")[1])
    await read_head(reader)
    await reader.readexactly(2)
    return arrived[-1]


async def gave_up_after(turns: int, sending: "asyncio.Task[None]") -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    await asyncio.sleep(0.01)  # what has left arrives


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("is_used", [False, True])
async def test_a_call_that_is_cancelled_at_any_moment_was_sent_where_it_was_told_and_nowhere_else(
    *, is_used: bool
) -> None:
    """After 0, 1, 2 and more turns of the loop, with a new connection or one that is open."""
    arrived: list[bytes] = []
    told: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while target := await noting(reader, arrived):
            if target == b"/first":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for turns in range(40):
            if is_used:
                await announced(transport, f"http://{address}/first", lambda: None)
            target = b"/%d" % turns
            call = announced(transport, f"http://{address}{target.decode()}", lambda: told.append(target))  # noqa: B023
            await gave_up_after(turns, asyncio.ensure_future(call))
    assert told == [target for target in arrived if target != b"/first"]
    assert 0 < len(told) < 40


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_a_call_whose_connection_is_closed_at_any_moment_was_sent_where_it_was_told_and_nowhere_else() -> None:
    """The server closes an idle connection just before a call, during it, and after its answer."""
    arrived: list[bytes] = []
    told: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []
    half_closed: list[asyncio.StreamWriter] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await noting(reader, arrived) and writer not in half_closed:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for turns in range(20):
            await announced(transport, f"http://{address}/first", lambda: None)
            target = b"/%d" % turns
            half_closed.append(writers[-1])
            half_closed[-1].write_eof()
            for _ in range(turns):
                await asyncio.sleep(0)
            with suppress(httpx.TransportError):
                await announced(
                    transport,
                    f"http://{address}{target.decode()}",
                    lambda: told.append(target),  # noqa: B023
                )
            await asyncio.sleep(0.01)
    assert told == [target for target in arrived if target != b"/first"]


FINAL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def repeating(head: bytes, unit: bytes, sent: list[int]) -> Behaviour:
    """Sends `unit` until the client closes; `sent` counts the units of each write."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(head)
        while True:
            writer.write(unit * 1024)
            await writer.drain()
            sent.append(1024)

    return behave


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize(
    ("head", "unit"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103\n\n"),
        (b"", b"HTTP/1.1 102 Processing\r\nlink: " + b"x" * 4000 + b"\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
)
async def test_an_endless_response_without_a_body_is_cut_off_while_another_server_is_served(
    head: bytes, unit: bytes
) -> None:
    """The call ends long before its time is over, and with an error that does not say that nothing was sent."""
    sent: list[int] = []
    async with misbehaving(repeating(head, unit, sent)) as bad, misbehaving(answering(FINAL)) as good:
        endless = asyncio.ensure_future(send(f"http://{bad}/", timeout_s=60))
        for _ in range(20):
            assert b"ok" == (await send(f"http://{good}/"))[1]
        with pytest.raises(httpx.RemoteProtocolError):
            async with asyncio.timeout(30):
                await endless
    assert sum(sent) * len(unit) < 16 * 1024 * 1024  # with what the kernel holds


@pytest.mark.parametrize(("count", "is_cut"), [(0, False), (1, False), (10, False), (11, True), (100_000, True)])
@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n"])
async def test_some_interim_responses_precede_a_final_one(interim: bytes, count: int, *, is_cut: bool) -> None:
    async with misbehaving(answering(interim * count + FINAL)) as address:
        if is_cut:
            with pytest.raises(httpx.RemoteProtocolError, match="framing"):
                await send(f"http://{address}/")
        else:
            assert b"ok" == (await send(f"http://{address}/"))[1]


def in_chunks(body: bytes, chunk_bytes: int) -> bytes:
    """A whole response."""
    pieces = (*(body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)), b"")
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("chunk_bytes", [1, 16, 40, 60, 120])
@pytest.mark.parametrize("first_bytes", [0, 3_000_000])
async def test_a_large_body_in_small_chunks_is_cut_off_wherever_they_begin(first_bytes: int, chunk_bytes: int) -> None:
    """Each chunk costs what a kilobyte does; a first chunk of megabytes buys no more than its part."""
    body = in_chunks(b"x" * 100_000 * chunk_bytes, chunk_bytes)
    if first_bytes:
        head, _, chunks = body.partition(b"\r\n\r\n")
        body = b"%b\r\n\r\n%x\r\n%b\r\n%b" % (head, first_bytes, b"y" * first_bytes, chunks)
    async with misbehaving(answering(body)) as address:
        with pytest.raises(httpx.RemoteProtocolError, match="framing"):
            await send(f"http://{address}/", timeout_s=60)


@pytest.mark.parametrize(
    ("size_bytes", "chunk_bytes"), [(8_000, 1), (400_000, 64), (2_000_000, 256), (20_000_000, 512), (20_000_000, 4096)]
)
async def test_a_body_in_chunks_as_servers_send_them_is_read(size_bytes: int, chunk_bytes: int) -> None:
    body = bytes(range(250)) * (size_bytes // 250)
    async with misbehaving(answering(in_chunks(body, chunk_bytes))) as address:
        assert body == (await send(f"http://{address}/", timeout_s=60))[1]


@pytest.mark.parametrize("first_bytes", [0, 3_000_000])
async def test_chunks_that_are_cut_off_are_not_parsed(first_bytes: int) -> None:
    """Of what comes at once, parsing stops soon after the chunk that is too many: each takes six bytes at least."""
    raw = in_chunks(b"x" * 100_000, 1)
    if first_bytes:
        head, _, chunks = raw.partition(b"\r\n\r\n")
        raw = b"%b\r\n\r\n%x\r\n%b\r\n%b" % (head, first_bytes, b"y" * first_bytes, chunks)
    async with misbehaving(answering(raw)) as address, AiohttpTransport() as transport:
        response = await transport.handle_async_request(httpx.Request("POST", f"http://{address}/", content=b"{}"))
        received = bytearray()
        with pytest.raises(httpx.RemoteProtocolError, match="framing"):
            await collect(response, received)
        await response.aclose()
    assert len(received) < first_bytes + 50_000


async def collect(response: httpx.Response, received: bytearray) -> None:
    async for piece in response.aiter_raw():
        received += piece


async def test_interim_responses_that_are_cut_off_are_not_parsed() -> None:
    """100,000 in a few reads: parsing stops with the one that is too many."""
    parsed: list[int] = []

    class Counting(BoundedHandler):
        def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
            parsed.append(data[0].code)
            super().feed_data(data, size)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Flooding(b"HTTP/1.1 100\r\n\r\n" * 100_000), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, handler = await loop.create_connection(
            lambda: Counting(loop, memoryview(bytearray(65536))), "127.0.0.1", port
        )
        handler.set_response_params()
        with pytest.raises(aiohttp.ClientPayloadError):
            await handler.read()
    assert set(parsed) == {100}
    assert len(parsed) <= 128


class Flooding(asyncio.Protocol):
    """A server that sends at once."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._raw)


@pytest.mark.parametrize(
    "body",
    [
        b"a\r\n\r\nb" * 200_000,
        b"\n" * 1_000_000,
        bytes(range(256)) * 4096,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    ],
)
@pytest.mark.parametrize("chunk_bytes", [0, 64, 5000, 10_000_000])
async def test_a_body_of_any_bytes_arrives_whole(body: bytes, chunk_bytes: int) -> None:
    raw = (
        in_chunks(body, chunk_bytes)
        if chunk_bytes
        else b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"
        % (
            len(body),
            body,
        )
    )
    async with misbehaving(answering(raw)) as address:
        assert body == (await send(f"http://{address}/"))[1]


@pytest.mark.parametrize(
    ("unasked", "pause_s"),
    [
        (FINAL, 0),
        (b"x" * 5000, 0),
        (FINAL, 0.05),
        (b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", 0.05),
        (b"x", 0.05),
    ],
)
async def test_a_response_that_no_request_asked_for_is_never_given_to_the_next(unasked: bytes, pause_s: float) -> None:
    """Neither one that is sent with another nor one that arrives on an idle connection, as a server's time-out does."""
    connections: list[int] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        number = len(connections)
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
        if pause_s:
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(unasked)
        await reader.read()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for number in (1, 2, 3):
            assert b"%d" % number == (await send_with(transport, f"http://{address}/", method="GET"))[1]
            await asyncio.sleep(4 * pause_s)


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("interim", [b"", b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_complete_response_is_read_whatever_follows_it_wherever_its_reads_end(interim: bytes) -> None:
    """The bytes behind its length are no part of it, and its connection is not used again."""
    whole = interim + FINAL
    connections: list[int] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        at = len(connections)
        connections.append(at)
        if at:
            writer.write(whole[:at])
            await asyncio.sleep(0.01)
        writer.write(whole[at:] + b"x" * 5000)
        await reader.read()

    async with misbehaving(behave) as address, AiohttpTransport() as transport:
        for _ in whole:
            assert b"ok" == (await send_with(transport, f"http://{address}/", method="GET"))[1]
    assert len(whole) == len(connections)


@pytest.mark.parametrize("limits", [{"connect": 0.0}, {"connect": -1.0}, {"connect": 5.0, "read": 0.0}])
async def test_no_time_at_all_is_not_taken_for_endless_time(limits: dict[str, float]) -> None:
    told: list[int] = []
    async with misbehaving(stall) as address, AiohttpTransport() as transport:
        extensions = {"timeout": limits, "on_sent": lambda: told.append(1)}
        request = httpx.Request("POST", f"http://{address}/", content=b"{}", extensions=extensions)
        async with asyncio.timeout(5):
            with pytest.raises(httpx.ConnectTimeout):
                await transport.handle_async_request(request)
    assert [] == told


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[fec0::1]",
    ],
)
async def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(httpx.ConnectError, match="the address is not public"):
        await send(f"http://{host}/", method="GET", public_only=True, connect_s=1)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "127.1", "2130706433", "0x7f000001", "127.0.0.1."]
)
async def test_a_name_that_resolves_to_an_address_that_is_not_public_is_refused(host: str) -> None:
    arrived: list[int] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(1)

    async with misbehaving(behave) as address:
        with pytest.raises((httpx.ConnectError, httpx.UnsupportedProtocol)):
            await send(f"http://{host}:{address.partition(':')[2]}/", method="GET", public_only=True)
    assert [] == arrived


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_public_only_a_private_address_is_reached(host: str) -> None:
    async with misbehaving(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as address:
        response, _ = await send(f"http://{host}:{address.partition(':')[2]}/", method="GET")
    assert 204 == response.status_code


async def test_a_closed_transport_is_a_mistake_of_the_program() -> None:
    with pytest.raises(RuntimeError):
        await AiohttpTransport().handle_async_request(httpx.Request("GET", "http://127.0.0.1/"))
