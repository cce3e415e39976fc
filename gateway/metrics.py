"""Every metric, its labels and its unit. Labels come from closed sets: routes, configured names, faults, tenants."""

from functools import partial
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
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        overhead = partial(Histogram, buckets=_OVERHEAD_SECONDS, registry=registry)

        by_answer = ["route", "model", "tenant", "status"]
        self.requests = counter("imagegate_requests_total", "Requests answered.", by_answer)
        by_origin = ["model", "tenant", "upstream"]
        self.images = counter("imagegate_images_total", "Images delivered.", by_origin)
        self.spend_usd = counter(
            "imagegate_spend_usd_total", "US dollars charged; the ledger is exact.", ["model", "tenant"]
        )
        self.settlements = counter(
            "imagegate_settlements_total",
            "Requests settled, by what they came to; 'corrected': settled by expiry, and then by a late answer.",
            ["outcome"],
        )
        self.refusals = counter("imagegate_refusals_total", "Requests refused, by fault.", ["fault", "tenant"])
        self.request_seconds = seconds("imagegate_request_seconds", "Duration of a request.", ["route"])
        self.overhead_seconds = overhead(
            "imagegate_overhead_seconds", "Duration of an image request less upstream and queue."
        )
        self.upstream_seconds = seconds("imagegate_upstream_seconds", "Duration of an upstream call.", ["upstream"])
        self.queue_seconds = seconds("imagegate_queue_seconds", "Wait for an upstream key.")
        self.upstream_replies = counter(
            "imagegate_upstream_replies_total", "Upstream calls, by fault; 'none' is a success.", ["upstream", "fault"]
        )
        self.in_flight = gauge("imagegate_in_flight", "Upstream calls under way.", ["upstream"])
        self.redis_up = gauge("imagegate_redis_up", "Whether Redis answers: 1 or 0.")
        self.redis_breaker_open = gauge(
            "imagegate_redis_breaker_open", "Whether this process refuses at once, as Redis did not answer: 1 or 0."
        )
        by_state = ["upstream", "account", "key", "state"]
        self.pool_transitions = counter(
            "imagegate_pool_transitions_total",
            "Changes of state of an upstream, an account ('account' set) or a key ('key' too), by what they came to.",
            ["upstream", "account", "key", "state", "fault"],
        )
        by_upstream = ["upstream"]
        self.pool_capacity = gauge(
            "imagegate_pool_capacity_remaining", "Requests that could be sent to an upstream now.", by_upstream
        )
        self.queue_depth = gauge("imagegate_queue_depth", "Requests that wait for an account.", by_upstream)
        self.key_state = gauge("imagegate_key_state", "State of each upstream key: 1 for the state it is in.", by_state)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
