"""Redis time of each scheduler script under a difficult load, with few and with many accounts.

Two thousand requests of 200 tenants wait, each for one to nine images; one of the three models is denied to every
key. The clock advances between scripts so that two requests can be served per step on average for any number of
accounts, which makes the sizes comparable. CPU is that of Redis' main thread, without the cost of measuring. The
baseline of a p99 is a fixed script on the same server: the ratio compares machines of different speed.
"""

import itertools
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.load import percentile
from bench.pool import ClockedPool
from bench.processes import redis
from bench.results import Of, Row, at_most
from bench.run import Run

_SIZES: Final = (1, 20, 100, 1000)
_GROWTH: Final = (20, 1000)
_WAITING: Final = 2000
_TENANTS: Final = 200
_MODELS: Final = ("m1", "m2", "denied")
_PATIENCE_S: Final = 1_000_000.0
_STEP_S: Final = 12.0
"""Of one account, on average: it serves two requests meanwhile."""
_REQUESTS_PER_S: Final = 1 / 6
"""Per account."""
_FILL_S: Final = 55.0
_DENIED_S: Final = 10**6
_ASKED: Final = 100
"""Waiting requests per heartbeat."""
_P99_MAX_MS: Final = 2
_SLOWEST_MAX_MS: Final = 20
_GROWTH_MAX: Final = 1.5


def measure(run: Run) -> list[Row]:
    measured = {accounts: _costs_us(run, accounts) for accounts in _SIZES}
    found = {accounts: costs for accounts, (costs, _) in measured.items()}
    small, large = (statistics.mean(map(statistics.mean, found[accounts].values())) for accounts in _GROWTH)
    slowest_us = max(max(itertools.chain(*costs.values())) for costs in found.values())
    return [
        *(
            Row(
                measure=f"script p99, ms; accounts: {accounts:,}",
                gateway=percentile(sorted(itertools.chain(*costs.values())), 0.99) / 1000,
                baseline=fixed_us / 1000,
                goal=at_most(_P99_MAX_MS),
            )
            for accounts, (costs, fixed_us) in measured.items()
        ),
        Row(
            measure="  fixed script, 1e6 steps, ms",
            gateway=statistics.median(fixed_us for _, fixed_us in measured.values()) / 1000,
        ),
        Row(measure="  slowest of all, ms", gateway=slowest_us / 1000, goal=at_most(_SLOWEST_MAX_MS)),
        Row(
            measure="  mean, 20 to 1,000 accounts, us",
            gateway=large,
            baseline=small,
            goal=at_most(_GROWTH_MAX, Of.RATIO),
        ),
    ]


def _costs_us(run: Run, accounts: int) -> tuple[dict[str, list[float]], float]:
    """Returns the costs by script, and that of the fixed script beside them."""
    with tempfile.TemporaryDirectory(dir=run.folder) as folder, redis(Path(folder)) as port:
        load = _Load(ClockedPool(port, accounts), accounts)
        try:
            load.deny()
            load.fill()
            load.go_on(run.pick(30, 10))
            load.pool.watch()
            for _ in range(run.count(500, 150)):
                load.step()
            fixed_us = load.pool.fixed_us()
        finally:
            load.pool.close()
    costs = load.pool.costs_us
    p99 = ", ".join(f"{act} {percentile(sorted(found), 0.99):.0f}" for act, found in costs.items())
    run.report(f"{accounts:,} accounts, {len(load.waiting):,} wait: p99 {p99} us; fixed script {fixed_us:.0f} us")
    return costs, fixed_us


class _Load:
    """Waiting requests, and calls in flight: at most one per account, the oldest ends first."""

    def __init__(self, pool: ClockedPool, accounts: int) -> None:
        self.pool = pool
        self._accounts = accounts
        self._random = random.Random(accounts)  # noqa: S311 - the same load in every run
        self._numbers = itertools.count()
        self.waiting: dict[str, str] = {}
        """ID -> model."""
        self._in_flight: dict[str, tuple[str, str]] = {}
        """ID -> account, model."""

    def deny(self) -> None:
        """Denies the last model to every key. Raises: RuntimeError if an account got no request."""
        trials = [
            self.pool.lease(f"t{number}", "t", 1, _MODELS[-1], 0.0)["account"] for number in range(self._accounts)
        ]
        if len(set(trials)) < self._accounts:
            raise RuntimeError(f"{len(set(trials))} of {self._accounts} accounts were asked")
        error_code = {"error_code": "key_model_denied", "scope": "model", "state": "quarantined", "seconds": _DENIED_S}
        for number, account in enumerate(trials):
            self.pool.release(f"t{number}", account, _MODELS[-1], **error_code, seconds_max=0, breaker="well")

    def fill(self) -> None:
        """Runs most of a minute at full capacity until enough wait. Raises: RuntimeError if too few do."""
        asked = round(_WAITING + _FILL_S * _REQUESTS_PER_S * self._accounts)
        for _ in range(2 * asked):
            if len(self.waiting) == _WAITING:
                return
            self._ask(*_MODELS[:-1])
            self._serve(_FILL_S / asked)
        raise RuntimeError(f"only {len(self.waiting)} of {_WAITING} wait")

    def go_on(self, seconds: float) -> None:
        until_s = self.pool.clock.now_s + seconds
        while self.pool.clock.now_s < until_s:
            self.step()

    def step(self) -> None:
        """Advances time: grants free capacity; some requests join and some leave."""
        self._serve(self._random.expovariate(self._accounts / _STEP_S))
        self.pool.turn(list(itertools.islice(self.waiting, _ASKED)))
        leaving = self._random.choice(list(self.waiting))
        del self.waiting[leaving]
        self.pool.leave(leaving)
        self._ask(*_MODELS)
        for _ in range(_WAITING - len(self.waiting)):
            self._ask(*_MODELS)

    def _serve(self, seconds: float) -> None:
        self.pool.clock.advance(seconds)
        for lease_id in self.pool.granted():
            self._note(lease_id, self.waiting.pop(lease_id), self.pool.claim(lease_id))
        while len(self._in_flight) > self._accounts:
            lease_id = next(iter(self._in_flight))
            account, model = self._in_flight.pop(lease_id)
            self.pool.release(lease_id, account, model, is_success=True, breaker="well")

    def _ask(self, *models: str) -> None:
        lease_id, model = f"q{next(self._numbers)}", self._random.choice(models)
        tenant, images = f"tenant-{self._random.randrange(_TENANTS)}", self._random.randint(1, 9)
        found = self.pool.lease(lease_id, tenant, images, model, _PATIENCE_S)
        if found["decision"] == "wait":
            self.waiting[lease_id] = model
        elif found["decision"] == "leased":
            self._note(lease_id, model, found)

    def _note(self, lease_id: str, model: str, found: dict[str, Any]) -> None:
        self._in_flight[lease_id] = (found["account"], model)
