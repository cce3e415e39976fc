"""Metrics with labels: a fast way to their children, and caps on how many there are."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from gateway.observability.multiprocess import has_capacity

TENANT: Final = "tenant"
OTHER: Final = "_other"
"""The label value of everything beyond a cap. No tenant can have this name."""
_SERIES_MAX: Final = 20_000
"""Label sets of one process: twice what 1,000 tenants need. prometheus_client renders them in 0.4 s."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class TenantLabelCap:
    """Gives the first `limit` tenants a label value of their own. Workers agree on them by the order in a file."""

    def __init__(self, limit: int, file: Path | None = None) -> None:
        self._limit = limit
        self._file = file
        self._names: set[str] = set()

    def label(self, tenant: str) -> str:
        """Returns the tenant's name or `_other`. Reads and writes the file when this process first sees a tenant."""
        if not tenant or tenant in self._names:
            return tenant
        if len(self._names) < self._limit:
            with suppress(OSError):
                self._add(tenant)
        return tenant if tenant in self._names else OTHER

    def _add(self, tenant: str) -> None:
        if self._file is None:
            self._names.add(tenant)
            return
        self._read(self._file)
        if tenant not in self._names and len(self._names) < self._limit:
            _append(self._file, tenant)
            self._read(self._file)

    def _read(self, file: Path) -> None:
        """If two workers append at once, both lines exist and the upper one wins."""
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        self._names = set(list(dict.fromkeys(lines))[: self._limit])


def _append(file: Path, tenant: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{tenant}\n".encode())
    finally:
        os.close(descriptor)


class SeriesCap:
    """Bounds the label sets of one process, and leaves room on the disk that the workers share."""

    def __init__(self, dropped: Counter, directory: Path | None = None) -> None:
        self._dropped = dropped
        self._directory = directory
        self._used = 0

    def take(self) -> bool:
        """Returns whether one more label set may be created. Counts each refusal."""
        if self._used >= _SERIES_MAX or (self._directory and not has_capacity(self._directory)):
            self._dropped.inc()
            return False
        self._used += 1
        return True


class LabeledMetric(Generic[Metric]):
    """A metric with labels. Finds a child without the lock that prometheus_client takes."""

    def __init__(self, metric: Metric, labels: tuple[str, ...], tenants: TenantLabelCap, series: SeriesCap) -> None:
        self._metric: Metric = metric
        self._labels = labels
        self._tenants = tenants
        self._series = series
        self._children: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """Returns the child with these values, in the order of the metric's labels."""
        return self._children.get(values) or self._find(values)

    def _find(self, values: tuple[str, ...]) -> Metric:
        """Label sets beyond a cap are not remembered; they share one child."""
        values = tuple(
            self._tenants.label(value) if label == TENANT else value
            for label, value in zip(self._labels, values, strict=True)
        )
        child = self._children.get(values)
        if child is None:
            if not self._series.take():
                return self._metric.labels(*[OTHER] * len(values))
            child = self._children[values] = self._metric.labels(*values)
        return child
