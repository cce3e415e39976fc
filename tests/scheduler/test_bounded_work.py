"""One script does little, however many wait, for whatever they wait, and however many accounts there are.

Counted are the commands that a script runs inside: that says the same on every machine.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from gateway.domain.accounts import AccountLimits
from gateway.scheduler.scripts import record
from tests.scheduler.clocked_pool import DENIED, WINDOW_S, ClockedPool
from tests.scheduler.traffic import percentile

LIMITS: Final = AccountLimits(requests_per_minute=2, images_per_minute=12, max_concurrency=10)
WAITING: Final = 2000
TENANTS: Final = 200
ACTS: Final = ("lease", "heartbeat", "cancel", "release", "claim")


class Counted:
    """A pool under a load of every kind, and how many commands each of its scripts ran inside."""

    def __init__(
        self, pool: ClockedPool, accounts: int, limits: AccountLimits = LIMITS, batch_share: float = 0.0
    ) -> None:
        self.pool = pool
        self.batch_share = batch_share
        self.random = random.Random(accounts)
        self.waiting: dict[str, None] = {}
        self.counts: defaultdict[str, list[int]] = defaultdict(list)
        self._asked = 0
        pool.declare({f"a{at:04}": limits for at in range(accounts)}, paced=50)

    def ask(self) -> None:
        self._asked += 1
        tenant, images = f"tenant{self.random.randrange(TENANTS)}", self.random.randint(1, 9)
        model = self.random.choice(["m", "other", "live"])
        priority = "b" if self.random.random() < self.batch_share else "i"
        found = self.pool.lease(
            f"r{self._asked}", tenant, images, patience_s=1_000_000.0, model=model, priority=priority
        )
        if found["decision"] == "wait":
            self.waiting[f"r{self._asked}"] = None

    def fill(self) -> None:
        """Until so many wait; then a third of them waits for a model that every key turns out not to have."""
        while len(self.waiting) < WAITING:
            self.ask()
            self.pool.clock.advance(0.0005)
        for lease_id in {lease["account"]: lease_id for lease_id, lease in self.pool.leases.items()}.values():
            self.pool.release(lease_id, **DENIED | {"model": "live"})

    def step(self) -> None:
        """A twentieth of a second."""
        for _ in range(3):
            with self.counting("lease"):
                self.ask()
        for lease_id in list(self.pool.leases)[:4]:
            with self.counting("release"):
                self.pool.release(lease_id)
        with self.counting("heartbeat"):
            found = self.pool.turn(*list(self.waiting)[:100])
        for lease_id in found.get("assigned", []):
            self.waiting.pop(lease_id)
            with self.counting("claim"):
                self.pool.claim(lease_id)
        for lease_id in [*found.get("down", []), *list(self.waiting)[-1:]]:
            self.waiting.pop(lease_id, None)
            with self.counting("cancel"):
                self.pool.leave(lease_id)
        self.pool.clock.advance(0.05)

    @contextmanager
    def counting(self, act: str) -> Iterator[None]:
        before = commands_of(self.pool)
        yield
        self.counts[act].append(commands_of(self.pool) - before)


def commands_of(pool: ClockedPool) -> int:
    """The commands that scripts have run inside until now."""
    stats: dict[str, Any] = pool.client.info("commandstats")
    outside = ("cmdstat_info", "cmdstat_evalsha", "cmdstat_eval", "cmdstat_script", "cmdstat_hset|clock")
    return sum(int(entry["calls"]) for name, entry in stats.items() if not name.startswith(outside))


@pytest.mark.slow
def test_a_script_does_no_more_for_2000_that_wait_and_1000_accounts_than_for_20(clocked: ClockedPool) -> None:
    """Also when all accounts have room again in one moment: then it gives out some of it, and leaves the rest."""
    means = {}
    for accounts in (1, 20, 100, 1000):
        clocked.client.flushall()
        load = Counted(ClockedPool(clocked.client), accounts)
        load.fill()
        for _ in range(30):
            load.step()
        for act, counts in load.counts.items():
            assert percentile(sorted(counts), 0.99) < 400, (accounts, act)
        every = [count for counts in load.counts.values() for count in counts]
        means[accounts] = sum(every) / len(every)
        load.pool.clock.advance(WINDOW_S)
        for _ in range(10):
            load.step()
        assert {act: max(counts) for act, counts in load.counts.items() if max(counts) > 2500} == {}, accounts
        assert accounts == 1 or set(ACTS) == load.counts.keys()
    assert means[1000] < 1.5 * means[20], means


@pytest.mark.slow
def test_a_script_does_little_while_batches_wait_for_what_they_must_leave(clocked: ClockedPool) -> None:
    """Every release may have freed it, so each of them looks; interactive requests come now and then."""
    load = Counted(
        clocked, 100, AccountLimits(requests_per_minute=10, images_per_minute=60, max_concurrency=10), batch_share=0.98
    )
    load.fill()
    for _ in range(60):
        load.step()
    assert {act: max(counts) for act, counts in load.counts.items() if max(counts) > 2500} == {}
    means = {act: sum(counts) / len(counts) for act, counts in load.counts.items()}
    assert {act: mean for act, mean in means.items() if mean > 500} == {}


@pytest.mark.slow
def test_a_script_does_little_while_every_tenant_that_waits_holds_its_share_of_the_lanes(clocked: ClockedPool) -> None:
    """Room in the minutes, none for these tenants: each script meets many that it must not serve."""
    load = Counted(
        clocked, 200, AccountLimits(requests_per_minute=10_000, images_per_minute=100_000, max_concurrency=2)
    )
    load.fill()
    for _ in range(30):
        load.step()
    assert {act: max(counts) for act, counts in load.counts.items() if max(counts) > 2500} == {}
    means = {act: sum(counts) / len(counts) for act, counts in load.counts.items()}
    assert {act: mean for act, mean in means.items() if mean > 500} == {}


def test_a_script_reads_few_stale_entries_of_classes_and_later_ones_read_the_others(clocked: ClockedPool) -> None:
    """Tenants that were served in another class have moved on, and still stand first in these."""
    classes, stale = 20, 300
    clocked.declare({"a": AccountLimits(requests_per_minute=classes, images_per_minute=100, max_concurrency=classes)})
    clocked.spend(classes)
    waiting = [f"r{number}" for number in range(classes)]
    for number, lease_id in enumerate(waiting):
        clocked.wait(lease_id, f"t{number}", model=f"m{number}")
    for name in clocked.client.zrange(record("sim", "classes"), 0, -1):
        clocked.client.zadd(record("sim", f"class:{name!s}"), {f"i:moved{moved}": 0 for moved in range(stale)})
    clocked.client.zadd(record("sim", "active"), {f"i:moved{moved}": 1e6 + moved for moved in range(stale)})
    clocked.clock.advance(WINDOW_S)
    counts: list[int] = []
    found: dict[str, Any] = {"next_us": 0}
    while "assigned" not in found:
        assert 0 == found["next_us"]
        before = commands_of(clocked)
        found = clocked.turn(*waiting)
        counts.append(commands_of(clocked) - before)
    assert max(counts) < 300, counts
    assert sorted(waiting) == sorted(clocked.given(*waiting))
