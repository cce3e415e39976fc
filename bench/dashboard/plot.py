"""Line charts. The drawing stretches with its panel: positions are percentages, and texts are HTML beside it."""

import math
import time
from collections.abc import Sequence
from typing import Final

from bench.dashboard.panels import Panel, Series, Window
from bench.dashboard.units import marks, write

_GAP_STEPS: Final = 2.5
"""A line breaks if a series is missing for longer."""
_TICKS: Final = 6
_ROUND_S: Final = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600)

Points = Sequence[tuple[float, float]]


def draw_plot(panel: Panel, window: Window, colours: Sequence[str]) -> str:
    """Draws the plot with its axes."""
    custom = panel.defaults.get("custom", {})
    layers = _stack(panel.series) if panel.is_stacked else [(series.points, None) for series in panel.series]
    highest = max((value for points, _ in layers for _, value in points), default=0.0)
    levels = marks(min(highest * 1.05, panel.defaults["max"]) if "max" in panel.defaults else highest * 1.05)
    top = levels[-1]
    opacity, width = custom.get("fillOpacity", 0) / 100, custom.get("lineWidth", 1)
    drawn = "".join(
        _area(points, floor, window, top, colour, opacity) + _line(points, window, top, colour, width)
        for (points, floor), colour in zip(layers, colours, strict=True)
    )
    return (
        f'<div class="plot">{_levels(levels, top, panel.unit)}{_times(window)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{drawn}</svg></div>'
    )


def draw_spark(series: Series, window: Window, colour: str) -> str:
    """Draws the small line under a number."""
    top = max(value for _, value in series.points) * 1.1 or 1.0
    drawn = _area(series.points, None, window, top, colour, 0.2) + _line(series.points, window, top, colour, 1)
    return f'<svg class="spark" viewBox="0 0 100 100" preserveAspectRatio="none">{drawn}</svg>'


def _stack(lines: Sequence[Series]) -> list[tuple[Points, Points]]:
    """Stacks each line on those before it, with its base; a missing line lowers the next."""
    floor: dict[float, float] = {}
    layers: list[tuple[Points, Points]] = []
    for series in lines:
        below = [(at, floor.get(at, 0.0)) for at, _ in series.points]
        floor |= {at: floor.get(at, 0.0) + value for at, value in series.points}
        layers.append(([(at, floor[at]) for at, _ in series.points], below))
    return layers


def _line(points: Points, window: Window, top: float, colour: str, width: float) -> str:
    path = "".join(_path(part, window, top, "M") for part in _parts(points, window))
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" vector-effect="non-scaling-stroke"/>'


def _area(points: Points, floor: Points | None, window: Window, top: float, colour: str, opacity: float) -> str:
    """Fills the area between a line and its base."""
    below = dict(floor or [])
    path = ""
    for part in _parts(points, window):
        back = [(at, below.get(at, 0.0)) for at, _ in reversed(part)]
        path += _path(part, window, top, "M") + _path(back, window, top, "L") + "Z"
    return f'<path d="{path}" fill="{colour}" fill-opacity="{opacity}"/>' if opacity else ""


def _path(points: Points, window: Window, top: float, first: str) -> str:
    span = window.end - window.start
    places = [f"{(at - window.start) / span * 100:.2f},{100 - value / top * 100:.2f}" for at, value in points]
    return first + "L".join(places)


def _parts(points: Points, window: Window) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = []
    for point in points:
        if not parts or point[0] - parts[-1][-1][0] > window.step_s * _GAP_STEPS:
            parts.append([])
        parts[-1].append(point)
    return parts


def _levels(levels: Sequence[float], top: float, unit: str) -> str:
    heights = [f"bottom:{level / top * 100:.2f}%" for level in levels]
    return "".join(
        f'<u style="{height}"></u><s style="{height}">{write(level, unit)}</s>'
        for height, level in zip(heights, levels, strict=True)
    )


def _times(window: Window) -> str:
    """Labels round times."""
    span = window.end - window.start
    step = next((size for size in _ROUND_S if span / size <= _TICKS), _ROUND_S[-1])
    moments = range(math.ceil(window.start / step) * step, math.floor(window.end) + 1, step)
    shown = "%H:%M" if step >= 60 else "%H:%M:%S"
    return "".join(
        f'<em style="left:{(at - window.start) / span * 100:.2f}%"></em>'
        f'<q style="left:{(at - window.start) / span * 100:.2f}%">{time.strftime(shown, time.gmtime(at))}</q>'
        for at in moments
    )
