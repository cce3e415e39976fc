"""How long is looked: the same few hundred examples in every run of the suite, other ones and more on request."""

import os
from typing import Final

from hypothesis import HealthCheck, settings

FACTOR: Final = float(os.environ.get("FUZZ", "0"))
"""0: the run of the suite. Anything else: so many times its examples, drawn anew each time."""


def fuzzing(examples: int) -> settings:
    """The settings of one property that looks at so many examples in the suite's run."""
    return settings(
        max_examples=max(1, round(examples * (FACTOR or 1))),
        derandomize=not FACTOR,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
