"""The clock of simulators."""

import pytest

from tests.testing.simulator.driving import Time


@pytest.fixture
def time() -> Time:
    return Time()
