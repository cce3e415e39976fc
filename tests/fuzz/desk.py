"""One caller with a lease on a hostile upstream: the real transport, pool and Redis, in a loop of their own."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final, TypeVar

from gateway.domain.accounts import Account, ProviderKey
from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageJob, ImageReply, Picture, ResponseFormat
from gateway.domain.pricing import CallPrice, MadeImages, PerImage
from gateway.generation.calls import CallLimits, UpstreamCall, UpstreamClient
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.providers.protocol import ProviderRequest
from gateway.redis import connect
from gateway.scheduler import Lease
from tests.fuzz.answers import SECRET
from tests.fuzz.plans import CAP_BYTES
from tests.support.hostile import Hostile
from tests.support.pooling import UNLIMITED, pooling

SLOW_TIMEOUT_S: Final = 0.15
TIMEOUT_S: Final = 5.0
"""Where nothing is slow but the machine."""
ORDER_BYTES: Final = 2000
_T = TypeVar("_T")

IMAGES: Final = 2
"""Of each order. More in a reply are not delivered."""


PRICE = CallPrice(PerImage(3500), MadeImages(IMAGES))


class Desk:
    """Calls one after the other; the lease is the same for all of them."""

    def __init__(self, runner: asyncio.Runner, upstream: Hostile, fetcher: ImageDownloader, lease: Lease) -> None:
        self._runner = runner
        self._upstream = upstream
        self._fetcher = fetcher
        self._lease = lease
        self.callers: dict[float, UpstreamClient] = {}

    def call(self, provider: str, delivery: ResponseFormat, timeout_s: float) -> ImageReply | GatewayError:
        """One call within so many seconds."""
        endpoint = UpstreamEndpoint("sim", PROVIDERS[provider], self._upstream.url, LinkPolicy([]))
        request = ProviderRequest("POST", "/v1/image_generation", (), (b"{" + b" " * ORDER_BYTES + b"}",))
        order = UpstreamCall(request, delivery, IMAGES, PRICE, ImageJob("a cat"))
        return self.run(self.callers[timeout_s].call(endpoint, self._lease, order, remaining_s=1000))

    def deliver(self, pictures: tuple[Picture, ...], policy: LinkPolicy) -> tuple[Picture, ...]:
        return self.run(self._fetcher.deliver(pictures, ResponseFormat.BASE64, policy, 100))

    def run(self, act: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(act)


@contextmanager
def sitting(redis_url: str, upstream: Hostile) -> Iterator[Desk]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield runner.run(_furnish(stack, runner, redis_url, upstream))
        finally:
            runner.run(stack.aclose())


async def _furnish(stack: AsyncExitStack, runner: asyncio.Runner, redis_url: str, upstream: Hostile) -> Desk:
    redis = connect(redis_url, 2.0)
    stack.push_async_callback(redis.aclose)
    owner = Account("sim", "main", UNLIMITED, (ProviderKey("sim", "main", "main-1", SECRET),))
    process = await stack.enter_async_context(pooling(redis, owner))
    own = await stack.enter_async_context(AiohttpTransport())
    public = await stack.enter_async_context(AiohttpTransport(public_only=True))
    fetcher = ImageDownloader(public, own, DownloadLimits(1.0, TIMEOUT_S, CAP_BYTES), "tests")
    desk = Desk(runner, upstream, fetcher, await process.take())
    loop = asyncio.get_running_loop()
    for timeout_s in (SLOW_TIMEOUT_S, TIMEOUT_S):
        limits = CallLimits(1.0, timeout_s, 0.0, CAP_BYTES)
        desk.callers[timeout_s] = UpstreamClient(own, process.pool, limits, process.metrics, "tests", loop.time)
    return desk
