"""A dashboard as one HTML page, in Grafana's layout and colours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from bench.dashboard.panels import Panel, Window
from bench.dashboard.plot import draw_plot, draw_spark
from bench.dashboard.units import write

WIDTH: Final = 1600
_COLUMN: Final = WIDTH / 24
_ROW: Final = 38
"""Grafana's: a cell of 30 pixels and a gap of 8."""
_GAP: Final = 8
_HEAD: Final = 44
_FOOT: Final = 34
PALETTE: Final = (
    *("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a"),
    *("#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477"),
)
_NAMED: Final = {
    "green": "#73bf69",
    "red": "#f2495c",
    "orange": "#ff9830",
    "yellow": "#fade2a",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "gray": "#808790",
}
_STYLE: Final = (Path(__file__).parent / "page.css").read_text("utf-8")


def height_of(panels: Sequence[Panel]) -> int:
    """Returns the height of the page in pixels."""
    rows: int = max(panel.model["gridPos"]["y"] + panel.model["gridPos"]["h"] for panel in panels)
    return _HEAD + rows * _ROW + _FOOT


def write_page(title: str, caption: str, panels: Sequence[Panel], window: Window) -> str:
    body = "".join(_panel(panel, window) for panel in panels)
    foot = f'<footer style="top:{height_of(panels) - _FOOT}px">{escape(caption)}</footer>'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<header>{escape(title)}</header>{body}{foot}</html>"
    )


def _panel(panel: Panel, window: Window) -> str:
    at = panel.model["gridPos"]
    place = (
        f"left:{at['x'] * _COLUMN + _GAP / 2:.0f}px;top:{_HEAD + at['y'] * _ROW}px;"
        f"width:{at['w'] * _COLUMN - _GAP:.0f}px;height:{at['h'] * _ROW - _GAP}px"
    )
    hint = '<i class="hint">i</i>' if panel.model.get("description") else ""
    inside = _INSIDES[panel.model["type"]](panel, window) if not panel.is_empty else '<p class="none">No data</p>'
    return f'<section style="{place}"><h2>{escape(panel.model["title"])}{hint}</h2>{inside}</section>'


def _stat(panel: Panel, window: Window) -> str:
    (series,) = panel.series
    value = series.points[-1][1]
    colour, options = _threshold(panel.defaults, value), panel.model["options"]
    text = _mapped(panel.defaults, value) or write(value, panel.unit)
    spark = draw_spark(series, window, colour) if options["graphMode"] == "area" else ""
    if options["colorMode"] == "background":
        return f'<div class="stat full" style="background:{colour}"><b>{escape(text)}</b></div>'
    return f'<div class="stat"><b style="color:{colour}">{escape(text)}</b>{spark}</div>'


def _lines(panel: Panel, window: Window) -> str:
    colours = _colours(panel)
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{escape(series.name)}</span>'
        for series, colour in zip(panel.series, colours, strict=True)
    )
    return f'{draw_plot(panel, window, colours)}<div class="legend">{legend}</div>'


def _table(panel: Panel, _: Window) -> str:
    shown = list(dict.fromkeys(name for row in panel.rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in shown)
    rows = "".join(f"<tr>{''.join(_cells(row, shown, panel.unit))}</tr>" for row in panel.rows)
    return f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cells(row: Mapping[str, str], shown: Sequence[str], unit: str) -> Iterator[str]:
    for name in shown:
        text = row.get(name, "")
        is_number = name.startswith("Value")
        yield f'<td class="number">{write(float(text), unit)}</td>' if is_number else f"<td>{escape(text)}</td>"


_INSIDES: Final = {"stat": _stat, "timeseries": _lines, "table": _table}


def _colours(panel: Panel) -> list[str]:
    """Returns the panel's colours by name, or the palette in the order of the lines."""
    wanted = [
        (override["matcher"], found["value"]["fixedColor"])
        for override in panel.model["fieldConfig"]["overrides"]
        for found in override["properties"]
        if found["id"] == "color"
    ]
    return [
        next(
            (_NAMED[colour] for matcher, colour in wanted if _is_meant(matcher, series.name)),
            PALETTE[number % len(PALETTE)],
        )
        for number, series in enumerate(panel.series)
    ]


def _is_meant(matcher: Mapping[str, str], name: str) -> bool:
    if matcher["id"] == "byRegexp":
        return bool(re.search(matcher["options"].strip("/"), name))
    return matcher["options"] == name


def _threshold(defaults: Mapping[str, Any], value: float) -> str:
    steps = defaults.get("thresholds", {}).get("steps", [{"color": "green", "value": None}])
    reached = [step for step in steps if step["value"] is None or value >= step["value"]]
    return _NAMED[reached[-1]["color"]]


def _mapped(defaults: Mapping[str, Any], value: float) -> str | None:
    for mapping in defaults.get("mappings", []):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return str(found["text"])
    return None
