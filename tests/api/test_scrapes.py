"""Scrapers of /metrics that come in crowds, and those that leave before their page is made."""

import asyncio
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gateway.api.pool_gauges import PoolGauges
from gateway.api.scrape import TEXT, Scrape
from gateway.events.outbox import Outbox
from gateway.observability.process import ProcessCollector
from tests.support import strangers
from tests.support.asking import connected
from tests.support.harness import Gateway, Simulator, document, gatewaying, upstream, wait_until
from tests.support.pooling import account, pooling
from tests.support.processes import total

pytestmark = pytest.mark.slow

SCRAPE = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
PROMETHEUS_S = 10
"""Its scrape timeout, as the shipped configuration has it."""


@pytest.fixture
def gateway(redis_url: str, simulator: Simulator, stack: ExitStack) -> Gateway:
    """One that renders its page as rarely as in production."""
    configured = document(redis_url, upstream("sim", "minimax", simulator.url))
    return stack.enter_context(gatewaying(configured, scrape_interval_max_s=5.0))


def scraped(gateway: Gateway, within_s: float = PROMETHEUS_S) -> str:
    return httpx.get(f"{gateway.url}/metrics", timeout=within_s).text


def count_of(gateway: Gateway, status: int) -> float:
    found = [
        line for line in scraped(gateway).splitlines() if 'route="/metrics"' in line and f'status="{status}"' in line
    ]
    return sum(total(line, "imagegate_requests_total") for line in found)


def scrape_and_leave(gateway: Gateway, count: int) -> None:
    for _ in range(count):
        with strangers.connected(gateway.url) as client:
            client.sendall(SCRAPE)


def test_scrapers_that_left_do_not_delay_the_next(gateway: Gateway) -> None:
    """Turns for all of them would take 150 s. To accept them takes a busy machine some seconds."""
    scrape_and_leave(gateway, 3000)
    assert "imagegate_redis_up 1.0" in scraped(gateway, within_s=60)


def test_scrapers_that_left_are_dropped_at_once(gateway: Gateway) -> None:
    scraped(gateway)  # the next page is a second away
    scrape_and_leave(gateway, 20)
    wait_until(lambda: count_of(gateway, 499) > 0, "disconnects are noticed")
    assert 1 == total(scraped(gateway), "imagegate_requests_in_progress")


def test_scrapers_that_wait_share_one_page(gateway: Gateway) -> None:
    async def ask(count: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=count)) as client:
            return await asyncio.gather(*(client.get(f"{gateway.url}/metrics") for _ in range(count)))

    answers = asyncio.run(ask(200))
    assert {200} == {answer.status_code for answer in answers}
    assert len({answer.content for answer in answers}) <= 10  # one a second while they connect


def test_a_page_does_not_wait_for_a_client_that_reads_none(gateway: Gateway) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(strangers.connected(gateway.url, receive_bytes=4096)).sendall(SCRAPE)
        assert "imagegate_redis_up 1.0" in scraped(gateway)


def test_scrapers_that_accept_openmetrics_get_it(gateway: Gateway) -> None:
    """As Prometheus asks. The families are the same in both formats."""
    accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3"
    response = httpx.get(f"{gateway.url}/metrics", headers={"accept": accept})
    assert "application/openmetrics-text; version=1.0.0; charset=utf-8" == response.headers["content-type"]
    families = {family.name for family in parse_openmetrics(response.text)}  # type: ignore[no-untyped-call]
    text = httpx.get(f"{gateway.url}/metrics")
    assert "text/plain; version=0.0.4; charset=utf-8" == text.headers["content-type"]
    assert families == {family.name for family in text_string_to_metric_families(text.text)}


@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text;version=x.y", "text/plain;version=9"])
def test_no_accept_header_fails_a_scrape(gateway: Gateway, accept: str) -> None:
    assert 200 == httpx.get(f"{gateway.url}/metrics", headers={"accept": accept}).status_code


class LoopWatch(Collector):
    """Waits, while it is rendered, for the event loop to run something else."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.has_run = False

    def collect(self) -> Iterable[Metric]:
        turn = threading.Event()
        self._loop.call_soon_threadsafe(turn.set)
        self.has_run = turn.wait(10)
        return ()


@pytest.mark.anyio
async def test_the_event_loop_runs_while_a_scrape_is_rendered(redis_url: str) -> None:
    async with connected(redis_url) as redis, pooling(redis, account("a")) as process:
        registry = process.metrics.registry
        watch = LoopWatch(asyncio.get_running_loop())
        registry.register(watch)
        collector = ProcessCollector(process.metrics, {}, time.monotonic)
        outbox = Outbox(redis, lambda: ())

        async def count() -> tuple[int, int]:
            return await outbox.count(), 0

        scrape = Scrape(registry, collector, process.pool, lambda: None, PoolGauges("1"), count)
        assert b"imagegate_build_info" in await scrape.render(TEXT)
    assert watch.has_run
