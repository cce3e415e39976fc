"""Every metric, its labels and its unit. Labels come from closed sets: routes, configured names, faults, tenants."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""Images take seconds to minutes."""
_OVERHEAD_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Built once and handed to whoever counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
        self._registry = registry
        self.requests = Counter(
            "imagegate_requests_total",
            "Requests answered.",
            ["route", "model", "tenant", "status"],
            registry=registry,
        )
        self.images = Counter(
            "imagegate_images_total", "Images delivered.", ["model", "tenant", "upstream"], registry=registry
        )
        self.refusals = Counter(
            "imagegate_refusals_total", "Requests refused, by fault.", ["fault", "tenant"], registry=registry
        )
        self.request_seconds = Histogram(
            "imagegate_request_seconds", "Duration of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.overhead_seconds = Histogram(
            "imagegate_overhead_seconds",
            "Duration of an image request less upstream and queue.",
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "imagegate_upstream_seconds",
            "Duration of an upstream call.",
            ["upstream"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "imagegate_queue_seconds", "Wait for an upstream key.", buckets=_SECONDS, registry=registry
        )
        self.upstream_replies = Counter(
            "imagegate_upstream_replies_total",
            "Upstream calls, by fault; 'none' is a success.",
            ["upstream", "fault"],
            registry=registry,
        )
        self.in_flight = Gauge("imagegate_in_flight", "Upstream calls under way.", ["upstream"], registry=registry)
        self.redis_up = Gauge("imagegate_redis_up", "Whether Redis answers: 1 or 0.", registry=registry)
        self.key_state = Gauge(
            "imagegate_key_state",
            "State of each upstream key: 1 for the state it is in.",
            ["upstream", "account", "key", "state"],
            registry=registry,
        )

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
