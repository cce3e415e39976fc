import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.domain.images import Base64Image, ImageUrl, Picture, ResponseFormat
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.transport import AiohttpTransport
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from tests.support.harness import serving

pytestmark = pytest.mark.anyio

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4
MAX_BYTES = 100_000
REMAINING_S = 30.0
HOST = "file.302ai.cn"


@dataclass
class ResultHost:
    """A server of results; `failures` are answered first, with 503."""

    failures: int = 0
    seen: list[Request] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer)])

    async def _answer(self, request: Request) -> Response:
        self.seen.append(request)
        if len(self.seen) <= self.failures:
            return Response(JPEG, 503)
        answers = {
            "/redirect.jpg": RedirectResponse("/a.jpg"),
            "/missing.jpg": Response(JPEG, 404),
            "/page.jpg": Response("<html>", media_type="image/jpeg"),
            "/empty.jpg": Response(b""),
            "/full.jpg": Response(JPEG.ljust(MAX_BYTES, b"\0")),
            "/large.jpg": Response(JPEG.ljust(MAX_BYTES + 1, b"\0")),
        }
        return answers.get(request.url.path, Response(JPEG, media_type="text/plain"))


class Internet(httpx.AsyncBaseTransport):
    """Every public name leads to one server of this machine, by real HTTP; `refused` schemes do not connect."""

    def __init__(self, inner: httpx.AsyncBaseTransport, url: str, refused: frozenset[str] = frozenset()) -> None:
        self.asked: list[str] = []
        self._inner, self._origin, self._refused = inner, httpx.URL(url), refused

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if request.url.scheme in self._refused:
            raise httpx.ConnectError("refused")
        there = request.url.copy_with(scheme="http", host=self._origin.host, port=self._origin.port)
        return await self._inner.handle_async_request(
            httpx.Request(request.method, there, headers=request.headers, extensions=request.extensions)
        )


@dataclass
class World:
    """A fetcher, the internet that it sees, and the one server in it."""

    fetcher: ImageDownloader
    internet: Internet
    host: ResultHost
    url: str

    async def fetch(self, *urls: str, hosts: tuple[str, ...] = (HOST,)) -> tuple[Picture, ...]:
        links = tuple(ImageUrl(url) for url in urls)
        return await self.fetcher.deliver(links, ResponseFormat.BASE64, LinkPolicy(hosts), REMAINING_S)


@asynccontextmanager
async def world(*, failures: int = 0, refused: frozenset[str] = frozenset()) -> AsyncIterator[World]:
    host = ResultHost(failures)
    with serving(host.app()) as url:
        async with AiohttpTransport() as direct:
            internet = Internet(direct, url, refused)
            yield World(
                ImageDownloader(internet, direct, DownloadLimits(2, 5, MAX_BYTES), "imagegate/test"),
                internet,
                host,
                url,
            )


def encoded(pictures: tuple[Picture, ...]) -> list[bytes]:
    return [base64.b64decode(picture.base64) for picture in pictures if isinstance(picture, Base64Image)]


async def test_a_link_becomes_the_bytes_behind_it() -> None:
    async with world() as here:
        assert [JPEG] == encoded(await here.fetch(f"https://{HOST}/a.jpg"))


async def test_pictures_keep_their_order_and_those_that_are_encoded_already_are_left_alone() -> None:
    there = Base64Image(memoryview(base64.b64encode(JPEG)))
    async with world() as here:
        pictures = (there, ImageUrl(f"https://{HOST}/full.jpg"), there)
        found = await here.fetcher.deliver(pictures, ResponseFormat.BASE64, LinkPolicy([HOST]), REMAINING_S)
    assert [len(JPEG), MAX_BYTES, len(JPEG)] == [len(data) for data in encoded(found)]
    assert found[0] is there


async def test_no_credentials_and_nothing_of_the_tenant_are_sent() -> None:
    async with world() as here:
        await here.fetch(f"https://{HOST}/a.jpg?Signature=x%2By")
        headers = dict(here.host.seen[0].headers)
    assert {"accept", "accept-encoding", "host", "user-agent"} == set(headers)
    assert "imagegate/test" == headers["user-agent"]


