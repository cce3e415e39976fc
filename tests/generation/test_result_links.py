"""Links of results: which images are stored, what replaces one that is not, and the memory that is given back."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.catalog import Model
from gateway.domain.images import (
    Base64Image,
    Format,
    ImageJob,
    ImageResult,
    ImageUrl,
    LinkSource,
    Picture,
    ResponseFormat,
    Size,
)
from gateway.domain.pricing import PerImage, Price
from gateway.generation.context import RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.generation.result_links import ResultLinks
from gateway.observability.metrics import Metrics
from gateway.storage.links import Links, SigningKeys
from gateway.storage.pictures import PictureStore
from gateway.storage.quota import StorageQuota, StorageTerms
from tests.support.admissions import connected
from tests.support.storing import in_directory, opened
from tests.support.upstreams import JPEG, Parsed, Site

pytestmark = pytest.mark.anyio
URL, BOTH, BASE64 = ResponseFormat.URL, ResponseFormat.BOTH, ResponseFormat.BASE64
IMAGE = Base64Image(memoryview(base64.b64encode(JPEG)))
LINKED = replace(IMAGE, url="https://provider.example/a.jpg")
PROVIDERS = ImageUrl("https://provider.example/a.jpg")
MODEL = Model("image-01", (), (Price(0, PerImage(1)),), (Site("sim", "http://127.0.0.1:1").target(),))
OURS = "https://gateway.example/files/"


@asynccontextmanager
async def linking(redis_url: str, folder: Path, tenant_bytes: int = 10**9) -> AsyncIterator[ResultLinks]:
    """Links of a gateway without a quota of bytes, or with one."""
    async with connected(redis_url) as client:
        metrics, quota = Metrics(), StorageQuota(client, StorageTerms(24, tenant_bytes))
        store = PictureStore(opened(in_directory(folder), metrics=metrics), quota, ByteBudget(2**28), metrics, 5.0)
        yield ResultLinks(store, Links(SigningKeys(client, (), time.time, time.monotonic), time.time), metrics)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def linked(
    links: ResultLinks, picture: Picture, delivery: ResponseFormat, source: LinkSource, form: Format | None = None
) -> tuple[Picture, RequestContext]:
    """Returns the image that the client gets, and the context of its request."""
    request = Parsed(ImageJob("a lake", delivery=delivery, output_format=form), replace(MODEL, links=source))
    context = RequestContext("req_1", 0.0, ByteAccount(), base_url="https://gateway.example")
    result = ImageResult((picture,), Size(1024, 1024), 1)
    context.memory.note(result.held_bytes)
    [found] = (await links.link(result, request, "acme", context)).pictures
    assert context.memory.held_bytes == (len(IMAGE.base64) if isinstance(found, Base64Image) else 0)
    return found, context


@pytest.mark.parametrize(
    ("picture", "delivery", "source", "form", "is_ours"),
    [
        (LINKED, URL, LinkSource.GATEWAY, None, True),
        (LINKED, BOTH, LinkSource.GATEWAY, None, True),
        (IMAGE, URL, LinkSource.GATEWAY, None, True),
        (IMAGE, URL, LinkSource.MIXED, None, True),
        (LINKED, URL, LinkSource.MIXED, Format.WEBP, True),
        (LINKED, BOTH, LinkSource.MIXED, Format.WEBP, False),
        (PROVIDERS, URL, LinkSource.MIXED, None, False),
        (IMAGE, BASE64, LinkSource.GATEWAY, None, False),
        (PROVIDERS, URL, LinkSource.PROVIDER, None, False),
    ],
)
async def test_images_whose_link_is_to_be_ours_are_stored(
    redis_url: str,
    tmp_path: Path,
    picture: Picture,
    delivery: ResponseFormat,
    source: LinkSource,
    form: Format | None,
    is_ours: bool,
) -> None:
    async with linking(redis_url, tmp_path) as links:
        found, context = await linked(links, picture, delivery, source, form)
    assert is_ours == found.url.startswith(OURS)
    assert isinstance(found, type(picture) if not is_ours or delivery is BOTH else ImageUrl)
    assert is_ours == bool(files_in(tmp_path))
    assert is_ours or found == picture
    assert ("", ()) == (context.links, context.ignored)


@pytest.mark.parametrize(
    ("picture", "delivery", "form", "expected", "reported"),
    [
        (LINKED, URL, None, PROVIDERS, "provider"),
        (LINKED, URL, Format.WEBP, PROVIDERS, "provider"),
        (LINKED, BOTH, None, LINKED, "provider"),
        (PROVIDERS, URL, None, PROVIDERS, "provider"),
        (IMAGE, URL, Format.WEBP, IMAGE, "none"),
    ],
)
async def test_an_image_that_is_not_stored_keeps_what_the_provider_gave(
    redis_url: str,
    tmp_path: Path,
    picture: Picture,
    delivery: ResponseFormat,
    form: Format | None,
    expected: Picture,
    reported: str,
) -> None:
    async with linking(redis_url, tmp_path, tenant_bytes=10) as links:
        found, context = await linked(links, picture, delivery, LinkSource.GATEWAY, form)
    assert (expected, reported) == (found, context.links)
    assert (("output_format",) if form and found == PROVIDERS else ()) == context.ignored
