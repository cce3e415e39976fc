"""The result table: one line per scenario, with its goal and whether it is met."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

_WIDTHS: Final = (36, 9, 9, 7, 8, 5)
_HEAD: Final = ("measure", "gateway", "baseline", "ratio", "goal", "holds")


class Of(Enum):
    """The figure to which a goal applies."""

    RATIO = "ratio"
    GATEWAY = "gateway"


class Goal(msgspec.Struct, frozen=True):
    """A bound on the ratio, or on the gateway's own figure."""

    bound: float
    of: Of
    is_least: bool = False
    """The bound is a minimum; else a maximum."""

    def holds(self, figure: float) -> bool:
        return figure >= self.bound if self.is_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {render(self.bound)}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. Without a goal it is only reported."""

    measure: str
    """With its unit."""
    gateway: float
    baseline: float | None = None
    """The baseline."""
    goal: Goal | None = None

    def __post_init__(self) -> None:
        if len(self.measure) > _WIDTHS[0]:
            raise ValueError(f"{self.measure!r} is wider than its column")

    @property
    def ratio(self) -> float | None:
        return self.gateway / self.baseline if self.baseline else None

    @property
    def holds(self) -> bool | None:
        """None without a goal; a ratio without a baseline does not hold."""
        if self.goal is None:
            return None
        figure = self.ratio if self.goal.of is Of.RATIO else self.gateway
        return figure is not None and self.goal.holds(figure)

    def cells(self) -> tuple[str, ...]:
        decision = {None: "", True: "yes", False: "NO"}[self.holds]
        figures = ("" if figure is None else render(figure) for figure in (self.gateway, self.baseline, self.ratio))
        return (self.measure, *figures, "" if self.goal is None else str(self.goal), decision)


def at_most(bound: float, of: Of = Of.GATEWAY) -> Goal:
    return Goal(bound, of)


def at_least(bound: float, of: Of = Of.GATEWAY) -> Goal:
    return Goal(bound, of, is_least=True)


def render(figure: float) -> str:
    """Renders three significant digits, and all of an integer."""
    if figure == round(figure) or abs(figure) >= 100:
        return f"{round(figure)}"
    return f"{figure:.{2 if abs(figure) >= 1 else 3}f}" if abs(figure) < 10 else f"{figure:.1f}"


def render_table(rows: Sequence[Row]) -> str:
    """Renders at most 80 columns."""
    return "\n".join(_line(cells) for cells in (_HEAD, tuple("-" * width for width in _WIDTHS), *map(Row.cells, rows)))


def _line(cells: Sequence[str]) -> str:
    first, *others = (
        f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return " ".join((first, *others))