async def test_a_signed_link_is_followed_as_it_came() -> None:
    link = f"https://{HOST}/gpt%2Fimgs/a.jpg?Expires=1&Signature=a%2Bb%3D"
    async with world() as here:
        await here.fetch(link)
    assert [link] == here.internet.asked


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.jpg",
        f"https://{HOST}.evil.example/a.jpg",
        f"https://evil-{HOST}/a.jpg",
        f"https://{HOST}@evil.example/a.jpg",
        f"https://user@{HOST}/a.jpg",
        f"https://{HOST}:8443/a.jpg",
        f"https://{HOST}:6379/a.jpg",
        f"https://evil.example\\@{HOST}/a.jpg",
        f"https://evil.example/{HOST}/a.jpg",
        "https://127.0.0.1/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/a.jpg",
        "https://[::1]/a.jpg",
        "https:///a.jpg",
        "https://[broken/a.jpg",
    ],
)
async def test_a_host_that_is_not_allowed_is_not_asked(url: str) -> None:
    async with world() as here:
        assert () == await here.fetch(url)
    assert [] == here.internet.asked


@pytest.mark.parametrize(
    ("provider", "host", "is_known"),
    [
        ("302ai", "file.302ai.cn", True),
        ("302ai", "file.302.ai", True),
        ("302ai", "cdn.hailuoai.com", False),
        ("minimax", "hailuo-image-algeng-data-us.oss-us-east-1.aliyuncs.com", True),
        ("minimax", "hailuo-image-algeng-data.oss-cn-wulanchabu.aliyuncs.com", True),
        ("minimax", "hailuo-image-algeng-data.oss-cn-hangzhou.aliyuncs.com", True),
        ("minimax", "x.bj.bcebos.com", True),
        ("minimax", "cdn.hailuoai.com", True),
        ("minimax", "other-bucket.oss-us-east-1.aliyuncs.com", False),
        ("minimax", "hailuo-image-algeng-data-evil.oss-us-east-1.aliyuncs.com", False),
        ("minimax", "hailuo-image-algeng-data2.oss-cn-hangzhou.aliyuncs.com", False),
    ],
)
async def test_the_hosts_that_have_been_seen_are_allowed_by_default(
    provider: str, host: str, *, is_known: bool
) -> None:
    async with world() as here:
        found = await here.fetch(f"https://{host}/a.jpg", hosts=PROVIDERS[provider].result_hosts)
    assert is_known == bool(found)


async def test_an_allowed_name_that_leads_to_a_private_address_is_refused() -> None:
    """The name is on the list, its address is this machine: nothing is asked for."""
    host = ResultHost()
    with serving(host.app()) as url:
        async with AiohttpTransport(public_only=True) as public, AiohttpTransport() as direct:
            fetcher = ImageDownloader(public, direct, DownloadLimits(2, 5, MAX_BYTES), "test")
            port = url.rpartition(":")[2]
            for link in ("http://localhost/a.jpg", "http://127.0.0.1/a.jpg", f"http://localhost:{port}/a.jpg"):
                policy = LinkPolicy(["localhost", "127.0.0.1"])
                assert () == await fetcher.deliver((ImageUrl(link),), ResponseFormat.BASE64, policy, REMAINING_S)
    assert [] == host.seen


async def test_an_origin_that_the_operator_named_is_reached_wherever_it_is() -> None:
    async with world() as here:
        assert [JPEG] == encoded(await here.fetch(f"{here.url}/a.jpg", hosts=(here.url,)))
    assert [] == here.internet.asked


async def test_an_origin_is_named_with_its_port_and_scheme() -> None:
    async with world() as here:
        other_port = f"http://127.0.0.1:{int(here.url.rpartition(':')[2]) - 1}"
        for named in (other_port, here.url.replace("http:", "https:"), "http://127.0.0.1"):
            assert () == await here.fetch(f"{here.url}/a.jpg", hosts=(named,))
    assert [] == here.host.seen


async def test_an_http_link_of_a_public_host_is_never_asked_for_in_the_clear() -> None:
    """A network that blocks https would choose the picture."""
    async with world(refused=frozenset({"https"})) as here:
        for link in (f"http://{HOST}/a.jpg", f"HTTP://{HOST}:80/a.jpg", f"http://{HOST}?a.jpg", f"http://{HOST}./a"):
            assert () == await here.fetch(link)
    assert {"https"} == {url.partition(":")[0] for url in here.internet.asked}
    assert 12 == len(here.internet.asked)


