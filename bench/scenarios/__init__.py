"""Every scenario, in the order of the table."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bench.results import Row
from bench.run import Run
from bench.scenarios import (
    conversion,
    cpu,
    in_flight,
    large,
    latency,
    overload,
    queue,
    refusals,
    round_trips,
    scrapes,
    scripts,
    starting,
    storage,
    stores,
    throughput,
)

MEASURES: Final[Mapping[str, Callable[[Run], list[Row]]]] = MappingProxyType(
    {
        "cpu": cpu.measure,
        "latency": latency.measure,
        "throughput": throughput.measure,
        "large": large.measure,
        "storage": storage.measure,
        "conversion": conversion.measure,
        "flight": in_flight.measure,
        "queue": queue.measure,
        "stores": stores.measure,
        "scripts": scripts.measure,
        "overload": overload.measure,
        "refusals": refusals.measure,
        "scrapes": scrapes.measure,
        "trips": round_trips.measure,
        "start": starting.measure,
    }
)
