"""Scrapers of /metrics that come in crowds, and those that leave before their page is made."""

import asyncio
from contextlib import ExitStack

import httpx

from tests.support.harness import Gateway, wait_until
from tests.support.processes import total
from tests.support.strangers import connected

SCRAPE = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
PROMETHEUS_S = 10
"""Its scrape timeout, as the shipped configuration has it."""


def scraped(gateway: Gateway) -> str:
    return httpx.get(f"{gateway.url}/metrics", timeout=PROMETHEUS_S).text


def count_of(gateway: Gateway, status: int) -> float:
    found = [
        line for line in scraped(gateway).splitlines() if 'route="/metrics"' in line and f'status="{status}"' in line
    ]
    return sum(total(line, "imagegate_requests_total") for line in found)


def scrape_and_leave(gateway: Gateway, count: int) -> None:
    for _ in range(count):
        with connected(gateway.url) as client:
            client.sendall(SCRAPE)


def test_scrapers_that_left_do_not_delay_the_next(gateway: Gateway) -> None:
    scrape_and_leave(gateway, 3000)
    assert "imagegate_redis_up 1.0" in scraped(gateway)


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
            stack.enter_context(connected(gateway.url, receive_bytes=4096)).sendall(SCRAPE)
        assert "imagegate_redis_up 1.0" in scraped(gateway)
