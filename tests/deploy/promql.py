"""What is wrong with a query of Prometheus, held against the table of metrics."""

import re
from collections.abc import Iterator, Mapping

import promql_parser
from promql_parser import AggregateExpr, Expr, Matcher, MatchOp, VectorSelector

from gateway.domain.billing import Settlement
from gateway.domain.faults import Fault, State
from gateway.metrics.families import FAMILIES, Kind

OF_PROMETHEUS = {"job", "instance"}
"""Labels that every series gets when it is scraped."""
LABELS_OF: Mapping[str, set[str]] = {
    name: {*family.labels, *(["le"] if name.endswith("_bucket") else [])}
    for family in FAMILIES
    for name in family.exposed
} | {"up": set()}
TRUTHS = {name for family in FAMILIES if family.kind is Kind.TRUTH for name in family.exposed}
VALUES_OF: Mapping[str, set[str]] = {
    "fault": {fault.value for fault in Fault} | {"none"},
    "state": {state.value for state in State},
    "outcome": {settlement.value for settlement in Settlement} | {"corrected"},
    "what": {"limit", "allowed", "used"},
    "kind": {"requests", "images", "concurrency"},
}
_WORDS = re.compile(r"[a-z0-9_]+(\|[a-z0-9_]+)*")


def problems_of(query: str, recorded: set[str]) -> list[str]:
    """Metrics, labels and values that are not there, and truths that are added up; `recorded` are the rules' own."""
    try:
        tree = promql_parser.parse(query)
    except ValueError as error:
        return [f"{query}: {error}"]
    known = {**LABELS_OF, **{name: set() for name in recorded}}
    return [f"{query}: {problem}" for problem in _problems(tree, known)]


def selectors_of(tree: Expr) -> list[VectorSelector]:
    return [node for node in _nodes(tree) if isinstance(node, VectorSelector)]


def _nodes(tree: Expr) -> list[Expr]:
    found: list[Expr] = []
    promql_parser.walk(tree, found.append)
    return found


def _problems(tree: Expr, known: Mapping[str, set[str]]) -> Iterator[str]:
    unknown = [str(selector.name) for selector in selectors_of(tree) if selector.name not in known]
    if unknown:
        yield f"there is no metric {unknown}"
        return
    for node in _nodes(tree):
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
    """Every process tells the same truth: to add them up is to count the processes."""
    if str(node.op) == "sum" and isinstance(node.expr, VectorSelector) and node.expr.name in TRUTHS:
        yield f"{node.expr.name} is told by every process, and added up"
    grouped = set(node.modifier.labels) if node.modifier else set[str]()
    there = {label for selector in selectors_of(node.expr) for label in known[str(selector.name)]}
    for label in sorted(grouped - there - OF_PROMETHEUS):
        yield f"grouped by {label}, which is no label here"
