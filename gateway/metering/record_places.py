"""Positions in the pages of an export.

A corrected record moves to the end of its tenant day and names its former entries (settle.lua). Pages return each
request once: a Place records how its tenant day was read so far.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gateway.domain.usage import TenantDay

READINGS_MAX: Final = 32
"""Limit on the readings of a tenant day that a Place holds; an unchanged tenant day has one.

With pages of 250 or more, they span 8,000 records. Only a record read earlier and moved before the first one repeats.
"""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reading:
    """One read of a part of a tenant day."""

    end: str
    """Last entry that was returned."""
    newest: str
    """Newest entry of the tenant day at that time; later entries are newer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a record, with the readings of its tenant day so far, oldest first."""

    tenant_day: TenantDay
    id: str
    """Entry ID in the stream of the tenant day."""
    readings: tuple[Reading, ...] = ()


def with_reading(readings: tuple[Reading, ...], reading: Reading) -> tuple[Reading, ...]:
    """Adds a reading; while nothing is written, one reading stands for all."""
    earlier = readings[:-1] if readings and readings[-1].newest == reading.newest else readings
    return (*earlier, reading)[-READINGS_MAX:]


def was_returned(name: str, fields: Mapping[str, str], readings: Sequence[Reading]) -> bool:
    """Returns True if a corrected record was returned before it moved here: a reading passed its former entry."""
    entries = (*filter(_ENTRY_ID.fullmatch, fields.get("corrects", "").split()), name)
    for earlier, later in pairwise(map(_moment, entries)):
        reading = next((one for one in readings if earlier <= _moment(one.end)), None)
        if reading and later > _moment(reading.newest):
            return True
    return False


def _moment(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))
