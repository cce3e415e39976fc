"""Tables of metrics from gateway/observability/metrics.py and gateway/api/pool_gauges.py."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from docs.generate.pages import code, codes, prose, table
from gateway.api.pool_gauges import SCRAPED
from gateway.observability.metrics import Metrics, MetricSpec

SPECS: Final = (*Metrics().specs, *SCRAPED)
LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "route": 'the template of a route, as "/v1/models/{name}"; "_unknown" for every other path',
        "status": "the HTTP status; of batches: as in OpenAI's batch object",
        "model": "the configured ID, whichever alias the request names; empty if it names none",
        "tenant": 'the name of a tenant; empty if none is known; "_other" beyond `[metrics] max_tenant_series`',
        "upstream": "the configured name",
        "account": "the configured name; empty if the whole upstream is concerned",
        "key": "the configured name; empty if the whole account is concerned",
        "code": 'an error code of the table of errors; "none" for a success',
        "origin": "caller (every HTTP 4xx: a wrong request, or one beyond a limit), gateway, provider",
        "outcome": 'as in the ledger; "corrected": settled by expiry, then by a late response',
        "reason": "retry (an SDK's), idempotency_key, unknown_outcome (an identical request after an unknown outcome)",
        "format": "jpeg, png, webp",
        "channel": "webhook, slack, email; none: the endpoint does not exist any more",
        "result": (
            "converted; delivered as made: unreadable, too_large (more than 33 megapixels), queue_full, timeout "
            "(30 s, or 2 s without memory); of lines: completed, failed; of events: delivered, "
            "failed, given_up (after ten attempts, or 410), dropped (the endpoint is disabled, or has too many)"
        ),
        "state": "a state of the pool: ready, cooling, half_open, quarantined, disabled, draining",
        "resource": "requests (of the last minute), images (of the last minute), concurrency (now)",
        "bound": (
            "of an account: limit (configured), allowed (after the provider's responses lowered it), used; "
            "of connections: process (`[server] max_connections`), address (`max_connections_per_address`), "
            "heads (their bytes)"
        ),
        "source": "gateway; provider or none (base64 alone): the image could not be stored",
        "action": "refused: a new connection; closed: one without a request in flight",
        "version": "of the gateway",
        "operation": "put, get, head, list, delete: a call of the storage",
        "direction": "written, read",
        "access": "read (everything but put), write",
        "le": "the upper bound of a bucket, in seconds",
    }
)
_UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_usd_total": "US dollars", "_up": "1 or 0", "_state": "1 or 0"}


def blocks() -> dict[str, str]:
    rows = ((code(spec.name), spec.type, _labels(spec), _unit(spec), _meaning(spec)) for spec in SPECS)
    bounds = dict.fromkeys(spec.buckets for spec in SPECS if spec.buckets)
    return {
        "metrics": table(("metric", "type", "labels", "unit", "meaning"), rows),
        "labels": table(("label", "values"), ((code(name), prose(text)) for name, text in LABELS.items())),
        "buckets": table(
            ("buckets, in seconds", "of"),
            (
                (", ".join(f"{b:g}" for b in own), codes(spec.name for spec in SPECS if spec.buckets == own))
                for own in bounds
            ),
        ),
    }


def _labels(spec: MetricSpec) -> str:
    return codes(spec.labels) or "none"


def _meaning(spec: MetricSpec) -> str:
    return f"{prose(spec.help)} *Scraped.*" if spec in SCRAPED else prose(spec.help)


def _unit(spec: MetricSpec) -> str:
    return next((unit for suffix, unit in _UNITS.items() if spec.name.endswith(suffix)), "number")
