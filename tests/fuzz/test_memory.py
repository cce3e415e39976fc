"""What 10,000 hostile requests leave behind in a gateway."""

import time
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.fuzz.attacks import attacks, hostile_plans
from tests.fuzz.book import Book, booking
from tests.fuzz.storm import Storm
from tests.support.harness import Simulator, wait_until
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.strangers import private_bytes

REQUESTS: Final = 10_000
WAVES: Final = 8
"""Before each, every upstream key is ready again: hostile responses take some out."""
WARM_UP_ROUNDS: Final = 2
GROWTH_MAX_BYTES: Final = 20 * 2**20
RETURNED_S: Final = 60.0
"""A busy machine measures the heap late, and returns what is free after that."""
STATUSES: Final = frozenset({200, 400, 401, 404, 405, 413, 429, 431, 502, 504})
"""All of them are met, or the requests are not those that they are meant to be."""
TENANTS: Final = [f"tenant-{number}" for number in range(40)]
"""So many that none of them is throttled."""
BOUNDS: Final = {"IMAGEGATE_SERVER__BODY_TIMEOUT_S": "20", "IMAGEGATE_SERVER__REJECTIONS_PER_SECOND": "10"}


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return hostile_plans()


@pytest.fixture(scope="module")
def upstream(plans: dict[str, Plan]) -> Iterator[Hostile]:
    with hostile() as running:
        running.pages.update({f"/{model}/v1/image_generation".encode(): plan for model, plan in plans.items()})
        yield running


@pytest.fixture(scope="module")
def book(
    one_simulator: Simulator, upstream: Hostile, plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Book]:
    urls = {model: f"{upstream.url}/{model}" for model in plans}
    with booking(tmp_path_factory.mktemp("f"), one_simulator, urls, **BOUNDS) as running:
        for tenant in (*TENANTS, "greedy"):
            running.admit(tenant)
        running.admit("limited", limits={"requests_per_minute": 1})
        running.admit("spent", quotas={"images_per_day": 1})
        yield running


def settled_bytes(pid: int) -> int:
    """After freed memory was returned to the system, which happens every 5 s."""
    sizes = []
    for _ in range(14):
        sizes.append(private_bytes(pid))
        time.sleep(0.5)
    return min(sizes)


def is_idle(book: Book) -> bool:
    lines = httpx.get(f"{book.url}/metrics", verify=False).text.splitlines()
    values = {line.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    return (0, 1) == (values["imagegate_held_bytes"], values["imagegate_requests_in_progress"])


@pytest.mark.slow
def test_10_000_hostile_requests_of_every_kind_leave_no_memory_behind(book: Book, plans: dict[str, Plan]) -> None:
    """More than after two of each kind, which load what is loaded late, fill caches, and grow the heap once."""
    kinds = attacks(book, plans, TENANTS)
    storm = Storm(book.url, kinds)
    storm.rage(WARM_UP_ROUNDS * len(kinds))
    wait_until(lambda: is_idle(book), "the warm-up is over")
    before = settled_bytes(book.pid)
    for _ in range(WAVES):
        book.revive()
        storm.rage(REQUESTS // WAVES)
    wait_until(lambda: is_idle(book), "everything is answered")
    wait_until(lambda: private_bytes(book.pid) - before < GROWTH_MAX_BYTES, "it is returned", RETURNED_S)
    assert set() == STATUSES - {status for _, status in storm.seen}
    book.revive()
    wait_until(lambda: book.serves() == 200, "it serves")
