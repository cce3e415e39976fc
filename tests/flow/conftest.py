"""Servers that several tests of the whole program share."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Simulator, simulating


@pytest.fixture(scope="module")
def slow_simulator() -> Iterator[Simulator]:
    """A simulator that takes 3 s for an image, so that a test can act on a request in flight."""
    with simulating(latency_s=3.0) as running:
        yield running
