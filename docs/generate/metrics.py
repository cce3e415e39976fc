"""The tables of metrics, from gateway/metrics/families.py."""

from docs.generate.pages import code, codes, prose, table
from gateway.metrics import FAMILIES
from gateway.metrics.families import LABELS, Family, Kind

_UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_usd_total": "US dollars", "_up": "1 or 0", "_state": "1 or 0"}


def blocks() -> dict[str, str]:
    rows = (
        (code(f.name), f.kind.type, _labels(f), _unit(f), f"{prose(f.help)} {_source(f)}".strip()) for f in FAMILIES
    )
    bounds = dict.fromkeys(f.buckets for f in FAMILIES if f.buckets)
    return {
        "metrics": table(("metric", "type", "labels", "unit", "what it tells"), rows),
        "labels": table(("label", "its values"), ((code(name), prose(text)) for name, text in LABELS.items())),
        "buckets": table(
            ("buckets, in seconds", "of"),
            ((", ".join(f"{b:g}" for b in own), codes(f.name for f in FAMILIES if f.buckets == own)) for own in bounds),
        ),
        "sources": "\n".join(f"- {_KINDS[kind]}: {kind.meaning}." for kind in Kind),
    }


_KINDS = {
    Kind.COUNTER: "a counter",
    Kind.HISTOGRAM: "a histogram",
    Kind.LIVE: "a gauge",
    Kind.TRUTH: "a gauge marked *truth*",
}


def _labels(family: Family) -> str:
    return codes(family.labels) or "none"


def _source(family: Family) -> str:
    return "*Truth.*" if family.kind is Kind.TRUTH else ""


def _unit(family: Family) -> str:
    return next((unit for suffix, unit in _UNITS.items() if family.name.endswith(suffix)), "number")
