"""Every metric that processes count. Those read at scrape time are in api/pool_gauges.py.

Invariant: every worker exposes the sum over all workers of its gateway.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from gateway.observability.labels import TENANT, LabeledMetric, SeriesCap, TenantLabelCap
from gateway.observability.multiprocess import WorkersCollector, join

CONNECTIONS: Final = "connections"
"""The key of the connections gauge in the lifespan state, where the server finds it."""
CONNECTIONS_OVER_BOUND: Final = "connections_over_bound"
"""The key of the counter of connections that the server refuses or closes at a bound."""
_TENANTS_MAX: Final = 200
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Images take seconds to minutes."""
_SHORT_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""The gateway itself takes milliseconds."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric, as documents, dashboards and alerts are checked against it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in seconds."""

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.type == "histogram":
            return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
        return (self.name,)


class Metrics:
    """The metrics of one process. Built once and injected."""

    def __init__(self, directory: Path | None = None, max_tenant_series: int = _TENANTS_MAX) -> None:
        """The workers of one gateway share a `directory`; a single process needs none.

        Raises OSError if the directory cannot be used.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.specs: list[MetricSpec] = []
        self._own_registry: CollectorRegistry | None = self.registry
        if directory:
            join(directory)
            self.registry.register(WorkersCollector(directory))
            self._own_registry = None
        self._tenants = TenantLabelCap(max_tenant_series, directory / "tenants" if directory else None)
        dropped = self._counter(
            "imagegate_metric_series_dropped_total",
            'Updates of label sets for which there is no room; they count under "_other".',
        )
        self._series = SeriesCap(dropped, directory)
        self._define_http()
        self._define_billing()
        self._define_upstream()
        self._define_process()

    def _define_http(self) -> None:
        self.requests = self._counters(
            "imagegate_requests_total", "Requests with a response.", "route", "model", TENANT, "status"
        )
        self.request_duration_seconds = self._histograms(
            "imagegate_request_duration_seconds", "Duration of a request.", "route"
        )
        self.requests_in_progress = self._gauge(
            "imagegate_requests_in_progress", "Requests without a complete response."
        )
        self.request_errors = self._counters(
            "imagegate_request_errors_total", "Requests with an error response.", "code", "origin", TENANT
        )
        self.connections = self._gauge(
            "imagegate_connections", "Open connections of clients, including TLS handshakes."
        )
        self.connections_over_bound = self._counters(
            "imagegate_connections_over_bound_total",
            "Connections refused, or closed while they wait for their client, at a bound.",
            *("bound", "action"),
        )

    def _define_billing(self) -> None:
        self.images = self._counters("imagegate_images_total", "Images delivered.", "model", TENANT, "upstream")
        self.spend_usd = self._counters(
            "imagegate_spend_usd_total", "US dollars charged; the ledger is exact.", "model", TENANT
        )
        self.settlements = self._counters("imagegate_settlements_total", "Requests settled, by outcome.", "outcome")
        self.pending_settlements = self._gauge(
            "imagegate_pending_settlements", "Ended requests that are not settled in Redis yet."
        )

    def _define_upstream(self) -> None:
        self.overhead_seconds = self._histogram(
            "imagegate_overhead_seconds",
            "Duration of an image request minus upstream and queue time.",
            buckets=_SHORT_SECONDS,
        )
        self.queue_wait_seconds = self._histogram(
            "imagegate_queue_wait_seconds", "Time in which an image request only waited for an account."
        )
        self.account_wait_seconds = self._histograms(
            "imagegate_account_wait_seconds", "Wait of one call for an account of an upstream.", "upstream"
        )
        self.upstream_call_duration_seconds = self._histograms(
            "imagegate_upstream_call_duration_seconds", "Duration of an upstream call.", "upstream"
        )
        self.upstream_calls = self._counters(
            "imagegate_upstream_calls_total", "Upstream calls, by error code.", "upstream", "code"
        )
        self.upstream_calls_in_flight = self._gauges(
            "imagegate_upstream_calls_in_flight", "Upstream calls in flight.", "upstream"
        )
        self.retries = self._counters(
            "imagegate_retries_total", "Failed calls that were retried at the same upstream.", "upstream", "code"
        )
        self.fallbacks = self._counters(
            "imagegate_fallbacks_total",
            "Calls that failed over to the model's next target.",
            "upstream",
        )
        self.pool_state_changes = self._counters(
            "imagegate_pool_state_changes_total",
            "State changes of an upstream, an account ('account' set) or a key ('key' too), by their new state.",
            *("upstream", "account", "key", "state", "code"),
        )

    def _define_process(self) -> None:
        self.redis_breaker_open = self._gauge(
            "imagegate_redis_breaker_open", "Workers that refuse immediately because Redis did not respond recently."
        )
        self.workers = self._gauge("imagegate_workers", "Worker processes.")
        self.event_loop_lag_seconds = self._histogram(
            "imagegate_event_loop_lag_seconds",
            "Delay of the event loop, sampled every second.",
            buckets=_SHORT_SECONDS,
        )
        self.held_bytes = self._gauge(
            "imagegate_held_bytes",
            "Request bodies, replies and unread responses, of `[server] max_memory_bytes` a worker.",
        )
        self.process_resident_memory_bytes = self._gauge(
            "process_resident_memory_bytes", "Resident memory of all workers."
        )
        self.process_open_fds = self._gauge("process_open_fds", "Open files of all workers, including connections.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.specs.append(MetricSpec(name, "counter", text, labels))
        return Counter(name, text, labels, registry=self._own_registry)

    def _counters(self, name: str, text: str, *labels: str) -> LabeledMetric[Counter]:
        return LabeledMetric(self._counter(name, text, *labels), labels, self._tenants, self._series)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.specs.append(MetricSpec(name, "gauge", text, labels))
        return Gauge(name, text, labels, registry=self._own_registry, multiprocess_mode="livesum")

    def _gauges(self, name: str, text: str, *labels: str) -> LabeledMetric[Gauge]:
        return LabeledMetric(self._gauge(name, text, *labels), labels, self._tenants, self._series)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        self.specs.append(MetricSpec(name, "histogram", text, labels, buckets))
        return Histogram(name, text, labels, registry=self._own_registry, buckets=buckets)

    def _histograms(self, name: str, text: str, *labels: str) -> LabeledMetric[Histogram]:
        return LabeledMetric(self._histogram(name, text, *labels), labels, self._tenants, self._series)
