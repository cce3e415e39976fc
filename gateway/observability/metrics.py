"""Every metric that processes count, and caps on their label sets. Those read at scrape time are in api/pool_gauges.py.

Invariant: every worker exposes the sum over all workers of its gateway.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from gateway.observability.multiprocess import WorkersCollector, has_capacity, join

CONNECTIONS: Final = "connections"
"""The key of the connections gauge in the lifespan state, where the server finds it."""
CONNECTIONS_OVER_BOUND: Final = "connections_over_bound"
"""The key of the counter of connections that the server refuses or closes at a bound."""
TENANT: Final = "tenant"
OTHER: Final = "_other"
"""The label value of everything beyond a cap. No tenant can have this name."""
_TENANTS_MAX: Final = 200
_SERIES_MAX: Final = 20_000
"""Label sets of one process: twice what 1,000 tenants need. prometheus_client renders them in 0.4 s."""
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Images take seconds to minutes."""
_SHORT_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""The gateway itself takes milliseconds."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric, as documents, dashboards and alerts are checked against it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in seconds."""


class TenantLabelCap:
    """Gives the first `limit` tenants a label value of their own. Workers agree on them by the order in a file."""

    def __init__(self, limit: int, file: Path | None = None) -> None:
        self._limit = limit
        self._file = file
        self._names: set[str] = set()

    def label(self, tenant: str) -> str:
        """Returns the tenant's name or `_other`. Reads and writes the file when this process first sees a tenant."""
        if not tenant or tenant in self._names:
            return tenant
        if len(self._names) < self._limit:
            with suppress(OSError):
                self._add(tenant)
        return tenant if tenant in self._names else OTHER

    def _add(self, tenant: str) -> None:
        if self._file is None:
            self._names.add(tenant)
            return
        with self._file.open("a") as file:
            self._names = self._read(self._file)
            if tenant not in self._names and len(self._names) < self._limit:
                file.write(f"{tenant}\n")
                file.flush()
                self._names = self._read(self._file)

    def _read(self, file: Path) -> set[str]:
        """If two workers append at once, both lines exist and the upper one wins."""
        return set(list(dict.fromkeys(file.read_text().split("\n")[:-1]))[: self._limit])


@dataclass(slots=True)
class SeriesCap:
    """Bounds the label sets of one process, and leaves room on the disk that the workers share."""

    dropped: Counter
    directory: Path | None
    used: int = 0

    def take(self) -> bool:
        """Returns whether one more label set may be created. Counts each refusal."""
        if self.used >= _SERIES_MAX or (self.directory and not has_capacity(self.directory)):
            self.dropped.inc()
            return False
        self.used += 1
        return True


