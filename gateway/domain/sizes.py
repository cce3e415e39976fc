"""Image sizes: the sizes that a model supports, as data, and the choice for a request."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def log_ratio(self) -> float:
        return math.log(self.width / self.height)

    def has_ratio_of(self, size: "Size") -> bool:
        return math.isclose(self.log_ratio, size.log_ratio)


@dataclass(frozen=True, slots=True)
class SizePlan:
    """The size parameters sent upstream, and the resulting size."""

    made: Size
    aspect_ratio: str | None = None
    pixels: Size | None = None


class SizePolicy(Enum):
    """The treatment of an unsupported size: use the closest one, or refuse."""

    NEAREST = "nearest"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class AspectRatios:
    """Sizes that are requested by aspect ratio."""

    sizes: Mapping[str, Size]

    def exact(self, size: Size) -> SizePlan | None:
        for ratio, made in self.sizes.items():
            if made == size:
                return SizePlan(made, ratio)
        return None

    def nearest(self, size: Size) -> SizePlan:
        ratio = min(sorted(self.sizes), key=lambda ratio: abs(self.sizes[ratio].log_ratio - size.log_ratio))
        return SizePlan(self.sizes[ratio], ratio)

    def named(self, ratio: str) -> SizePlan | None:
        return SizePlan(self.sizes[ratio], ratio) if ratio in self.sizes else None


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """Any width and height between two bounds, in multiples of a step; pixels."""

    side_min: int
    side_max: int
    step: int

    def exact(self, size: Size) -> SizePlan | None:
        sides = (size.width, size.height)
        is_inside = all(self.side_min <= side <= self.side_max and side % self.step == 0 for side in sides)
        return SizePlan(size, pixels=size) if is_inside else None

    def nearest(self, size: Size) -> SizePlan:
        """Scales the size into the bounds; a ratio beyond them is clipped."""
        longest, shortest = max(size.width, size.height), min(size.width, size.height)
        scale = min(max(1.0, self.side_min / shortest), self.side_max / longest)
        made = Size(self._fit(size.width * scale), self._fit(size.height * scale))
        return SizePlan(made, pixels=made)

    def _fit(self, side: float) -> int:
        lowest, highest = math.ceil(self.side_min / self.step), self.side_max // self.step
        return max(lowest, min(highest, round(side / self.step))) * self.step


@dataclass(frozen=True, slots=True)
class SizeList:
    """A closed set of sizes, requested by size."""

    sizes: tuple[Size, ...]

    def exact(self, size: Size) -> SizePlan | None:
        return SizePlan(size, pixels=size) if size in self.sizes else None

    def nearest(self, size: Size) -> SizePlan:
        """Returns the size with the closest ratio; among equal ratios, the closest area."""
        area = size.width * size.height
        made = min(
            self.sizes,
            key=lambda candidate: (
                abs(candidate.log_ratio - size.log_ratio),
                abs(candidate.width * candidate.height - area),
            ),
        )
        return SizePlan(made, pixels=made)


@dataclass(frozen=True, slots=True)
class FixedSize:
    """The only size of a model, which is not sent upstream."""

    size: Size

    def exact(self, size: Size) -> SizePlan | None:
        return self.nearest(size) if size == self.size else None

    def nearest(self, size: Size) -> SizePlan:  # noqa: ARG002 - part of the rule protocol
        return SizePlan(self.size)


SizeRule = AspectRatios | SizeBounds | SizeList | FixedSize


def plan_size(size: Size, rules: tuple[SizeRule, ...], policy: SizePolicy) -> SizePlan | None:
    """Applies the first rule that supports the size exactly, else the nearest size of the first rule.

    `STRICT` accepts another size only at the same ratio, and only if the model does not support exact pixels.
    """
    if (exact := exact_size(size, rules)) or not rules:
        return exact
    nearest = rules[0].nearest(size)
    takes_pixels = any(isinstance(rule, SizeBounds | SizeList) for rule in rules)
    is_same_ratio = nearest.made.has_ratio_of(size) and not takes_pixels
    return nearest if policy is SizePolicy.NEAREST or is_same_ratio else None


def exact_size(size: Size, rules: Iterable[SizeRule]) -> SizePlan | None:
    for rule in rules:
        if shape := rule.exact(size):
            return shape
    return None
