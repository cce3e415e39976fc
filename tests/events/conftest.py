"""A Redis connection and an HTTP client of each test."""

from collections.abc import AsyncIterator

import pytest

from gateway.generation.transport import AiohttpTransport
from gateway.redis import Client
from tests.support.admissions import connected


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Client]:
    async with connected(redis_url) as client:
        yield client


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    async with AiohttpTransport() as opened:
        yield opened
