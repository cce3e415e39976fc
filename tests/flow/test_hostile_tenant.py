"""A tenant that sends whatever harms, at its own rate limit, costs another tenant at most 5 % of its pictures.

`HOSTILE_SECONDS=600` makes the run ten minutes long.
"""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from gateway.testing.simulator import create_simulator
from tests.support.edge import ATTACK, order
from tests.support.harness import Simulator, new_key, serving
from tests.support.overload import Upstream, accounts, fleet, write

pytestmark = pytest.mark.slow

ECHOED = ("https://x.example/ credits do not support.jpg", "https://x.example/(1008)")
HOSTILE: tuple[Mapping[str, object], ...] = (
    *({"prompt": ATTACK, "n": n} for n in (1, 9)),
    *({"prompt": f"{ATTACK} ../../etc/passwd", "n": 1} for _ in range(4)),
    *({"prompt": "x", "subject_reference": [{"type": "character", "image_file": link}]} for link in ECHOED),
    *({"prompt": words} for words in ("[code=1000]", "[http=502]", "[garbage]", "[empty]", "[cut]", "[code=2013]")),
    *({"prompt": f"[code={code}]"} for code in (2061, 2049, 1008, 2056, 2038, 1028)),
    {"prompt": "[delay=2] slow", "n": 4},
)
STATUSES = (401, 402, 403, 406, 429)
"""With which the edge blocks, each for a while."""
LIMITS = {"requests_per_minute": 120, "images_per_minute": 1000, "max_concurrency": 10}
HOSTILE_LIMITS = {"requests_per_minute": 120, "concurrency": 10}
A_SECOND = {"alice": 1.0, "mallory": 4.0}
"""Requests of each; of mallory's, half are refused by its own limit."""


@pytest.fixture
def provider() -> Iterator[Simulator]:
    with serving(create_simulator(latency_s=0.3, requests_per_minute=120)) as url:
        yield Simulator(url)


class Traffic:
    """Both tenants, each at a steady pace, whatever is answered."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        self.answers: dict[str, Counter[int]] = {name: Counter() for name in keys}
        self._url = url
        self._keys = keys

    async def run(self, seconds: float, provider: Simulator) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await self._ask(session, "alice", {"prompt": "before it begins"})
            blocking = asyncio.ensure_future(self._block(provider))
            harmless = ({"prompt": f"a lake {number}"} for number in itertools.count())
            await asyncio.gather(
                self._pace(session, "alice", harmless, seconds),
                self._pace(session, "mallory", itertools.cycle(HOSTILE), seconds),
            )
            blocking.cancel()

    async def _block(self, provider: Simulator) -> None:
        for status in itertools.cycle(STATUSES):
            await asyncio.to_thread(order, provider, "edge", blocks=status, echoes=True)
            await asyncio.sleep(3)

    async def _pace(
        self, session: aiohttp.ClientSession, tenant: str, bodies: Iterator[Mapping[str, object]], seconds: float
    ) -> None:
        asking, ends_s = [], time.monotonic() + seconds
        while time.monotonic() < ends_s:
            asking.append(asyncio.ensure_future(self._ask(session, tenant, next(bodies))))
            await asyncio.sleep(1 / A_SECOND[tenant])
        await asyncio.gather(*asking)

    async def _ask(self, session: aiohttp.ClientSession, tenant: str, body: Mapping[str, object]) -> None:
        path = "/v1/image_generation" if "subject_reference" in body else "/v1/images/generations"
        headers = {"authorization": f"Bearer {self._keys[tenant]}", "x-imagegate-max-wait": "30"}
        asked = {"model": "image-01", "response_format": "url", **body}
        async with session.post(self._url + path, json=asked, headers=headers) as answer:
            await answer.read()
            self.answers[tenant][answer.status] += 1


def test_a_hostile_tenant_costs_another_at_most_a_twentieth_of_its_pictures(
    tmp_path: Path, redis_url: str, provider: Simulator
) -> None:
    upstream = Upstream("sim", provider.url, accounts(3), LIMITS)
    with fleet(write(tmp_path, redis_url, upstream), 1, upstream) as started:
        [url] = started.urls
        keys = {"alice": new_key(url, "alice"), "mallory": new_key(url, "mallory", limits=HOSTILE_LIMITS)}
        traffic = Traffic(url, keys)
        asyncio.run(traffic.run(float(os.environ.get("HOSTILE_SECONDS", "20")), provider))
    alice, mallory = traffic.answers["alice"], traffic.answers["mallory"]
    (tmp_path / "answers.txt").write_text(f"{alice}\n{mallory}\n")
    assert alice[200] >= 0.95 * alice.total(), alice
    assert mallory[400] > 0, "the edge blocked something"
