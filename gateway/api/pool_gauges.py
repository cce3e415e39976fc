"""Gauges read at scrape time, most of them from Redis. Every process reports the same values."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.domain.errors import KeyState
from gateway.observability.metrics import MetricSpec
from gateway.redis.preflight import RedisMemory
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus

_MILDEST_FIRST: Final = (
    KeyState.READY,
    KeyState.HALF_OPEN,
    KeyState.COOLING,
    KeyState.QUARANTINED,
    KeyState.DRAINING,
    KeyState.DISABLED,
)


def _gauge(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"imagegate_{name}", "gauge", text, labels)


_POOL_CAPACITY: Final = _gauge("pool_capacity_remaining", "Requests that could be sent to an upstream now.", "upstream")
_QUEUE_DEPTH: Final = _gauge("queue_depth", "Requests that wait for an account.", "upstream")
_ACCOUNT_CAPACITY: Final = _gauge(
    "account_capacity",
    "Limits of an account, and what of them is used.",
    *("upstream", "account", "resource", "bound"),
)
_UPSTREAM_STATE: Final = _gauge(
    "upstream_state", "State of each upstream: 1 for its current state.", "upstream", "state"
)
_KEY_STATE: Final = _gauge(
    "key_state",
    "State of each upstream key, or its account's or upstream's if that is worse: 1 for the current state.",
    *("upstream", "account", "key", "state"),
)
_KEY_COOLDOWN_END: Final = _gauge(
    "key_cooldown_end_timestamp_seconds",
    "Unix time at which the cooldown of a key, its account or its upstream ends, and the error that began it.",
    *("upstream", "account", "key", "code"),
)
_REDIS_UP: Final = _gauge("redis_up", "Whether Redis responds: 1 or 0.")
_REDIS_USED_BYTES: Final = _gauge(
    "redis_memory_used_bytes", "Memory that Redis uses; of a cluster, its fullest server."
)
_REDIS_MAX_BYTES: Final = _gauge(
    "redis_memory_max_bytes", "Memory that Redis may use: its `maxmemory`, or all of its machine's if that is 0."
)
_BUILD_INFO: Final = _gauge("build_info", "Always 1; the version that serves.", "version")
SCRAPED: Final = (
    _POOL_CAPACITY,
    _QUEUE_DEPTH,
    _ACCOUNT_CAPACITY,
    _UPSTREAM_STATE,
    _KEY_STATE,
    _KEY_COOLDOWN_END,
    _REDIS_UP,
    _REDIS_USED_BYTES,
    _REDIS_MAX_BYTES,
    _BUILD_INFO,
)

_SAMPLES_PER_SLICE: Final = 50
_PAUSE_S: Final = 0.002
_Sample = tuple[MetricSpec, tuple[str, ...], float]
_T = TypeVar("_T")


def with_pauses(samples: Iterable[_T]) -> Iterator[_T]:
    """Yields samples in slices of less than a millisecond; between them, the event loop gets the interpreter lock."""
    for number, sample in enumerate(samples, 1):
        if number % _SAMPLES_PER_SLICE == 0:
            time.sleep(_PAUSE_S)
        yield sample


@dataclass(eq=False)
class PoolGauges(Collector):
    """Reports the values that the last scrape read from Redis."""

    version: str
    statuses: Sequence[PoolStatus] | None = None
    """None if Redis does not respond."""
    redis_memory: RedisMemory | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families = {spec: GaugeMetricFamily(spec.name, spec.help, labels=spec.labels) for spec in SCRAPED}
        for spec, labels, value in with_pauses(self._samples()):
            families[spec].add_metric(labels, value)
        return families.values()

    def _samples(self) -> Iterator[_Sample]:
        yield _BUILD_INFO, (self.version,), 1
        yield _REDIS_UP, (), self.statuses is not None
        if self.statuses is None:
            return
        yield from _pool(self.statuses)
        if self.redis_memory:
            yield _REDIS_USED_BYTES, (), self.redis_memory.used_bytes
            yield _REDIS_MAX_BYTES, (), self.redis_memory.max_bytes


def _pool(statuses: Sequence[PoolStatus]) -> Iterator[_Sample]:
    """Renders the worst state of each key, its account and its upstream. A removed key has no state."""
    for status in statuses:
        yield _POOL_CAPACITY, (status.upstream,), status.free
        yield _QUEUE_DEPTH, (status.upstream,), status.waiting
        for state in KeyState:
            yield _UPSTREAM_STATE, (status.upstream, state.value), state is status.state
        for account in status.accounts:
            yield from _account(account)
            for key in account.keys:
                yield from _key(key, max((key, account, status), key=lambda part: _MILDEST_FIRST.index(part.state)))


def _account(account: AccountStatus) -> Iterator[_Sample]:
    limits = account.limits
    resources = {
        "requests": (limits.requests_per_minute, account.requests_per_minute_now, account.requests_used),
        "images": (limits.images_per_minute, limits.images_per_minute, account.images_used),
        "concurrency": (limits.max_concurrency, account.max_concurrency_now, account.in_flight),
    }
    for resource, values in resources.items():
        for bound, value in zip(("limit", "allowed", "used"), values, strict=True):
            yield _ACCOUNT_CAPACITY, (account.upstream, account.name, resource, bound), value


def _key(key: KeyStatus, worst: Health) -> Iterator[_Sample]:
    labels = (key.upstream, key.account, key.name)
    for state in KeyState:
        yield _KEY_STATE, (*labels, state.value), state is worst.state
    if worst.error_code and worst.until_s:
        yield _KEY_COOLDOWN_END, (*labels, worst.error_code), worst.until_s
