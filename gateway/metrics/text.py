"""What was counted, added up over all books, as Prometheus' text.

A name is read once and never changes, so a scrape costs one pass over the numbers and one over the lines. For
10,000 series, as of 1,000 tenants, 3 ms, and 5 ms where four processes count; prometheus_client takes 175 and 205 ms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.metrics.books import OwnPage, SharedPage
from gateway.metrics.families import Family, Kind
from gateway.metrics.instruments import series_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Truth:
    """A number that was read just now."""

    family: Family
    labels: tuple[str, ...]
    value: float


class Totals:
    """Adds up pages, and remembers what it read of their names."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self._family_of = {name: family for family in families for name in family.exposed}
        self._lines: dict[str, list[tuple[str, int]]] = {family.name: [] for family in families}
        """By family, each series and where its sum is."""
        self._at: dict[str, int] = {}
        self._learnt: dict[SharedPage | OwnPage, _Learnt] = {}

    def render(self, pages: Iterable[SharedPage | OwnPage], truths: Iterable[Truth]) -> bytes:
        """The text of all families; truths stand with their own."""
        sums = self._add_up(pages)
        told: dict[str, list[Truth]] = {}
        for truth in truths:
            told.setdefault(truth.family.name, []).append(truth)
        parts: list[str] = []
        for family in self._families:
            parts.append(f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind.type}\n")
            parts.extend([f"{name} {sums[at]!r}\n" for name, at in self._lines[family.name]])
            parts.extend(map(_line, told.get(family.name, ())))
        return "".join(parts).encode()

    def follow(self, pages: Iterable[SharedPage | OwnPage]) -> None:
        """Read the names that are new, which a scrape then finds known."""
        for page in pages:
            self._read(page)

    def _add_up(self, pages: Iterable[SharedPage | OwnPage]) -> list[float]:
        """The first sum is nobody's: it takes what the dead say of a moment in which they lived."""
        read = [self._numbers(page) for page in pages]
        sums = [0.0] * (len(self._at) + 1)
        for places, numbers in read:
            for at, number in zip(places, numbers, strict=True):
                sums[at] += number
        return sums

    def _numbers(self, page: SharedPage | OwnPage) -> tuple[list[int], Sequence[float]]:
        learnt = self._read(page)
        places = learnt.places if page.is_alive else learnt.places_when_dead
        return places, page.first(len(places))

    def _read(self, page: SharedPage | OwnPage) -> "_Learnt":
        learnt = self._learnt.setdefault(page, _Learnt())
        for name in page.new_names():
            family = self._family_of.get(name.partition("{")[0])
            at = self._find(name, family) if family else 0
            learnt.places.append(at)
            learnt.places_when_dead.append(0 if family and family.kind is Kind.LIVE else at)
        return learnt

    def _find(self, name: str, family: Family) -> int:
        at = self._at.get(name)
        if at is None:
            at = self._at[name] = len(self._at) + 1
            self._lines[family.name].append((name, at))
        return at


@dataclass(slots=True)
class _Learnt:
    """Where the sum of each number of a page is."""

    places: list[int] = field(default_factory=list)
    places_when_dead: list[int] = field(default_factory=list)


def _line(truth: Truth) -> str:
    (name,) = series_of(truth.family, truth.labels)
    return f"{name} {float(truth.value)!r}\n"
