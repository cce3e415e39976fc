"""Which random histories are drawn: the same in every run of the suite, other ones and more on request."""

import os
import random
from collections.abc import Iterator

from tests.support.profile import FACTOR

SEED = os.environ.get("SEED")
"""That of one history, to see it again."""


def seeds(histories: int) -> Iterator[int]:
    """With FUZZ=50 fifty times as many others."""
    if SEED:
        yield int(SEED)
        return
    first = random.randrange(10**9) if FACTOR else 0
    yield from range(first, first + round(histories * (FACTOR or 1)))