class LabeledMetric(Generic[Metric]):
    """A metric with labels. Finds a child without the lock that prometheus_client takes."""

    def __init__(self, metric: Metric, labels: tuple[str, ...], tenants: TenantLabelCap, series: SeriesCap) -> None:
        self._metric: Metric = metric
        self._labels = labels
        self._tenants = tenants
        self._series = series
        self._children: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """Returns the child with these values, in the order of the metric's labels."""
        return self._children.get(values) or self._find(values)

    def _find(self, values: tuple[str, ...]) -> Metric:
        """Label sets beyond a cap are not remembered; they share one child."""
        values = tuple(
            self._tenants.label(value) if label == TENANT else value
            for label, value in zip(self._labels, values, strict=True)
        )
        child = self._children.get(values)
        if child is None:
            if not self._series.take():
                return self._metric.labels(*[OTHER] * len(values))
            child = self._children[values] = self._metric.labels(*values)
        return child


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
            "metric_series_dropped_total",
            'Updates of label sets for which there is no room; they count under "_other".',
        )
        self._series = SeriesCap(dropped, directory)
        self._define_requests()
        self._define_batches()
        self._define_events()
        self._define_upstream()
        self._define_storage()
        self._define_process()

    def _define_requests(self) -> None:
        self.requests = self._counters(
            "requests_total", "Requests with a response.", "route", "model", TENANT, "status"
        )
        self.request_duration_seconds = self._histograms("request_duration_seconds", "Duration of a request.", "route")
        self.requests_in_progress = self._gauge("requests_in_progress", "Requests without a complete response.")
        self.request_errors = self._counters(
            "request_errors_total", "Requests with an error response.", "code", "origin", TENANT
        )
        self.replays = self._counters(
            "replays_total",
            "Requests that got the outcome of an order which they repeat, and bought nothing.",
            "reason",
        )
        self.connections = self._gauge("connections", "Open connections of clients, including TLS handshakes.")
        self.connections_over_bound = self._counters(
            "connections_over_bound_total",
            "Connections refused, or closed while they wait for their client, at a bound.",
            *("bound", "action"),
        )
        self.images = self._counters("images_total", "Images delivered.", "model", TENANT, "upstream")
        self.conversions = self._counters(
            "conversions_total",
            "Images converted to another file format, or left as they were.",
            *("format", "result"),
        )
        self.links = self._counters(
            "links_total",
            "Images whose link should be the gateway's, by the link that they have: gateway, provider or none.",
            "source",
        )
        self.spend_usd = self._counters("spend_usd_total", "US dollars charged; the ledger is exact.", "model", TENANT)
        self.settlements = self._counters("settlements_total", "Requests settled, by outcome.", "outcome")
        self.pending_settlements = self._gauge(
            "pending_settlements", "Ended requests that are not settled in Redis yet."
        )

    def _define_batches(self) -> None:
        self.batch_lines = self._counters("batch_lines_total", "Lines of batches that ended.", "result")
        self.batches_ended = self._counters("batches_ended_total", "Batches that ended.", "status")
        for counter, values in (
            (self.batch_lines, ("completed", "failed")),
            (self.batches_ended, ("completed", "failed", "expired", "cancelled")),
        ):
            for value in values:
                counter.labels(value)  # rare: a rate needs the 0 before the first

    def _define_events(self) -> None:
        self.events = self._counters("events_total", "Events that happened.", "type", TENANT, "percent")
        self.events.labels("quota.threshold_crossed", "", "")
        self.event_deliveries = self._counters(
            "event_deliveries_total", "Attempts to deliver an event, by result.", "channel", "result"
        )
        for labels in product(("webhook", "slack", "email"), ("delivered", "failed", "given_up", "dropped")):
            self.event_deliveries.labels(*labels)  # rare: a rate needs the 0 before the first

    def _define_upstream(self) -> None:
        self.overhead_seconds = self._histogram(
            "overhead_seconds", "Duration of an image request minus upstream and queue time.", buckets=_SHORT_SECONDS
        )
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds", "Time in which an image request only waited for an account."
        )
        self.account_wait_seconds = self._histograms(
            "account_wait_seconds", "Wait of one call for an account of an upstream.", "upstream"
        )
        self.upstream_call_duration_seconds = self._histograms(
            "upstream_call_duration_seconds", "Duration of an upstream call.", "upstream"
        )
        self.upstream_calls = self._counters(
            "upstream_calls_total", "Upstream calls, by error code.", "upstream", "code"
        )
        in_flight = self._gauge("upstream_calls_in_flight", "Upstream calls in flight.", "upstream")
        self.upstream_calls_in_flight = LabeledMetric(in_flight, ("upstream",), self._tenants, self._series)
        self.retries = self._counters(
            "retries_total", "Failed calls that were retried at the same upstream.", "upstream", "code"
        )
        self.fallbacks = self._counters(
            "fallbacks_total", "Calls that failed over to the model's next target.", "upstream"
        )
        self.pool_state_changes = self._counters(
            "pool_state_changes_total",
            "State changes of an upstream, an account ('account' set) or a key ('key' too), by their new state.",
            *("upstream", "account", "key", "state", "code"),
        )

    def _define_storage(self) -> None:
        self.storage_operations = self._counters(
            "storage_operations_total",
            "Calls of the storage: ok, not_found, timeout, failed, cancelled, or refused by the circuit breaker.",
            *("operation", "result"),
        )
        self.storage_operation_seconds = self._histograms(
            "storage_operation_seconds", "Duration of a storage call, downloads without their content.", "operation"
        )
        self.storage_bytes = self._counters(
            "storage_bytes_total", "Bytes written to and read from storage.", "direction"
        )
        self.stored_pictures = self._counters(
            "stored_pictures_total",
            "Pictures that were to be stored: stored, unreadable, cancelled, or the error code.",
            "result",
        )
        self.storage_breaker_open = self._gauge(
            "storage_breaker_open", "Workers that do not use the storage because it failed recently.", "access"
        )

    def _define_process(self) -> None:
        self.redis_breaker_open = self._gauge(
            "redis_breaker_open", "Workers that refuse immediately because Redis did not respond recently."
        )
        self.workers = self._gauge("workers", "Worker processes.")
        self.config_reload_refused = self._gauge(
            "config_reload_refused", "Processes whose latest change of the configuration was refused."
        )
        self.log_lines_dropped = self._gauge(
            "log_lines_dropped", "Log lines dropped since the process started, because standard error was blocked."
        )
        self.refusals_dropped = self._counter(
            "refusals_dropped_total", "Refused requests that the list of refusals lacks, because there were too many."
        )
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "Delay of the event loop, sampled every second.", buckets=_SHORT_SECONDS
        )
        self.held_bytes = self._gauge(
            "held_bytes", "Request bodies, replies and unread responses, of `[server] max_memory_bytes` a worker."
        )
        self.process_resident_memory_bytes = self._gauge(
            "resident_memory_bytes", "Resident memory of all workers.", prefix="process"
        )
        self.process_open_fds = self._gauge(
            "open_fds", "Open files of all workers, including connections.", prefix="process"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.specs.append(MetricSpec(f"imagegate_{name}", "counter", text, labels))
        return Counter(f"imagegate_{name}", text, labels, registry=self._own_registry)

    def _gauge(self, name: str, text: str, *labels: str, prefix: str = "imagegate") -> Gauge:
        self.specs.append(MetricSpec(f"{prefix}_{name}", "gauge", text, labels))
        return Gauge(f"{prefix}_{name}", text, labels, registry=self._own_registry, multiprocess_mode="livesum")

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        self.specs.append(MetricSpec(f"imagegate_{name}", "histogram", text, labels, buckets))
        return Histogram(f"imagegate_{name}", text, labels, registry=self._own_registry, buckets=buckets)

    def _counters(self, name: str, text: str, *labels: str) -> LabeledMetric[Counter]:
        return LabeledMetric(self._counter(name, text, *labels), labels, self._tenants, self._series)

    def _histograms(self, name: str, text: str, *labels: str) -> LabeledMetric[Histogram]:
        return LabeledMetric(self._histogram(name, text, *labels), labels, self._tenants, self._series)
