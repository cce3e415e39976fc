"""Leftovers after the run: in Redis, in process memory, in logs; and recovery of every part."""

from collections.abc import Iterator
from statistics import median
from typing import Final

from chaos.configuration import RATE_MARGIN_S
from chaos.observations import Discrepancy, Observations, Process

RECOVERY_S: Final = 30.0
PICTURE_S: Final = RECOVERY_S + 60.0 + RATE_MARGIN_S
"""The last fault may have used up the accounts' minute."""
_WARM_S: Final = 15.0
"""Warm-up: by then a process has loaded its code and served for a while."""
_LIFE_S: Final = 40.0
"""The memory of a process that lived less is not judged."""
GROWTH_BYTES: Final = 64 * 1024 * 1024
"""Generous: images in flight vary, and Python returns little memory. Leaking every image is far above."""
KEEPERS_GROWTH_BYTES: Final = 256 * 1024 * 1024
"""Of Redis and the provider, which accumulate records, call log and images."""


def check_leftovers(observed: Observations) -> list[Discrepancy]:
    found = [Discrepancy("left in Redis", told) for told in observed.leftovers]
    for process in observed.processes:
        found += _check_process(process)
    for request_id, told in observed.mistakes:
        found.append(Discrepancy("a mistake in a log", told, (request_id,) if request_id else ()))
    for one in observed.recovery:
        for what, seconds, most_s in (("an answer", one.served_s, RECOVERY_S), ("a picture", one.picture_s, PICTURE_S)):
            if seconds is None or seconds > most_s:
                told = "never" if seconds is None else f"after {seconds:.1f} s"
                found.append(Discrepancy("did not serve again in time", f"{one.who}, {what}: {told}"))
    return found


def _check_process(process: Process) -> Iterator[Discrepancy]:
    if process.died:
        yield Discrepancy("a process ended by itself", process.name)
    if process.was_told_to_end and process.killed_s is None and process.exit_code != 0:
        told = "did not end" if process.exit_code is None else f"exit code {process.exit_code}"
        yield Discrepancy("a process did not end well", f"{process.name}: {told}")
    growth = growth_bytes(process)
    if growth is not None and growth > (KEEPERS_GROWTH_BYTES if process.number is None else GROWTH_BYTES):
        yield Discrepancy("memory grows", f"{process.name}: {growth / 2**20:.0f} MiB")


def growth_bytes(process: Process) -> int | None:
    """Returns growth from warm-up to end, each the median of a few samples; None for a short life."""
    if not process.memory or process.memory[-1][0] - process.memory[0][0] < _LIFE_S:
        return None
    warm = [resident for moment, resident in process.memory if moment >= process.memory[0][0] + _WARM_S]
    few = max(1, len(warm) // 5)
    return round(median(warm[-few:]) - median(warm[:few]))
