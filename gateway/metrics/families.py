"""Every metric: its name, its kind, what it tells, its labels. Documents and dashboards are held against this table.

Labels come from closed sets (`LABELS`): nothing that a stranger writes becomes one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Images take seconds to minutes."""
_SHORT_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""What the gateway itself takes."""

TENANT: Final = "tenant"
LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "route": 'the template of a route, as "/v1/models/{name}"; "_unknown" for every other path',
        "status": "the HTTP status",
        "model": "the configured id, whichever alias was asked for; empty where none was",
        TENANT: 'the name of a tenant; empty where none is known; "_other" beyond `[metrics] tenants_max`',
        "upstream": "the configured name",
        "account": "the configured name; empty where the whole upstream is concerned",
        "key": "the configured name; empty where the whole account is concerned",
        "fault": 'a fault of the table of faults; "none" for a success',
        "outcome": 'what a request came to, as in the ledger; "corrected": settled by expiry, then by a late answer',
        "state": "a state of the pool: ready, cooling, half_open, quarantined, disabled, draining",
        "kind": "requests (of the last minute), images (of the last minute), concurrency (now)",
        "what": "limit: the configured one; allowed: what the provider's answers have lowered it to; used",
        "bound": "process (`[server] max_connections`), address (`max_connections_per_address`), heads (their bytes)",
        "action": "refused: a new connection; closed: one without a request in flight",
        "version": "of the gateway",
        "le": "the upper bound of a bucket, in seconds",
    }
)


class Kind(Enum):
    """How a number is come by; the value is Prometheus' type."""

    COUNTER = "counter", "counted since the start, over all processes, those that died too"
    HISTOGRAM = "histogram", "likewise, in buckets"
    LIVE = "gauge", "the sum of the processes that live now"
    TRUTH = "gauge", "read at the scrape, most from Redis: every process and every gateway tells the same"

    def __init__(self, type_name: str, meaning: str) -> None:
        self.type = type_name
        self.meaning = meaning


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in seconds."""

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names under which its samples stand."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
        return (self.name,)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"imagegate_{name}", Kind.COUNTER, text, labels)


def _seconds(name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Family:
    return Family(f"imagegate_{name}", Kind.HISTOGRAM, text, labels, buckets)


def _live(name: str, text: str, *labels: str) -> Family:
    return Family(f"imagegate_{name}", Kind.LIVE, text, labels)


def _truth(name: str, text: str, *labels: str) -> Family:
    return Family(f"imagegate_{name}", Kind.TRUTH, text, labels)


REQUESTS: Final = _counter("requests_total", "Requests answered.", "route", "model", TENANT, "status")
REQUEST_SECONDS: Final = _seconds("request_seconds", "Duration of a request.", "route")
REQUESTS_IN_PROGRESS: Final = _live("requests_in_progress", "Requests that are being answered.")
CONNECTIONS: Final = _live("connections", "Open connections of clients, TLS handshakes included.")
CONNECTIONS_OVER_BOUND: Final = _counter(
    "connections_over_bound_total",
    "Connections refused, or closed while waiting for their client, at a bound.",
    "bound",
    "action",
)
REFUSALS: Final = _counter("refusals_total", "Requests refused, by fault.", "fault", TENANT)
IMAGES: Final = _counter("images_total", "Images delivered.", "model", TENANT, "upstream")
SPEND: Final = _counter("spend_usd_total", "US dollars charged; the ledger is exact.", "model", TENANT)
SETTLEMENTS: Final = _counter("settlements_total", "Requests settled, by what they came to.", "outcome")
UNSETTLED: Final = _live("unsettled_requests", "Requests that have ended and wait for Redis to be settled.")

OVERHEAD_SECONDS: Final = _seconds(
    "overhead_seconds", "Duration of an image request less upstream and queue.", buckets=_SHORT_SECONDS
)
QUEUE_SECONDS: Final = _seconds("queue_seconds", "Time in which an image request did nothing but wait for an account.")
WAIT_SECONDS: Final = _seconds("wait_seconds", "Wait of one call for an account of an upstream.", "upstream")

UPSTREAM_SECONDS: Final = _seconds("upstream_seconds", "Duration of an upstream call.", "upstream")
UPSTREAM_REPLIES: Final = _counter("upstream_replies_total", "Upstream calls, by fault.", "upstream", "fault")
RETRIES: Final = _counter(
    "retries_total", "Calls that failed and were tried again at the same upstream.", "upstream", "fault"
)
SPILLS: Final = _counter(
    "spills_total", "Calls that an upstream could not take and its model's next one was asked.", "upstream"
)
IN_FLIGHT: Final = _live("in_flight", "Upstream calls under way.", "upstream")

POOL_TRANSITIONS: Final = _counter(
    "pool_transitions_total",
    "Changes of state of an upstream, an account ('account' set) or a key ('key' too), by what they came to.",
    *("upstream", "account", "key", "state", "fault"),
)
POOL_CAPACITY: Final = _truth("pool_capacity_remaining", "Requests that could be sent to an upstream now.", "upstream")
QUEUE_DEPTH: Final = _truth("queue_depth", "Requests that wait for an account.", "upstream")
ACCOUNT_CAPACITY: Final = _truth(
    "account_capacity",
    "What an account may be asked for, and what of it is used.",
    *("upstream", "account", "kind", "what"),
)
UPSTREAM_STATE: Final = _truth("upstream_state", "State of each upstream: 1 for the one it is in.", "upstream", "state")
KEY_STATE: Final = _truth(
    "key_state",
    "State of each upstream key, or its account's or upstream's where that is worse: 1 for the one it is in.",
    *("upstream", "account", "key", "state"),
)
KEY_BACK: Final = _truth(
    "key_back_timestamp_seconds",
    "Unix time at which a resting key is tried again, and the fault for which it, its account or its upstream rests.",
    *("upstream", "account", "key", "fault"),
)

REDIS_UP: Final = _truth("redis_up", "Whether Redis answers: 1 or 0.")
REDIS_USED_BYTES: Final = _truth("redis_memory_used_bytes", "Memory that Redis uses; of a cluster, its fullest server.")
REDIS_MAX_BYTES: Final = _truth(
    "redis_memory_max_bytes", "Memory that it may use: its `maxmemory`, or all that its machine has if that is 0."
)
REDIS_BREAKER_OPEN: Final = _live(
    "redis_breaker_open", "Processes that refuse at once, as Redis did not answer lately."
)
INFO: Final = _truth("info", "Always 1; the version that answers.", "version")
PROCESSES: Final = _live("processes", "Processes that serve.")
LOOP_LAG_SECONDS: Final = _seconds(
    "loop_lag_seconds", "How late an event loop comes to what is due, looked at each second.", buckets=_SHORT_SECONDS
)
MEMORY_BYTES: Final = _live("resident_memory_bytes", "Memory of the processes.")
HELD_BYTES: Final = _live(
    "held_bytes", "Request bodies, replies and unread responses, of `[server] max_memory_bytes` a process."
)
OPEN_FILES: Final = _live("open_files", "Open files of the processes, connections included.")
SERIES_REFUSED: Final = _counter(
    "series_refused_total", "Label sets that are not counted, as the metrics have no room for more."
)

FAMILIES: Final = (
    *(REQUESTS, REQUEST_SECONDS, REQUESTS_IN_PROGRESS, CONNECTIONS, CONNECTIONS_OVER_BOUND, REFUSALS),
    *(IMAGES, SPEND, SETTLEMENTS, UNSETTLED),
    *(OVERHEAD_SECONDS, QUEUE_SECONDS, WAIT_SECONDS),
    *(UPSTREAM_SECONDS, UPSTREAM_REPLIES, RETRIES, SPILLS, IN_FLIGHT),
    *(POOL_TRANSITIONS, POOL_CAPACITY, QUEUE_DEPTH, ACCOUNT_CAPACITY, UPSTREAM_STATE, KEY_STATE, KEY_BACK),
    *(
        REDIS_UP,
        REDIS_USED_BYTES,
        REDIS_MAX_BYTES,
        REDIS_BREAKER_OPEN,
        INFO,
        PROCESSES,
        LOOP_LAG_SECONDS,
        MEMORY_BYTES,
        HELD_BYTES,
        OPEN_FILES,
        SERIES_REFUSED,
    ),
)
"""In the order in which they are told."""
