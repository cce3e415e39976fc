"""What counts: in the manner of Prometheus' own clients, at a quarter of a microsecond a time.

An event loop's thread counts, and nobody else: there is no lock.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from gateway.metrics.families import TENANT, Family, Kind
from gateway.metrics.tenants import Tenants

_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Instrument = TypeVar("Instrument")


class Count:
    """A number that only grows."""

    __slots__ = ("_at", "_numbers")

    def __init__(self, numbers: "memoryview[float]", at: int) -> None:
        self._numbers = numbers
        self._at = at

    def inc(self, amount: float = 1.0) -> None:
        self._numbers[self._at] += amount

    @property
    def value(self) -> float:
        """Of this process."""
        return self._numbers[self._at]


class Level(Count):
    """A number that comes and goes with its process."""

    __slots__ = ()

    def dec(self) -> None:
        self._numbers[self._at] -= 1.0

    def set(self, value: float) -> None:
        self._numbers[self._at] = float(value)

    def __enter__(self) -> None:
        """One more, as long as the block lasts."""
        self.inc()

    def __exit__(self, *_: object) -> None:
        self.dec()


class Timer:
    """Durations: after `_at` a number for each bucket, the sum, and the count."""

    __slots__ = ("_at", "_bounds", "_numbers")

    def __init__(self, numbers: "memoryview[float]", at: int, bounds: Sequence[float]) -> None:
        self._numbers = numbers
        self._at = at
        self._bounds = bounds

    def observe(self, seconds: float) -> None:
        """Every bucket that holds it counts it, the widest first: a scrape never finds more in a narrow one."""
        numbers, unbounded = self._numbers, self._at + len(self._bounds)
        numbers[unbounded + 2] += 1.0
        numbers[unbounded + 1] += seconds
        for at in range(unbounded, self._at + bisect_left(self._bounds, seconds) - 1, -1):
            numbers[at] += 1.0


class Labelled(Generic[Instrument]):
    """One instrument for each set of labels."""

    def __init__(self, family: Family, tenants: Tenants, make: Callable[[Sequence[str]], Instrument]) -> None:
        """`make` is told the texts of the series."""
        self._family = family
        self._tenants = tenants
        self._make = make
        self._tenant_at = family.labels.index(TENANT) if TENANT in family.labels else None
        self._made: dict[tuple[str, ...], Instrument] = {}

    def labels(self, *values: str) -> Instrument:
        """In the order of the family."""
        return self._made.get(values) or self._find(values)

    def items(self) -> dict[tuple[str, ...], Instrument]:
        """What was counted in this process, by the values of the labels."""
        return dict(self._made)

    def _find(self, values: tuple[str, ...]) -> Instrument:
        """A tenant beyond the cap is not remembered."""
        at = self._tenant_at
        if at is not None:
            values = (*values[:at], self._tenants.label(values[at]), *values[at + 1 :])
        found = self._made.get(values)
        if found is None:
            found = self._made[values] = self._make(series_of(self._family, values))
        return found


def series_of(family: Family, values: Sequence[str]) -> list[str]:
    """The texts of the series that a set of labels comes to."""
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(family.labels, values, strict=True)]
    if family.kind is not Kind.HISTOGRAM:
        return [family.name + _braced(pairs)]
    bounds = [*(repr(bound) for bound in family.buckets), "+Inf"]
    bucket, *whole = family.exposed
    return [
        *(bucket + _braced([*pairs, f'le="{bound}"']) for bound in bounds),
        *(name + _braced(pairs) for name in whole),
    ]


def _braced(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""