async def test_an_http_link_that_works_with_https_is_never_asked_for_in_the_clear() -> None:
    async with world() as here:
        assert [JPEG] == encoded(await here.fetch(f"http://{HOST}/a.jpg"))
    assert [f"https://{HOST}/a.jpg"] == here.internet.asked


async def test_an_https_link_is_never_asked_for_in_the_clear() -> None:
    async with world(refused=frozenset({"https"})) as here:
        assert () == await here.fetch(f"https://{HOST}/a.jpg")
    assert [f"https://{HOST}/a.jpg"] * 3 == here.internet.asked


@pytest.mark.parametrize(("failures", "arrives"), [(0, True), (1, True), (2, True), (3, False)])
async def test_a_download_is_tried_three_times(failures: int, *, arrives: bool) -> None:
    async with world(failures=failures) as here:
        assert ([JPEG] if arrives else []) == encoded(await here.fetch(f"https://{HOST}/a.jpg"))
    assert min(failures + 1, 3) == len(here.host.seen)


@pytest.mark.parametrize("name", ["redirect", "missing", "page", "empty", "large"])
async def test_what_is_no_picture_within_bounds_is_left_out(name: str) -> None:
    async with world() as here:
        found = await here.fetch(f"https://{HOST}/{name}.jpg", f"https://{HOST}/a.jpg")
        assert {f"/{name}.jpg", "/a.jpg"} == {request.url.path for request in here.host.seen}
    assert [JPEG] == encoded(found)


async def test_a_picture_of_exactly_the_cap_is_taken() -> None:
    async with world() as here:
        assert [MAX_BYTES] == [len(data) for data in encoded(await here.fetch(f"https://{HOST}/full.jpg"))]


@pytest.mark.parametrize(
    ("url", "handed_on"),
    [
        (f"http://{HOST}/a%2Fb.jpg?S=%2B", f"https://{HOST}/a%2Fb.jpg?S=%2B"),
        (f"HTTP://{HOST}/a.jpg", f"https://{HOST}/a.jpg"),
        (f"https://{HOST}/a.jpg", f"https://{HOST}/a.jpg"),
        ("http://elsewhere.example/a.jpg", "https://elsewhere.example/a.jpg"),
        ("http://127.0.0.1:9000/a.jpg", "http://127.0.0.1:9000/a.jpg"),
    ],
)
async def test_links_are_handed_on_as_https_and_not_fetched(url: str, handed_on: str) -> None:
    async with world() as here:
        policy = LinkPolicy([HOST, "http://127.0.0.1:9000"])
        assert (ImageUrl(handed_on),) == await here.fetcher.deliver(
            (ImageUrl(url),), ResponseFormat.URL, policy, REMAINING_S
        )
    assert [] == here.internet.asked


async def test_what_is_logged_of_a_failed_download_is_no_credential(capsys: pytest.CaptureFixture[str]) -> None:
    async with world() as here:
        await here.fetch(f"https://{HOST}/missing.jpg?Signature=hunter2", "https://evil.example/x?Signature=hunter2")
    told = capsys.readouterr()
    assert HOST in told.out + told.err
    assert "hunter2" not in told.out + told.err


@pytest.mark.parametrize(("failures", "arrives"), [(0, True), (2, True), (3, False)])
async def test_both_is_the_image_with_its_link_or_the_link_alone(failures: int, *, arrives: bool) -> None:
    """The link is the client's, by https."""
    link = f"http://{HOST}/a.jpg?Signature=x"
    async with world(failures=failures) as here:
        [found] = await here.fetcher.deliver((ImageUrl(link),), ResponseFormat.BOTH, LinkPolicy([HOST]), REMAINING_S)
    expected = f"https://{HOST}/a.jpg?Signature=x"
    assert ([JPEG] if arrives else []) == encoded((found,))
    assert expected == found.url
    assert {expected} == set(here.internet.asked)


async def test_both_without_time_is_the_link() -> None:
    async with world() as here:
        links = (ImageUrl(f"https://{HOST}/a.jpg"), ImageUrl(f"https://{HOST}/b.jpg"))
        assert links == await here.fetcher.deliver(links, ResponseFormat.BOTH, LinkPolicy([HOST]), 0.0)
        assert () == await here.fetcher.deliver(links, ResponseFormat.BASE64, LinkPolicy([HOST]), 0.0)
