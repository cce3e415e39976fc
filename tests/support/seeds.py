"""Seeds of random histories: the same in every run of the suite, new ones on request."""

import os
import random
from collections.abc import Iterator

from tests.support.profile import FACTOR, IS_NEW

SEED = os.environ.get("SEED")
"""Runs only this history."""


def seeds(histories: int, part: int = 0, parts: int = 1) -> Iterator[int]:
    """Yields the seeds of one part of the histories; `histories` is the number of all parts at FUZZ=1."""
    if SEED:
        if part == 0:
            yield int(SEED)
        return
    first = random.randrange(10**9) if IS_NEW else 0
    yield from range(first + part, first + round(histories * FACTOR), parts)
