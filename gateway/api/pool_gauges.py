"""Gauges read at scrape time, most of them from Redis. Every process reports the same values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.errors import KeyState
from gateway.jobs.batch_worker import OpenBatches
from gateway.jobs.batches import BatchStatus
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


SCRAPED: Final = tuple(
    MetricSpec(f"imagegate_{name}", "gauge", text, labels)
    for name, labels, text in (
        ("pool_capacity_remaining", ("upstream",), "Requests that could be sent to an upstream now."),
        ("queue_depth", ("upstream",), "Interactive requests that wait for an account."),
        ("batch_queue_depth", ("upstream",), "Lines of batches that wait for an idle account."),
        (
            "account_capacity",
            ("upstream", "account", "resource", "bound"),
            "Limits of an account, and what of them is used.",
        ),
        ("upstream_state", ("upstream", "state"), "State of each upstream: 1 for its current state."),
        (
            "key_state",
            ("upstream", "account", "key", "state"),
            "State of each upstream key, or its account's or upstream's if that is worse: 1 for the current state.",
        ),
        (
            "key_cooldown_end_timestamp_seconds",
            ("upstream", "account", "key", "code"),
            "Unix time at which the cooldown of a key, its account or its upstream ends, and the error that began it.",
        ),
        ("batches_open", ("status",), "Batches that have not ended, by status."),
        ("batch_lines_waiting", (), "Lines of batches that wait to be claimed."),
        (
            "batch_expiry_timestamp_seconds",
            (),
            "Unix time at which the first window of a batch with waiting lines ends; 0 without one.",
        ),
        ("event_outbox_length", (), "Events that are not queued for their endpoints yet."),
        ("event_deliveries_pending", (), "Deliveries of events that were not accepted yet."),
        ("redis_up", (), "Whether Redis responds: 1 or 0."),
        ("redis_memory_used_bytes", (), "Memory that Redis uses; of a cluster, its fullest server."),
        (
            "redis_memory_max_bytes",
            (),
            "Memory that Redis may use: its `maxmemory`, or all of its machine's if that is 0.",
        ),
        ("build_info", ("version",), "Always 1; the version that serves."),
    )
)
_Sample = tuple[str, tuple[str, ...], float]
"""Name, label values and value."""


@dataclass(eq=False)
class PoolGauges:
    """Reports the values that the last scrape read from Redis.

    It renders itself: at 300 accounts prometheus_client would need 40 ms for these 4,500 samples, and every request
    that meets a rendering waits for its turn at the interpreter.
    """

    version: str
    statuses: Sequence[PoolStatus] | None = None
    """None if Redis does not respond."""
    redis_memory: RedisMemory | None = None
    count_batches: Callable[[], OpenBatches] | None = None
    """None without a storage."""
    events: tuple[int, int] | None = None
    """Length of the outbox, and pending deliveries."""

    def render(self) -> bytes:
        """Renders lines that both text formats have in common."""
        lines = {spec.name: [f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} gauge\n"] for spec in SCRAPED}
        heads = {spec.name: [f'{label}="' for label in spec.labels] for spec in SCRAPED}
        for short_name, values, value in self._samples():
            name = f"imagegate_{short_name}"
            labels = ",".join([f'{head}{_escaped(text)}"' for head, text in zip(heads[name], values, strict=True)])
            lines[name].append(f"{name}{{{labels}}} {float(value)}\n" if labels else f"{name} {float(value)}\n")
        return "".join(line for family in lines.values() for line in family).encode()

    def _samples(self) -> Iterator[_Sample]:
        yield "build_info", (self.version,), 1
        yield "redis_up", (), self.statuses is not None
        if self.statuses is None:
            return
        yield from _pool(self.statuses)
        if self.count_batches:
            yield from _batches(self.count_batches())
        if self.events:
            yield "event_outbox_length", (), self.events[0]
            yield "event_deliveries_pending", (), self.events[1]
        if self.redis_memory:
            yield "redis_memory_used_bytes", (), self.redis_memory.used_bytes
            yield "redis_memory_max_bytes", (), self.redis_memory.max_bytes


def _batches(found: OpenBatches) -> Iterator[_Sample]:
    for status in BatchStatus:
        if not status.is_final:
            yield "batches_open", (status.value,), found.by_status.get(status.value, 0)
    yield "batch_lines_waiting", (), found.lines_waiting
    yield "batch_expiry_timestamp_seconds", (), found.next_expires_at


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _pool(statuses: Sequence[PoolStatus]) -> Iterator[_Sample]:
    """Renders the worst state of each key, its account and its upstream. A removed key has no state."""
    for status in statuses:
        yield "pool_capacity_remaining", (status.upstream,), status.free
        yield "queue_depth", (status.upstream,), status.waiting
        yield "batch_queue_depth", (status.upstream,), status.waiting_batch
        for state in KeyState:
            yield "upstream_state", (status.upstream, state.value), state is status.state
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
            yield "account_capacity", (account.upstream, account.name, resource, bound), value


def _key(key: KeyStatus, worst: Health) -> Iterator[_Sample]:
    labels = (key.upstream, key.account, key.name)
    for state in KeyState:
        yield "key_state", (*labels, state.value), state is worst.state
    if worst.error_code and worst.until_s:
        yield "key_cooldown_end_timestamp_seconds", (*labels, worst.error_code), worst.until_s
