"""Number of examples of properties and random histories. A run of the suite always draws the same ones."""

import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

FACTOR: Final = float(os.environ.get("FUZZ", "0.1"))
"""FUZZ=1 runs all examples, as `make test-all` does. More than 1 multiplies them and draws new ones in each run."""
IS_NEW: Final = FACTOR > 1


def fuzzing(examples: int) -> Callable[[Any], Any]:
    """Marks a property as `fuzz` and sets its number of examples at FUZZ=1."""
    chosen = settings(
        max_examples=max(1, round(examples * FACTOR)),
        derandomize=not IS_NEW,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    return lambda test: pytest.mark.fuzz(chosen(test))
