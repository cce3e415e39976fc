"""A program that asks a pool many times at once, and prints how often it got a lease: `URL CALLS`."""

import asyncio
import sys

from gateway.domain.accounts import AccountLimits
from gateway.scheduler import Lease
from tests.support.asking import connected
from tests.support.pooling import account, pooling

LIMITS = AccountLimits(requests_per_minute=37, images_per_minute=1000, max_concurrency=1000)


async def main(url: str, calls: int) -> int:
    async with connected(url, timeout_s=10) as redis, pooling(redis, account("a", "a-1", "a-2", limits=LIMITS)) as one:
        found = await asyncio.gather(*(one.ask() for _ in range(calls)))
    return sum(isinstance(lease, Lease) for lease in found)


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
