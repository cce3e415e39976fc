"""Servers that several tests of the whole program share."""

from collections.abc import Iterator

import pytest

from gateway.testing.simulator import create_simulator
from tests.support.harness import Simulator, serving, simulating


@pytest.fixture(scope="module")
def slow_simulator() -> Iterator[Simulator]:
    """A simulator that takes 3 s for an image, so that a test can act on a request in flight."""
    with simulating(latency_s=3.0) as running:
        yield running


@pytest.fixture
def provider() -> Iterator[Simulator]:
    """A simulator of the test's own, to break: its outages and key states end with it. It logs every call."""
    with serving(create_simulator(latency_s=0.0, requests_per_minute=100_000, calls_kept=1000)) as url:
        yield Simulator(url)
