"""Which proxy a URL is requested through, and requests through a real proxy."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.images import ImageUrl, ResponseFormat
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.proxies import Proxy, ProxyRules, parse_proxy
from gateway.providers.links import LinkPolicy
from tests.support.certificates import Files, certify
from tests.support.harness import serving
from tests.support.proxying import HttpProxy, proxying, with_tls
from tests.support.servers import free_port

NAME = "api.provider.example"
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])


def chosen(environ: dict[str, str], url: str) -> str | None:
    proxy = ProxyRules.of_environment(environ).find(url)
    return proxy.url.removeprefix("http://") if proxy else None


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "https://a.example", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://a.example", "p:3128"),
        ({"https_proxy": "http://p:3128/"}, "https://a.example", "p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, "https://a.example", "p:3128"),
        ({"HTTPS_PROXY": "http://p"}, "https://a.example", "p:80"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "https://a.example", "[fd00::1]:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://a.example", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://a.example", "p:3128"),
        ({"http_proxy": "http://p:3128"}, "https://a.example", None),
        ({"ALL_PROXY": "http://p:3128"}, "https://a.example", "p:3128"),
        ({"all_proxy": "http://p:3128"}, "http://a.example", "p:3128"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:2"}, "https://a.example", "p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "https://a.example", "q:2"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "socks5://q:2"}, "https://a.example", "p:1"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://q:2"}, "https://a.example", None),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": " "}, "https://a.example", None),
        ({"ALL_PROXY": "http://p:1"}, "http://localhost:8080", None),
        ({"ALL_PROXY": "http://p:1"}, "http://sim.localhost:8080", None),
        ({"ALL_PROXY": "http://p:1"}, "http://127.0.0.1:8080", None),
        ({"ALL_PROXY": "http://p:1"}, "http://[::1]:8080", None),
        ({"ALL_PROXY": "socks5://p:1"}, "http://127.0.0.1:8080", None),
    ],
)
def test_the_environment_names_the_proxy(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert expected == chosen(environ, url)


@pytest.mark.parametrize(
    ("excluded", "url", "is_direct"),
    [
        ("*", "https://a.example", True),
        ("a.example", "https://a.example", True),
        ("A.Example", "https://a.example", True),
        ("a.example.", "https://a.example", True),
        ("a.example", "https://a.example.", True),
        ("a.example", "https://b.a.example", True),
        (".a.example", "https://b.a.example", True),
        ("*.a.example", "https://b.a.example", True),
        ("a.example", "https://nota.example", False),
        ("b.example, a.example", "https://a.example", True),
        ("b.example a.example", "https://a.example", True),
        ("b.example,,", "https://a.example", False),
        ("a.example:443", "https://a.example", True),
        ("a.example:8443", "https://a.example", False),
        ("a.example:8443", "https://a.example:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://a.example", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3:8443", "https://10.1.2.3", False),
        ("10.1.2.3:443", "https://10.1.2.3", True),
        ("fd00::/8", "https://[fd00::5]", True),
        ("[fd00::5]", "https://[fd00::5]", True),
        ("[fd00::5]:443", "https://[fd00::5]", True),
        ("[fd00::5]:80", "https://[fd00::5]", False),
        ("10.0.0.0/99", "https://10.1.2.3", False),
        ("a.example:x", "https://a.example", False),
        (":", "https://a.example", False),
        ("", "https://a.example", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_excludes_names_addresses_networks_and_ports(
    name: str, excluded: str, url: str, is_direct: bool
) -> None:
    assert (None if is_direct else "p:3128") == chosen({"HTTPS_PROXY": "http://p:3128", name: excluded}, url)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("socks5://p:1080", "socks5:// proxies are not supported. Use an HTTP proxy (http://HOST:PORT), or connect"),
        ("socks5h://u:secret@p:1080", "socks5h:// proxies are not supported"),
        ("ftp://p", "ftp:// proxies are not supported"),
        ("http://", "not a proxy's URL"),
        ("http://p:port", "not a proxy's URL"),
        ("http://p:99999", "not a proxy's URL"),
        ("http://p:3128/path", "not a proxy's URL"),
        ("http://u:se#cret@p:3128", "with special characters percent-encoded"),
        ("http://u:se/cret@p:3128", "with special characters percent-encoded"),
        ("http://p x:3128", "not a proxy's URL"),
        ("http://[::1", "not a proxy's URL"),
    ],
)
def test_an_unusable_proxy_is_named_when_it_would_be_used(text: str, problem: str) -> None:
    rules = ProxyRules.of_environment({"ALL_PROXY": text, "NO_PROXY": "direct.example"})
    assert rules.find("https://direct.example") is None
    with pytest.raises(ValueError, match=r"^ALL_PROXY: ") as caught:
        rules.find("https://a.example")
    assert problem in str(caught.value)
    assert "cret" not in str(caught.value)


def test_user_and_password_are_decoded_and_not_shown() -> None:
    proxy = parse_proxy("http://me:p%40ss%3Aw%C3%B6rd@p:3128", "HTTPS_PROXY")
    assert Proxy("http://p:3128", "me", "p@ss:wörd", "HTTPS_PROXY") == proxy
    assert "ss:w" not in f"{proxy!r}{proxy.name}"
    assert "Basic bWU6cEBzczp3w7ZyZA==" == proxy.authorization


async def echo(request: Request) -> Response:
    """Returns the body and the names of the headers; an image at /picture."""
    if request.url.path == "/picture":
        return Response(JPEG, media_type="image/jpeg")
    return Response(await request.body(), headers={"x-names": ",".join(sorted(request.headers.keys()))})


@contextmanager
def behind_proxy(folder: Path, login: str = "") -> Iterator[tuple[HttpProxy, ssl.SSLContext]]:
    """A server that only the proxy can reach, by a name that only the proxy resolves, over TLS and without."""
    files = certify(folder, NAME)
    with ExitStack() as stack:
        url = stack.enter_context(serving(Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])))
        secured = stack.enter_context(with_tls(url, files))
        hosts = {f"{NAME}:443": secured, f"{NAME}:80": url.removeprefix("http://")}
        yield stack.enter_context(proxying(hosts, login=login)), files.trusted


async def send(
    transport: AiohttpTransport, url: str, proxy: Proxy | None, body: bytes = b"{}", connect_s: float = 10.0
) -> tuple[int, bytes, str, int]:
    """Returns status, body, the names of the headers that arrived, and how often sending was reported."""
    sent = list[None]()
    extensions = {"timeout": {"connect": connect_s}, "proxy": proxy, "on_sent": lambda: sent.append(None)}
    headers = {"authorization": "Bearer canary"}
    request = httpx.Request("POST", url, content=body, headers=headers, extensions=extensions)
    response = await transport.handle_async_request(request)
    try:
        received = b"".join([piece async for piece in response.aiter_raw()])
        return response.status_code, received, response.headers.get("x-names", ""), len(sent)
    finally:
        await response.aclose()


@BOTH_LOOPS
@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_requests_go_through_the_proxy_with_its_login_and_without_it_to_the_server(
    tmp_path: Path, scheme: str
) -> None:
    login = "Basic bWU6cGFzcw=="
    with behind_proxy(tmp_path, login=login) as (proxy, trusted):
        async with AiohttpTransport(trusted) as transport:
            through = parse_proxy(proxy.url.replace("://", "://me:pass@"), "HTTPS_PROXY")
            body = bytes(range(250)) * 4000
            answers = [await send(transport, f"{scheme}://{NAME}/v1/x", through, body) for _ in range(2)]
    assert [(200, body, 1)] * 2 == [(status, received, sent) for status, received, _, sent in answers]
    names = {name for _, _, seen, _ in answers for name in seen.split(",")}
    assert {"authorization", "proxy-authorization"} & names == {"authorization"}
    expected = [f"CONNECT {NAME}:443"] if scheme == "https" else [f"POST http://{NAME}/v1/x"] * 2
    assert expected == proxy.requests


@BOTH_LOOPS
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (407, "with 407 Refused; check its user and password (the gateway sends Basic; the proxy accepts Negotiate, "),
        (403, "with 403 Refused; ask its operators to allow this host"),
        (502, "with 502 Refused; check base_url, and that the proxy can reach this host"),
        (302, "with 302 Refused; ask its operators"),
    ],
)
async def test_a_refusal_of_the_proxy_is_an_error_of_the_proxy_and_nothing_is_sent(refusal: int, words: str) -> None:
    with proxying(refusal=refusal) as proxy:
        async with AiohttpTransport() as transport:
            with pytest.raises(httpx.ProxyError) as caught:
                await send(transport, f"https://{NAME}/v1/x?token=canary", parse_proxy(proxy.url, "HTTPS_PROXY"))
    where = proxy.url.removeprefix("http://")
    assert f"the proxy {where} (HTTPS_PROXY) refuses CONNECT to {NAME}:443 {words}" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with AiohttpTransport() as transport:
        port = free_port()
        for url in (f"https://{NAME}/", f"http://{NAME}/"):
            with pytest.raises(httpx.ProxyError) as caught:
                await send(transport, url, parse_proxy(f"127.0.0.1:{port}", "HTTPS_PROXY"))
            assert str(caught.value) == (
                f"the proxy 127.0.0.1:{port} (HTTPS_PROXY) refuses the connection; check host and port in "
                "HTTPS_PROXY, and the firewall"
            )
        with pytest.raises(httpx.ConnectError, match=r"the name of the proxy proxy\.invalid:3128 \(proxy\) is not"):
            await send(transport, f"https://{NAME}/", parse_proxy("http://proxy.invalid:3128", "proxy"))


@BOTH_LOOPS
@pytest.mark.anyio
async def test_an_untrusted_certificate_behind_a_proxy_is_one_of_the_host(tmp_path: Path) -> None:
    with behind_proxy(tmp_path) as (proxy, _):
        async with AiohttpTransport() as transport:
            with pytest.raises(httpx.ConnectError, match=rf"^the certificate of {NAME}:443 is not trusted \(self"):
                await send(transport, f"https://{NAME}/", parse_proxy(proxy.url, "HTTPS_PROXY"))


@pytest.mark.anyio
async def test_connections_of_one_proxy_are_not_used_for_another(tmp_path: Path) -> None:
    with behind_proxy(tmp_path) as (proxy, trusted), proxying(proxy.hosts) as other:
        async with AiohttpTransport(trusted) as transport:
            for one in (proxy, other, proxy):
                await send(transport, f"https://{NAME}/", parse_proxy(one.url, "proxy"))
    assert [f"CONNECT {NAME}:443"] == proxy.requests == other.requests


@BOTH_LOOPS
@pytest.mark.anyio
async def test_a_proxy_may_itself_speak_tls(tmp_path: Path) -> None:
    with behind_proxy(tmp_path) as (proxy, trusted):
        files = Files(tmp_path / "tls.crt", tmp_path / "tls.key")
        with with_tls(proxy.url, files) as address:
            async with AiohttpTransport(trusted) as transport:
                through = parse_proxy(f"https://{address}", "proxy")
                answers = [await send(transport, f"https://{NAME}/", through) for _ in range(2)]
    assert [200, 200] == [status for status, _, _, _ in answers]
    assert {f"CONNECT {NAME}:443"} == set(proxy.requests)


async def download(proxies: ProxyRules, link: str, *hosts: str, trusted: ssl.SSLContext | None = None) -> bool:
    """Returns whether the image behind a link was downloaded."""
    async with AiohttpTransport(trusted) as named, AiohttpTransport(trusted, public_only=True) as public:
        fetcher = ImageDownloader(public, named, DownloadLimits(10, 10, 1000), "tests")
        pictures = (ImageUrl(link),)
        found = await fetcher.deliver(pictures, ResponseFormat.BASE64, LinkPolicy(hosts), 30, None, proxies)
        return bool(found)


@pytest.mark.anyio
async def test_downloads_go_through_the_proxy_to_allowed_hosts_only(tmp_path: Path) -> None:
    with behind_proxy(tmp_path) as (proxy, trusted):
        rules = ProxyRules.of_upstream(parse_proxy(proxy.url, "proxy"))
        assert await download(rules, f"http://{NAME}/picture", "*.provider.example", trusted=trusted)
        assert [f"CONNECT {NAME}:443"] == proxy.requests
        assert not await download(rules, f"https://{NAME}/picture", "other.example", trusted=trusted)
        assert not await download(rules, f"https://{NAME}:8443/picture", NAME, trusted=trusted)
    assert [f"CONNECT {NAME}:443"] == proxy.requests


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.5", "127.0.0.1", "169.254.169.254", "100.100.100.200", "192.168.1.1", "[::1]", "[fd00::1]"),
        *("[::ffff:10.0.0.5]", "127.1", "0177.0.0.1", "0x7f000001", "0x7f.1", "2130706433", "127.0.0.1.", "10.0.0.5.."),
    ],
)
async def test_behind_a_proxy_literal_addresses_that_are_not_public_are_refused(host: str) -> None:
    """The proxy would reach them, in every spelling."""
    with proxying() as proxy:
        rules = ProxyRules.of_upstream(parse_proxy(proxy.url, "proxy"))
        assert not await download(rules, f"https://{host}/picture", "*")
    assert [] == proxy.requests


@pytest.mark.anyio
async def test_an_unusable_proxy_of_the_environment_ends_a_download() -> None:
    rules = ProxyRules.of_environment({"ALL_PROXY": "socks5://127.0.0.1:1"})
    assert not await download(rules, f"https://{NAME}/picture", NAME)
