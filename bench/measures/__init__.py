"""Every measure, in the order of the table."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bench.measures import (
    cpu,
    flight,
    large,
    latency,
    overload,
    queue,
    refusals,
    scripts,
    starting,
    stores,
    throughput,
    trips,
)
from bench.rows import Row
from bench.run import Run

MEASURES: Final[Mapping[str, Callable[[Run], list[Row]]]] = MappingProxyType(
    {
        "cpu": cpu.measure,
        "latency": latency.measure,
        "throughput": throughput.measure,
        "large": large.measure,
        "flight": flight.measure,
        "queue": queue.measure,
        "stores": stores.measure,
        "scripts": scripts.measure,
        "overload": overload.measure,
        "refusals": refusals.measure,
        "trips": trips.measure,
        "start": starting.measure,
    }
)
