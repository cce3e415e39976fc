"""The arithmetic behind the table."""

from collections import Counter

import pytest

from bench.histograms import Histogram
from bench.load import percentile, render_request, render_requests
from bench.profiled import render_costs
from bench.results import Of, Row, at_least, at_most, render, render_table
from bench.traffic import Plan

METRICS = """# TYPE imagegate_event_loop_lag_seconds histogram
imagegate_event_loop_lag_seconds_bucket{le="0.1"} 10
imagegate_event_loop_lag_seconds_bucket{le="0.5"} 20
imagegate_event_loop_lag_seconds_bucket{le="+Inf"} 40
imagegate_event_loop_lag_seconds_sum 9
imagegate_event_loop_lag_seconds_count 40
"""


def read(text: str = METRICS) -> Histogram:
    return Histogram.read(text, "imagegate_event_loop_lag_seconds")


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1), (0.001, 1), (0.991, 100)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert value == percentile(range(1, 101), share)


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 0.99) == 0


@pytest.mark.parametrize(("share", "value"), [(0.125, 0.05), (0.25, 0.1), (0.375, 0.3), (0.5, 0.5), (0.99, 0.5)])
def test_a_quantile_is_even_inside_a_bucket_and_never_beyond_the_last_bound(share: float, value: float) -> None:
    assert read().quantile(share) == pytest.approx(value)


def test_a_quantile_of_what_came_since() -> None:
    later = METRICS.replace("20\n", "25\n").replace(" 40\n", " 45\n")
    assert (read(later) - read()).quantile(0.5) == pytest.approx(0.3)


def test_a_histogram_that_was_not_there_before_counts_from_nothing() -> None:
    assert (read() - read("")).quantile(0.25) == pytest.approx(0.1)
    assert read("").quantile(0.5) == 0


@pytest.mark.parametrize(
    ("gateway", "baseline", "holds"), [(1.0, 3.0, True), (1.0, 4.0, True), (1.0, 2.9, False), (1.0, None, False)]
)
def test_a_goal_of_a_ratio(gateway: float, baseline: float | None, *, holds: bool) -> None:
    row = Row(measure="CPU", gateway=gateway, baseline=baseline, goal=at_most(1 / 3, Of.RATIO))
    assert row.holds is holds


@pytest.mark.parametrize(("served", "holds"), [(99.0, True), (98.9, False)])
def test_a_goal_that_is_to_be_reached(served: float, *, holds: bool) -> None:
    assert Row(measure="served", gateway=served, goal=at_least(99)).holds is holds


def test_what_has_no_goal_is_only_told() -> None:
    assert Row(measure="told", gateway=1.0, baseline=2.0).holds is None


def test_a_table_of_eighty_columns() -> None:
    rows = [
        Row(measure="m" * 36, gateway=1234.5, baseline=0.0123, goal=at_most(0.33, Of.RATIO)),
        Row(measure="short", gateway=12.34, goal=at_least(3)),
        Row(measure="told", gateway=3.0),
    ]
    table = render_table(rows).splitlines()
    assert max(map(len, table)) <= 80
    assert [line.split() for line in table[2:]] == [
        ["m" * 36, "1234", "0.012", "100366", "<=", "0.330", "NO"],
        ["short", "12.3", ">=", "3", "yes"],
        ["told", "3"],
    ]


def test_a_measure_whose_name_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="wider than its column"):
        Row(measure="m" * 37, gateway=1.0)


@pytest.mark.parametrize(
    ("figure", "text"), [(0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (5.0, "5"), (0.0, "0")]
)
def test_figures_have_three_digits_at_the_most(figure: float, text: str) -> None:
    assert text == render(figure)


def test_a_request_says_how_long_it_is() -> None:
    plan = Plan(port=9, path="/a", body='{"prompt": "Café"}', headers={"authorization": "Bearer x"}, seconds=1)
    assert render_request(plan) == (
        b"POST /a HTTP/1.1\r\nhost: 127.0.0.1:9\r\nauthorization: Bearer x\r\ncontent-type: application/json\r\n"
        b'content-length: 19\r\n\r\n{"prompt": "Caf\xc3\xa9"}'
    )


def test_a_request_is_made_for_each_key() -> None:
    plan = Plan(port=9, path="/a", headers={"authorization": "Bearer x"}, seconds=1, keys=["one", "two"])
    heads = [request.decode().splitlines() for request in render_requests(plan)]
    assert ["Bearer one", "Bearer two"] == [line[15:] for head in heads for line in head if line.startswith("auth")]


def test_a_profile_counts_a_function_once_a_stack_however_often_it_calls_itself() -> None:
    told = render_costs(Counter({("main", "walk", "walk"): 3, ("main", "read"): 1}))
    assert [line.split() for line in told.splitlines() if "%" in line] == [
        ["75.0", "%", "walk"],
        ["25.0", "%", "read"],
        ["100.0", "%", "main"],
        ["75.0", "%", "walk"],
        ["25.0", "%", "read"],
    ]
