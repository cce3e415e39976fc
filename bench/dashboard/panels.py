"""Queries and results of a Grafana dashboard, for the parts of Grafana's model that this dashboard uses."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.deploy.prometheus import Prometheus

_LEGEND_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Window:
    """The time range: Unix seconds, and the step."""

    start: float
    end: float
    step_s: float
    rate_s: float
    """The value of Grafana's `$__rate_interval`."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its legend name, and its values by time."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel with its data: lines, or table rows."""

    model: Mapping[str, Any]
    series: Sequence[Series]
    rows: Sequence[Mapping[str, str]]

    @property
    def defaults(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.model["fieldConfig"]["defaults"]
        return found

    @property
    def unit(self) -> str:
        return str(self.defaults.get("unit", "short"))

    @property
    def is_stacked(self) -> bool:
        mode: str = self.defaults.get("custom", {}).get("stacking", {}).get("mode", "none")
        return mode == "normal"

    @property
    def is_empty(self) -> bool:
        return not self.series and not self.rows


def fill(query: str, window: Window, chosen: Mapping[str, str]) -> str:
    """Replaces Grafana's variables in a query."""
    filled = query.replace("$__rate_interval", f"{window.rate_s:.0f}s")
    filled = filled.replace("$__range", f"{window.end - window.start:.0f}s")
    for name, pattern in chosen.items():
        filled = filled.replace(f"${name}", pattern)
    return filled


def choose_all(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """Returns the query text of "All" for each variable that offers it."""
    variables = dashboard["templating"]["list"]
    return {variable["name"]: variable["allValue"] for variable in variables if variable.get("includeAll")}


def read_panels(dashboard: Mapping[str, Any], source: Prometheus, window: Window) -> list[Panel]:
    chosen = choose_all(dashboard)
    return [_read_panel(model, source, window, chosen) for model in dashboard["panels"]]


def _read_panel(model: Mapping[str, Any], source: Prometheus, window: Window, chosen: Mapping[str, str]) -> Panel:
    queries = [(fill(target["expr"], window, chosen), target) for target in model["targets"]]
    if model["type"] == "table":
        found = [row for query, _ in queries for row in source.query(query, window.end)]
        return Panel(model, [], _arrange([row["metric"] | {"Value": row["value"][1]} for row in found], model))
    return Panel(model, [line for query, target in queries for line in _lines(query, target, source, window)], [])


def _lines(query: str, target: Mapping[str, Any], source: Prometheus, window: Window) -> list[Series]:
    found = source.query_range(query, window.start, window.end, window.step_s)
    lines = [
        Series(
            _name(target["legendFormat"], row["metric"]),
            [(at, value) for at, text in row["values"] if math.isfinite(value := float(text))],
        )
        for row in found
    ]
    return sorted((line for line in lines if line.points), key=lambda line: line.name)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return _LEGEND_FIELD.sub(lambda field: labels.get(field[1], ""), legend)


def _arrange(rows: list[dict[str, str]], model: Mapping[str, Any]) -> list[dict[str, str]]:
    """Applies the panel's transformations."""
    hidden: set[str] = set()
    for transformation in model.get("transformations", []):
        options = transformation["options"]
        if transformation["id"] == "organize":
            hidden |= {name for name, is_hidden in options["excludeByName"].items() if is_hidden}
        elif transformation["id"] == "sortBy":
            (order,) = options["sort"]
            rows = sorted(rows, key=lambda row: float(row[order["field"]]), reverse=order.get("desc", False))
    return [{name: text for name, text in row.items() if name not in hidden} for row in rows]
