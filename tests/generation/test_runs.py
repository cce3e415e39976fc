import pytest

from gateway.domain.catalog import Capability, Target
from gateway.generation.retries import CallDurations

SIM, OTHER = (Target(name, "image-01", Capability(())) for name in ("sim", "other"))


def test_calls_that_never_delivered_are_expected_to_take_the_default() -> None:
    durations = CallDurations(150.0)
    durations.note(SIM, 1, 2.0)
    assert [2.0, 150.0, 150.0] == [durations.usual_s(SIM, 1), durations.usual_s(SIM, 2), durations.usual_s(OTHER, 1)]


@pytest.mark.parametrize(
    ("seconds", "usual_s"),
    [([3.0, 1.0, 2.0], 3.0), ([*map(float, range(1, 11))], 9.0), ([1.0] * 95 + [60.0] * 5, 1.0), ([60.0] * 50, 60.0)],
)
def test_nine_of_ten_of_the_latest_calls_delivered_within_the_usual_time(seconds: list[float], usual_s: float) -> None:
    durations = CallDurations(150.0)
    for each in seconds:
        durations.note(SIM, 1, each)
    assert usual_s == durations.usual_s(SIM, 1)


def test_only_the_latest_calls_count() -> None:
    durations = CallDurations(150.0)
    for each in [60.0] * 50 + [2.0] * 50:
        durations.note(SIM, 1, each)
    assert 2.0 == durations.usual_s(SIM, 1)
