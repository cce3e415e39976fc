"""Size rules: the sizes that a model makes, as data, and the plan of the size of a job."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Final

from gateway.domain.images import Size, SizePlan

_STEPS: Final = (0, -1, 1, -2, 2)
"""Steps around a rounded side, among which a size within the area and the ratio is found."""


class SizePolicy(Enum):
    """The treatment of an unsupported size: use the closest one, or refuse."""

    NEAREST = "nearest"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class AspectRatios:
    """Sizes that are requested by aspect ratio."""

    sizes: Mapping[str, Size]

    def __str__(self) -> str:
        return ", ".join(map(str, self.sizes.values()))

    def exact(self, size: Size) -> SizePlan | None:
        return next((SizePlan(made, ratio) for ratio, made in self.sizes.items() if made == size), None)

    def nearest(self, size: Size) -> SizePlan:
        ratio = min(sorted(self.sizes), key=lambda ratio: abs(self.sizes[ratio].log_ratio - size.log_ratio))
        return SizePlan(self.sizes[ratio], ratio)


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """Any width and height between two bounds, in multiples of a step; pixels. Area and ratio may be bounded, too."""

    side_min: int
    side_max: int
    step: int
    area_min: int = 0  # pixels
    area_max: int | None = None
    ratio_max: float | None = None  # of the longer side to the shorter one

    def __str__(self) -> str:
        text = f"any with sides from {self.side_min} to {self.side_max} in steps of {self.step}"
        if self.ratio_max:
            text += f", at most {self.ratio_max:g} to 1"
        if self.area_min or self.area_max:
            text += f", of {self.area_min}" + (f" to {self.area_max}" if self.area_max else " or more") + " pixels"
        return text

    def exact(self, size: Size) -> SizePlan | None:
        is_inside = all(self.side_min <= side <= self.side_max and side % self.step == 0 for side in size)
        return SizePlan(size, pixels=size) if is_inside and self._has_shape(size) else None

    def _has_shape(self, size: Size) -> bool:
        area = size.width * size.height
        is_slim = self.ratio_max is not None and max(size) > self.ratio_max * min(size)
        return self.area_min <= area and (self.area_max is None or area <= self.area_max) and not is_slim

    def nearest(self, size: Size) -> SizePlan:
        """Scales the size into the bounds; a ratio beyond them is clipped."""
        width, height = self._scale(size)
        made = Size(self._fit(width), self._fit(height))
        if not self._has_shape(made):
            made = self._round(width, height, made)
        return SizePlan(made, pixels=made)

    def _scale(self, size: Size) -> tuple[float, float]:
        """Returns width and height with the ratio and area of the bounds, before they are rounded."""
        width, height = float(size.width), float(size.height)
        if self.ratio_max and (slim := max(size) / min(size) / self.ratio_max) > 1:
            width, height = (width / slim, height) if width > height else (width, height / slim)
        area, shortest, longest = width * height, min(width, height), max(width, height)
        scale = max(1.0, self.side_min / shortest, math.sqrt(self.area_min / area))
        scale = min(scale, self.side_max / longest, math.sqrt(self.area_max / area) if self.area_max else scale)
        return width * scale, height * scale

    def _round(self, width: float, height: float, rounded: Size) -> Size:
        """Returns the size of the right shape with sides closest to these: rounding may have left the bounds."""
        around = [[self._fit(side + step * self.step) for step in _STEPS] for side in (width, height)]
        sizes = [size for sides in product(*around) if self._has_shape(size := Size(*sides))]
        return min(sizes, key=lambda size: abs(size.width - width) + abs(size.height - height), default=rounded)

    def _fit(self, side: float) -> int:
        lowest, highest = math.ceil(self.side_min / self.step), self.side_max // self.step
        return max(lowest, min(highest, round(side / self.step))) * self.step


@dataclass(frozen=True, slots=True)
class SizeList:
    """A closed set of sizes, requested by size."""

    sizes: tuple[Size, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.sizes))

    def exact(self, size: Size) -> SizePlan | None:
        return SizePlan(size, pixels=size) if size in self.sizes else None

    def nearest(self, size: Size) -> SizePlan:
        """Returns the size with the closest ratio; among equal ratios, the closest area."""

        def distance(other: Size) -> tuple[float, int]:
            return abs(other.log_ratio - size.log_ratio), abs(other.width * other.height - size.width * size.height)

        made = min(self.sizes, key=distance)
        return SizePlan(made, pixels=made)


@dataclass(frozen=True, slots=True)
class FixedSize:
    """The only size of a model, which is not sent upstream."""

    size: Size

    def __str__(self) -> str:
        return str(self.size)

    def exact(self, size: Size) -> SizePlan | None:
        return self.nearest(size) if size == self.size else None

    def nearest(self, size: Size) -> SizePlan:  # noqa: ARG002 - part of the rule protocol
        return SizePlan(self.size)


SizeRule = AspectRatios | SizeBounds | SizeList | FixedSize


def plan_size(size: Size, rules: tuple[SizeRule, ...], policy: SizePolicy) -> SizePlan | None:
    """Applies the first rule that supports the size exactly, else the nearest size.

    A rule of exact pixels keeps the shape, so the nearest size is its own, if there is such a rule.
    `STRICT` accepts another size only at the same ratio, and only if the model does not support exact pixels.
    """
    if (exact := exact_size(size, rules)) or not rules:
        return exact
    of_pixels = next((rule for rule in rules if isinstance(rule, SizeBounds | SizeList)), None)
    nearest = (of_pixels or rules[0]).nearest(size)
    is_same_ratio = math.isclose(nearest.made.log_ratio, size.log_ratio) and not of_pixels
    if policy is SizePolicy.STRICT and not is_same_ratio:
        return None
    return exact_size(nearest.made, rules)  # in the preferred parameters, as if that size had been requested


def exact_size(size: Size, rules: Iterable[SizeRule]) -> SizePlan | None:
    return next((shape for rule in rules if (shape := rule.exact(size))), None)
