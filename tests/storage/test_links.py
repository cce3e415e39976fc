"""Signing keys of links: rotated, shared by all processes, and known while Redis is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format
from gateway.redis import connect
from gateway.storage.links import Link, Links, SigningKeys
from gateway.storage.pictures import StoredPicture

pytestmark = pytest.mark.anyio

WEEK_S = 7 * 86_400
START_S = 2700 * WEEK_S + 1000.0
NAME = "ig3:link_keys"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def linking(redis_url: str, clock: Clock, *configured: str) -> AsyncIterator[Links]:
    """The links of one process."""
    redis = connect(redis_url, 1.0)
    try:
        yield Links(SigningKeys(redis, configured, clock, clock), clock)
    finally:
        await redis.aclose()


def picture(expires_s: float = START_S + 30 * 86_400) -> StoredPicture:
    return StoredPicture("0123abcd" + "5" * 32, Format.WEBP, 100, int(expires_s))


async def opened(links: Links, url: str) -> Link | ErrorCode:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    await links.prepare(query["kid"])
    try:
        return links.verify(parts.path.removeprefix("/files/"), query)
    except GatewayError as error:
        return error.error_code


def kid(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["kid"]


async def count_keys(redis_url: str) -> int:
    redis = connect(redis_url, 1.0)
    count = await redis.hlen(NAME)
    await redis.aclose()
    return count


async def test_processes_share_a_key_that_the_first_one_makes(redis_url: str) -> None:
    clock, stored = Clock(), picture()
    async with linking(redis_url, clock) as first, linking(redis_url, clock) as second:
        urls = [await first.sign(stored), await second.sign(stored)]
        assert urls[0] == urls[1]
        expected = Link(stored.id, Format.WEBP, stored.expires_s)
        async with linking(redis_url, clock) as third:
            assert [expected] * 3 == [await opened(links, urls[0]) for links in (first, second, third)]
    assert 1 == await count_keys(redis_url)


async def test_the_first_links_of_a_process_wait_for_the_key(redis_url: str) -> None:
    async with linking(redis_url, Clock()) as links:
        urls = await asyncio.gather(*(links.sign(picture()) for _ in range(9)))
    assert 1 == len(set(urls))


async def test_a_new_key_signs_each_week_and_the_old_ones_open_their_links(redis_url: str) -> None:
    clock = Clock()
    async with linking(redis_url, clock) as signer, linking(redis_url, clock) as reader:
        urls = []
        for _ in range(5):
            urls.append(await signer.sign(picture()))
            clock.now_s += WEEK_S
        assert 5 == len({kid(url) for url in urls})
        clock.now_s = START_S + 29 * 86_400
        assert [Link] * 5 == [type(await opened(reader, url)) for url in urls]
        clock.now_s = START_S + 30 * 86_400
        assert [ErrorCode.LINK_EXPIRED] * 5 == [await opened(reader, url) for url in urls]
        clock.now_s = START_S + 20 * WEEK_S
        await signer.sign(picture(clock.now_s + 60))
        assert [ErrorCode.LINK_INVALID] * 5 == [await opened(reader, url) for url in urls]
    assert 1 == await count_keys(redis_url)


async def test_links_open_and_are_signed_while_redis_is_away(redis_url: str) -> None:
    clock = Clock()
    async with linking(redis_url, clock) as links:
        url = await links.sign(picture())
        await links._keys._redis.aclose()
        links._keys._redis = connect("redis://127.0.0.1:1", 0.2)
        for later_s in (1, 120, WEEK_S):
            clock.now_s = START_S + later_s
            assert isinstance(await opened(links, url), Link)
            assert kid(url) == kid(await links.sign(picture()))
    async with linking("redis://127.0.0.1:1", clock) as links:
        assert ErrorCode.LINK_INVALID is await opened(links, url)
        with pytest.raises(GatewayError) as refused:
            await links.sign(picture())
        assert ErrorCode.REDIS_UNAVAILABLE is refused.value.error_code


async def test_deleted_keys_open_no_link_after_a_minute(redis_url: str) -> None:
    clock = Clock()
    async with linking(redis_url, clock) as links:
        url = await links.sign(picture())
        await links._keys._redis.delete(NAME)
        clock.now_s += 61
        assert ErrorCode.LINK_INVALID is await opened(links, url)
        assert isinstance(await opened(links, await links.sign(picture())), Link)


async def test_wrong_links_read_the_keys_once_a_second(redis_url: str) -> None:
    clock = Clock()
    async with linking(redis_url, clock) as links:
        url = await links.sign(picture())
        redis = links._keys._redis
        before = (await redis.info("commandstats"))["cmdstat_hgetall"]["calls"]
        for number in range(50):
            clock.now_s += 0.05
            assert ErrorCode.LINK_INVALID is await opened(links, url.replace(kid(url), str(number)))
        assert 3 >= (await redis.info("commandstats"))["cmdstat_hgetall"]["calls"] - before


async def test_the_first_configured_key_signs_and_all_are_accepted(redis_url: str) -> None:
    clock, old, new = Clock(), "a1" * 16, "b2" * 16
    async with linking(redis_url, clock, old) as before, linking(redis_url, clock, new, old) as after:
        url = await before.sign(picture())
        assert isinstance(await opened(after, url), Link)
        assert ErrorCode.LINK_INVALID is await opened(before, await after.sign(picture()))
    assert 0 == await count_keys(redis_url)
