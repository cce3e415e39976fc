"""Prometheus histograms, parsed from the text of /metrics."""

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Histogram:
    """Cumulative counts by upper bound."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    """Cumulative, as exposed."""

    @classmethod
    def read(cls, text: str, name: str) -> Self:
        """Parses a histogram without labels."""
        found = re.findall(rf'^{name}_bucket\{{le="([^"]+)"\}} (\S+)', text, re.MULTILINE)
        return cls(tuple(float(bound) for bound, _ in found), tuple(float(count) for _, count in found))

    def __sub__(self, before: "Histogram") -> "Histogram":
        counts = before.counts or (0.0,) * len(self.counts)
        return Histogram(self.bounds, tuple(now - then for now, then in zip(self.counts, counts, strict=True)))

    def quantile(self, share: float) -> float:
        """Returns what PromQL's histogram_quantile does: linear in a bucket; the last finite bound beyond it."""
        if not self.counts or not self.counts[-1]:
            return 0.0
        rank, lower, below = share * self.counts[-1], 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank:
                return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower
