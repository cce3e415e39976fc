"""What is counted, told, and added up over processes; each `Metrics` on one directory stands for a process."""

import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import FAMILIES, Metrics, Truth, families
from gateway.metrics.directory import shared_directory
from gateway.metrics.families import LABELS, Kind
from gateway.metrics.pulse import Pulse
from gateway.metrics.tenants import OTHER, Tenants


@pytest.fixture
def directory() -> Iterator[Path]:
    with shared_directory() as made:
        yield made


def told(metrics: Metrics, *truths: Truth) -> dict[str, float]:
    """Every sample, by its series as text."""
    text = metrics.render(truths).decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    lines = [(series, float(value)) for series, _, value in pairs]
    assert len(lines) == len(dict(lines)), "no series is told twice"
    return dict(lines)


def images(tenant: str = "acme") -> str:
    return f'imagegate_images_total{{model="m",tenant="{tenant}",upstream="u"}}'


def count_images(directory: Path, amount: int) -> None:
    """A process counts, and dies without a word."""
    metrics = Metrics(directory)
    metrics.images.labels("m", "acme", "u").inc(amount)
    metrics.in_flight.labels("u").inc()
    os.kill(os.getpid(), signal.SIGKILL)


def in_another_process(directory: Path, amount: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=count_images, args=(directory, amount))
    process.start()
    process.join(30)
    assert -signal.SIGKILL == process.exitcode


def test_what_is_counted_is_told() -> None:
    metrics = Metrics()
    metrics.images.labels("m", "acme", "u").inc()
    metrics.images.labels("m", "acme", "u").inc(2)
    metrics.images.labels("m", "other", "u").inc(4)
    found = told(metrics)
    assert (3.0, 4.0) == (found[images()], found[images("other")])


def test_every_process_tells_the_sum_of_all(directory: Path) -> None:
    processes = [Metrics(directory) for _ in range(4)]
    for number, process in enumerate(processes, 1):
        process.images.labels("m", "acme", "u").inc(number)
        process.queue_seconds.observe(number)
    assert [10.0] * 4 == [told(process)[images()] for process in processes]
    assert [10.0] * 4 == [told(process)["imagegate_queue_seconds_sum"] for process in processes]
    assert 1 == len({process.render() for process in processes})
    processes[2].images.labels("m", "late", "u").inc()
    assert [1.0] * 4 == [told(process)[images("late")] for process in processes]


def test_what_the_dead_counted_stays_and_what_they_did_is_over(directory: Path) -> None:
    living = Metrics(directory)
    in_another_process(directory, 3)
    assert 3.0 == told(living)[images()]
    assert 0.0 == told(living)['imagegate_in_flight{upstream="u"}']


def test_a_successor_counts_on_in_the_files_of_the_dead(directory: Path) -> None:
    """Or a gateway whose processes die often would have more and more of them."""
    living = Metrics(directory)
    for turn in range(1, 4):
        in_another_process(directory, 1)
        assert turn == told(living)[images()]
    assert 2 == len(list(directory.glob("*.names")))
    successor = Metrics(directory)
    successor.in_flight.labels("u").inc()
    successor.images.labels("m", "acme", "u").inc()
    assert 2 == len(list(directory.glob("*.names")))
    assert (4.0, 1.0) == (told(living)[images()], told(successor)['imagegate_in_flight{upstream="u"}'])


def test_half_a_name_of_a_killed_process_is_forgotten(directory: Path) -> None:
    in_another_process(directory, 3)
    (names,) = directory.glob("*.names")
    with names.open("a") as file:
        file.write('imagegate_images_total{model="m",ten')
    successor = Metrics(directory)
    successor.images.labels("m", "next", "u").inc(2)
    found = told(successor)
    assert (3.0, 2.0) == (found[images()], found[images("next")])
    assert found == told(Metrics(directory))


def test_the_directory_is_private_and_gone_at_the_end() -> None:
    with shared_directory() as directory:
        Metrics(directory).images.labels("m", "acme", "u").inc()
        assert 0o700 == directory.stat().st_mode & 0o777
        assert {0o600} == {path.stat().st_mode & 0o777 for path in directory.glob("[0-9]*")}
    assert not directory.exists()


def test_what_a_killed_gateway_left_is_removed_by_the_next_one_but_not_what_is_in_use() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=share_and_wait, args=(theirs,))
    process.start()
    left = Path(ours.recv())
    with shared_directory():
        assert left.exists()
    process.kill()
    process.join(30)
    with shared_directory():
        assert not left.exists()


def share_and_wait(connection: "multiprocessing.connection.Connection[str, str]") -> None:
    with shared_directory() as directory:
        connection.send(str(directory))
        signal.pause()


def test_buckets_hold_what_is_no_longer_than_they_say() -> None:
    metrics = Metrics()
    for seconds in (0.05, 0.06, 300, 301):
        metrics.queue_seconds.observe(seconds)
    found = told(metrics)
    counts = {bound: found[f'imagegate_queue_seconds_bucket{{le="{bound}"}}'] for bound in ("0.05", "0.1", "300.0")}
    assert {"0.05": 1.0, "0.1": 2.0, "300.0": 3.0} == counts
    assert 4.0 == found['imagegate_queue_seconds_bucket{le="+Inf"}'] == found["imagegate_queue_seconds_count"]
    assert 601.11 == pytest.approx(found["imagegate_queue_seconds_sum"])


def test_a_level_falls_again_also_when_something_fails() -> None:
    metrics = Metrics()
    metrics.in_flight.labels("idle").set(0)
    with pytest.raises(ZeroDivisionError), metrics.in_flight.labels("u"):
        told(metrics)['imagegate_in_flight{upstream="u"}'] / told(metrics)['imagegate_in_flight{upstream="idle"}']
    assert 0.0 == told(metrics)['imagegate_in_flight{upstream="u"}']


def test_truths_stand_with_their_family() -> None:
    truth = Truth(families.QUEUE_DEPTH, ("u",), 7)
    text = Metrics().render([truth]).decode()
    assert '# TYPE imagegate_queue_depth gauge\nimagegate_queue_depth{upstream="u"} 7.0\n# HELP' in text
    assert "imagegate_queue_depth{" not in Metrics().render().decode()


def test_prometheus_reads_every_family_with_its_type_and_help() -> None:
    metrics = Metrics()
    metrics.images.labels('a "b" \\ c\nd', "acme", "u").inc()
    read = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    for family in FAMILIES:
        found = read[family.name.removesuffix("_total")]
        assert (family.kind.type, family.help) == (found.type, found.documentation)
    assert 'a "b" \\ c\nd' == read["imagegate_images"].samples[0].labels["model"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_metric_is_named_and_described_as_the_house_does(family: families.Family) -> None:
    assert re.fullmatch(r"imagegate_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    is_span = family.name.endswith("_seconds") and not family.name.endswith("_timestamp_seconds")
    assert (family.kind is Kind.HISTOGRAM) == is_span == bool(family.buckets)
    assert family.help.endswith(".")
    assert "\n" not in family.help
    assert set(family.labels) <= set(LABELS)
    assert sorted(family.buckets) == list(family.buckets)


def test_the_table_holds_every_metric_once() -> None:
    declared = {value.name for value in vars(families).values() if isinstance(value, families.Family)}
    names = [family.name for family in FAMILIES]
    assert (declared, len(declared)) == (set(names), len(names))
    assert {label for family in FAMILIES for label in family.labels} | {"le"} == set(LABELS)


def test_tenants_beyond_the_cap_are_one() -> None:
    metrics = Metrics(tenants_max=2)
    for name in ("a", "b", "c", "a", "d", ""):
        metrics.images.labels("m", name, "u").inc()
    found = {series: value for series, value in told(metrics).items() if series.startswith("imagegate_images_total{")}
    assert {images("a"): 2.0, images("b"): 1.0, images(OTHER): 2.0, images(""): 1.0} == found


def test_a_thousand_tenants_beyond_the_cap_are_not_remembered() -> None:
    metrics = Metrics(tenants_max=1)
    for number in range(1000):
        metrics.images.labels("m", f"tenant-{number}", "u").inc()
    assert {("m", "tenant-0", "u"), ("m", OTHER, "u")} == set(metrics.images.items())


def test_the_cap_holds_over_all_processes(directory: Path) -> None:
    """And they agree on who is within it, in whatever order each sees them."""
    processes = [Metrics(directory, tenants_max=10) for _ in range(3)]
    for number, process in enumerate(processes):
        for tenant in range(20):
            process.images.labels("m", f"tenant-{(tenant * 7 + number * 5) % 20}", "u").inc()
    found = {series: value for series, value in told(processes[0]).items() if series.startswith("imagegate_images")}
    assert 11 == len(found)
    assert {3.0} == {value for series, value in found.items() if OTHER not in series}
    assert 30.0 == found[images(OTHER)]


def test_two_that_see_the_last_tenant_at_once_agree(tmp_path: Path) -> None:
    file = tmp_path / "tenants"
    one, other = Tenants(1, file), Tenants(1, file)
    file.write_text("b\na\n")  # both wrote before either read
    assert (OTHER, "b") == (one.label("a"), other.label("b"))


def test_what_finds_no_room_is_counted_nowhere_and_that_is_told(directory: Path) -> None:
    for metrics in (Metrics(), Metrics(directory)):
        for number in range(9000):
            metrics.wait_seconds.labels(f"u{number}").observe(1)
        found = told(metrics)
        counts = [value for series, value in found.items() if series.startswith("imagegate_wait_seconds_count")]
        assert len(counts) > 8000
        assert 9000 == sum(counts) + found["imagegate_series_refused_total"]


def test_half_a_series_of_a_killed_process_does_not_mix_with_others(directory: Path) -> None:
    in_another_process(directory, 3)
    (names,) = directory.glob("*.names")
    with names.open("a") as file:
        file.write('imagegate_wait_seconds_bucket{upstream="u",le="0.05"}\n')
    successor = Metrics(directory)
    successor.wait_seconds.labels("u").observe(0.01)
    successor.images.labels("m", "next", "u").inc(2)
    found = told(successor)
    assert (3.0, 2.0) == (found[images()], found[images("next")])
    assert (1.0, 1.0) == tuple(
        found[f"imagegate_wait_seconds_{what}"] for what in ('bucket{upstream="u",le="0.05"}', 'count{upstream="u"}')
    )


def test_a_thousand_tenants_cost_a_scrape_no_new_names(directory: Path) -> None:
    """What was read of the names is not read again: a scrape costs the numbers and the lines."""
    metrics = Metrics(directory, tenants_max=1000)
    for tenant in range(1000):
        metrics.requests.labels("/", "m", f"tenant-{tenant}", "200").inc()
    first = metrics.render()
    for names in directory.glob("*.names"):
        names.write_bytes(b"?" * names.stat().st_size)
    assert first == metrics.render()


def test_the_pulse_looks_at_what_nobody_counts() -> None:
    metrics = Metrics()
    Pulse(metrics, {metrics.unsettled: lambda: 3}, lambda: 0.0).look()
    found = told(metrics)
    assert 3.0 == found["imagegate_unsettled_requests"]
    if Path("/proc/self/statm").exists():
        assert found["imagegate_resident_memory_bytes"] > 10_000_000
        assert found["imagegate_open_files"] >= 3
