"""Seeds of random histories: the same in every run of the suite, new ones on request."""

import os
import random
from collections.abc import Iterator

from tests.support.profile import FACTOR, IS_NEW

SEED = os.environ.get("SEED")
"""Runs only this history."""


def seeds(histories: int) -> Iterator[int]:
    """`histories` is the number at FUZZ=1."""
    if SEED:
        yield int(SEED)
        return
    first = random.randrange(10**9) if IS_NEW else 0
    yield from range(first, first + round(histories * FACTOR))
