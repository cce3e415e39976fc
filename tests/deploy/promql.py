"""What is wrong with a query of Prometheus, held against the table of metrics."""

import re
from collections.abc import Iterator, Mapping

import promql_parser
from promql_parser import AggregateExpr, Expr, Matcher, MatchOp, VectorSelector

from docs.generate.metrics import SPECS
from gateway.api.pool_gauges import SCRAPED
from gateway.domain.billing import RequestOutcome
from gateway.domain.errors import ErrorCode, KeyState, Origin

OF_PROMETHEUS = {"job", "instance", "namespace", "cluster"}
"""Labels that every series gets when it is scraped."""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
LABELS_OF: Mapping[str, set[str]] = {
    f"{spec.name}{suffix}": {*spec.labels, *(["le"] if suffix == "_bucket" else [])}
    for spec in SPECS
    for suffix in SUFFIXES.get(spec.type, ("",))
} | {"up": set()}
SCRAPED_NAMES = {spec.name for spec in SCRAPED}
VALUES_OF: Mapping[str, set[str]] = {
    "code": {error_code.value for error_code in ErrorCode} | {"none"},
    "state": {state.value for state in KeyState},
    "outcome": {settlement.value for settlement in RequestOutcome} | {"corrected"},
    "origin": {origin.value for origin in Origin},
    "bound": {"limit", "allowed", "used", "process", "address", "heads"},
    "reason": {"retry", "idempotency_key", "unknown_outcome"},
    "resource": {"requests", "images", "concurrency"},
    "source": {"gateway", "provider", "none"},
    "format": {"jpeg", "png", "webp"},
    "result": {"converted", "unreadable", "too_large", "queue_full", "timeout"}
    | {"completed", "failed", "delivered", "given_up"},
}
_WORDS = re.compile(r"[a-z0-9_]+(\|[a-z0-9_]+)*")


def problems_of(query: str, recorded: Mapping[str, set[str]]) -> list[str]:
    """Unknown metrics, labels and values, and scraped gauges that are added up. `recorded` are the labels of rules."""
    try:
        tree = promql_parser.parse(query)
    except ValueError as error:
        return [f"{query}: {error}"]
    known = {**LABELS_OF, **recorded}
    return [f"{query}: {problem}" for problem in _problems(tree, known)]


def labels_of(query: str) -> set[str]:
    """What an aggregation keeps."""
    kept = [node.modifier for node in nodes_of(promql_parser.parse(query)) if isinstance(node, AggregateExpr)]
    return {label for modifier in kept if modifier for label in modifier.labels}


def selectors_of(tree: Expr) -> list[VectorSelector]:
    return [node for node in nodes_of(tree) if isinstance(node, VectorSelector)]


def nodes_of(tree: Expr) -> list[Expr]:
    found: list[Expr] = []
    promql_parser.walk(tree, found.append)
    return found


def _problems(tree: Expr, known: Mapping[str, set[str]]) -> Iterator[str]:
    unknown = [str(selector.name) for selector in selectors_of(tree) if selector.name not in known]
    if unknown:
        yield f"there is no metric {unknown}"
        return
    for node in nodes_of(tree):
        if isinstance(node, VectorSelector):
            for matcher in node.matchers.matchers:
                yield from _matcher_problems(str(node.name), matcher, known[str(node.name)])
        if isinstance(node, AggregateExpr):
            yield from _aggregate_problems(node, known)


def _matcher_problems(name: str, matcher: Matcher, labels: set[str]) -> Iterator[str]:
    if matcher.name not in labels | OF_PROMETHEUS:
        yield f"{name} has no label {matcher.name}"
    is_pattern = matcher.op in (MatchOp.Re, MatchOp.NotRe)  # which cannot be hashed
    if matcher.name not in VALUES_OF or (is_pattern and not _WORDS.fullmatch(matcher.value)):
        return
    values = set(matcher.value.split("|")) if is_pattern else {matcher.value}
    for value in sorted(values - VALUES_OF[matcher.name]):
        yield f"{matcher.name} is never {value}"


def _aggregate_problems(node: AggregateExpr, known: Mapping[str, set[str]]) -> Iterator[str]:
    """Every gateway reports the same scraped gauges: adding them up counts the gateways."""
    if str(node.op) == "sum" and isinstance(node.expr, VectorSelector) and node.expr.name in SCRAPED_NAMES:
        yield f"{node.expr.name} is the same at every gateway, and added up"
    grouped = set(node.modifier.labels) if node.modifier else set[str]()
    there = {label for selector in selectors_of(node.expr) for label in known[str(selector.name)]}
    for label in sorted(grouped - there - OF_PROMETHEUS):
        yield f"grouped by {label}, which is no label here"
