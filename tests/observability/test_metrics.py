"""Counting, rendering, and sums over workers."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from docs.generate.metrics import LABELS, SPECS
from gateway.api.pool_gauges import PoolGauges
from gateway.observability import metrics as module
from gateway.observability.metrics import OTHER, Metrics, MetricSpec, TenantLabelCap
from gateway.observability.multiprocess import shared_directory
from gateway.observability.process import ProcessCollector
from tests.observability.workers import SPAWN, Worker, call, count, observe, samples, share_and_wait


@pytest.fixture
def directory() -> Iterator[Path]:
    with shared_directory() as created:
        yield created


def images(tenant: str = "acme") -> str:
    return f'imagegate_images_total{{model="m",tenant="{tenant}",upstream="u"}}'


IN_FLIGHT = 'imagegate_upstream_calls_in_flight{upstream="u"}'


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:

        def start_worker(max_tenant_series: int = 200) -> Worker:
            worker = Worker(directory, max_tenant_series)
            stack.callback(worker.kill)
            return worker

        yield start_worker


def test_counts_are_rendered() -> None:
    metrics = Metrics()
    for tenant, amount in (("acme", 1), ("acme", 2), ("other", 4)):
        count(metrics, amount, tenant)
    found = samples(metrics)
    assert (3.0, 4.0) == (found[images()], found[images("other")])


def test_every_worker_renders_the_sum_over_all(start: Callable[..., Worker]) -> None:
    workers = [start() for _ in range(3)]
    for number, worker in enumerate(workers, 1):
        worker.do(count, number)
        worker.do(observe, number)
        worker.do(call)
    found = [worker.samples() for worker in workers]
    assert [6.0] * 3 == [one[images()] for one in found]
    assert [6.0] * 3 == [one["imagegate_queue_wait_seconds_sum"] for one in found]
    assert [3.0] * 3 == [one[IN_FLIGHT] for one in found]
    workers[2].do(count, 1, "late")
    assert [1.0] * 3 == [worker.samples()[images("late")] for worker in workers]


def test_counters_of_a_dead_worker_stay_and_its_gauges_do_not(start: Callable[..., Worker]) -> None:
    living, dying = start(), start()
    dying.do(count, 3)
    dying.do(observe, 2)
    dying.do(call)
    assert 1.0 == living.samples()[IN_FLIGHT]
    dying.kill()
    found = living.samples()
    assert (3.0, 2.0) == (found[images()], found["imagegate_queue_wait_seconds_sum"])
    assert IN_FLIGHT not in found


def test_replacements_continue_in_the_files_of_the_dead(start: Callable[..., Worker], directory: Path) -> None:
    """Otherwise every worker that dies would leave files for every scrape to read."""
    living = start()
    for turn in range(1, 4):
        dying = start()
        dying.do(count)
        dying.do(call)
        dying.kill()
        assert turn == living.samples()[images()]
    dying = start()
    dying.do(call)
    dying.kill()
    replacement = start()
    replacement.do(count)
    replacement.do(call)
    assert (4.0, 1.0) == (living.samples()[images()], replacement.samples()[IN_FLIGHT])
    assert 6 == len(list(directory.glob("*.db")))


def test_a_worker_that_dies_while_it_creates_series_leaves_readable_files(
    start: Callable[..., Worker], directory: Path
) -> None:
    """Half a histogram: its replacement adds the rest."""
    living, dying = start(), start()
    dying.do(observe, 0.01)
    dying.kill()
    file = directory / "histogram_1.db"
    content = file.read_bytes()
    used = int.from_bytes(content[:4], "little")
    cut = content.rindex(b'"le": "60.0"')
    start_of_entry = content.rindex(b'["imagegate_account_wait_seconds"', 0, cut) - 4
    assert 8 < start_of_entry < used
    file.write_bytes(start_of_entry.to_bytes(4, "little") + content[4:])
    replacement = start()
    replacement.do(observe, 0.01)
    found = living.samples()
    assert 2.0 == found['imagegate_account_wait_seconds_bucket{le="0.05",upstream="u"}']
    assert 2.0 == found['imagegate_account_wait_seconds_count{upstream="u"}']


def test_the_directory_is_private_and_removed_at_the_end() -> None:
    with shared_directory() as directory:
        worker = Worker(directory)
        assert 0o700 == directory.stat().st_mode & 0o777
        worker.kill()
    assert not directory.exists()


def test_the_next_gateway_removes_what_a_killed_one_left_once_its_workers_have_ended() -> None:
    ours, theirs = SPAWN.Pipe()
    gateway = SPAWN.Process(target=share_and_wait, args=(theirs,), daemon=True)
    gateway.start()
    left = Path(ours.recv())
    worker = Worker(left)
    with shared_directory():
        assert left.exists()
    gateway.kill()
    gateway.join(30)
    with shared_directory():
        assert left.exists(), "a worker still drains"
    worker.kill()
    with shared_directory():
        assert not left.exists()


def test_workers_count_on_if_their_directory_is_removed(start: Callable[..., Worker], directory: Path) -> None:
    """As logind does in /dev/shm when the last session of a user ends."""
    worker = start()
    worker.do(count)
    shutil.rmtree(directory)
    worker.do(count)
    worker.do(count, 1, "new")
    assert worker.process.is_alive()


def test_buckets_are_cumulative_and_include_their_bound() -> None:
    metrics = Metrics()
    for seconds in (0.05, 0.06, 300, 301):
        observe(metrics, seconds)
    found = samples(metrics)
    name = "imagegate_queue_wait_seconds"
    assert [1.0, 2.0, 3.0, 4.0] == [
        found[f'{name}_bucket{{le="{bound}"}}'] for bound in ("0.05", "0.1", "300.0", "+Inf")
    ]
    assert 4.0 == found[f"{name}_count"]
    assert 601.11 == pytest.approx(found[f"{name}_sum"])


def test_prometheus_reads_every_metric_with_its_type_and_help() -> None:
    metrics = Metrics()
    pool = PoolGauges("1", ()).render().decode()
    metrics.images.labels('a "b" \\ c\nd', "acme", "u").inc()
    text = generate_latest(metrics.registry).decode() + pool
    read = {family.name: family for family in text_string_to_metric_families(text)}
    as_openmetrics = pool + openmetrics.generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call]
    read_openmetrics = {family.name: family for family in parse_openmetrics(as_openmetrics)}  # type: ignore[no-untyped-call]
    for spec in SPECS:
        name = spec.name.removesuffix("_total")
        assert (spec.type, spec.help) == (read[name].type, read[name].documentation)
        assert (spec.type, spec.help) == (read_openmetrics[name].type, read_openmetrics[name].documentation)
    assert len(SPECS) == len(read) == len(read_openmetrics)
    assert 'a "b" \\ c\nd' == read["imagegate_images"].samples[0].labels["model"]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_metric_is_named_by_convention(spec: MetricSpec) -> None:
    assert re.fullmatch(r"(imagegate|process)_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") == (spec.type == "counter")
    is_duration = spec.name.endswith("_seconds") and not spec.name.endswith("_timestamp_seconds")
    assert (spec.type == "histogram") == is_duration == bool(spec.buckets)
    assert spec.help.endswith(".")
    assert "\n" not in spec.help
    assert set(spec.labels) <= set(LABELS)
    assert sorted(spec.buckets) == list(spec.buckets)


def test_every_label_is_documented_and_every_metric_is_there_once() -> None:
    assert len(SPECS) == len({spec.name for spec in SPECS})
    assert {label for spec in SPECS for label in spec.labels} | {"le"} == set(LABELS)


def test_tenants_beyond_the_cap_share_a_series() -> None:
    metrics = Metrics(max_tenant_series=2)
    for tenant in ("a", "b", "c", "a", "d", ""):
        count(metrics, 1, tenant)
    found = {
        series: value for series, value in samples(metrics).items() if series.startswith("imagegate_images_total{")
    }
    assert {images("a"): 2.0, images("b"): 1.0, images(OTHER): 2.0, images(""): 1.0} == found


def test_a_thousand_tenants_beyond_the_cap_take_no_memory() -> None:
    metrics = Metrics(max_tenant_series=1)
    for number in range(1000):
        count(metrics, 1, f"tenant-{number}")
    assert {("m", "tenant-0", "u"), ("m", OTHER, "u")} == set(metrics.images._children)


def test_the_cap_holds_over_all_workers(start: Callable[..., Worker]) -> None:
    """Workers agree on the tenants within it, in whatever order each sees them."""
    workers = [start(10) for _ in range(3)]
    for number, worker in enumerate(workers):
        for tenant in range(20):
            worker.do(count, 1, f"tenant-{(tenant * 7 + number * 5) % 20}")
    found = {series: value for series, value in workers[0].samples().items() if series.startswith("imagegate_images")}
    assert 11 == len(found)
    assert {3.0} == {value for series, value in found.items() if OTHER not in series}
    assert 30.0 == found[images(OTHER)]


def test_two_workers_that_see_the_last_tenant_at_once_agree(tmp_path: Path) -> None:
    file = tmp_path / "tenants"
    left, right = TenantLabelCap(1, file), TenantLabelCap(1, file)
    file.write_text("b\na\n")  # both appended before either read
    assert (OTHER, "b") == (left.label("a"), right.label("b"))


def test_label_sets_beyond_the_cap_share_a_series_and_are_counted() -> None:
    metrics = Metrics()
    initial = [
        series for series in samples(metrics) if series.startswith(("imagegate_batch", "imagegate_event_deliveries"))
    ]
    surplus, free = 5, module._SERIES_MAX - len(initial)
    for number in range(free + surplus):
        metrics.fallbacks.labels(f"u{number}").inc()
    found = samples(metrics)
    counted = {series: value for series, value in found.items() if series.startswith("imagegate_fallbacks_total{")}
    assert free + 1 == len(counted)
    assert surplus == counted[f'imagegate_fallbacks_total{{upstream="{OTHER}"}}']
    assert surplus == found["imagegate_metric_series_dropped_total"]


def test_the_process_is_sampled() -> None:
    metrics = Metrics()
    ProcessCollector(metrics, {metrics.pending_settlements: lambda: 3}, lambda: 0.0).sample()
    found = samples(metrics)
    assert 3.0 == found["imagegate_pending_settlements"]
    if Path("/proc/self/statm").exists():
        assert found["process_resident_memory_bytes"] > 10_000_000
        assert found["process_open_fds"] >= 3


def test_the_files_of_a_worker_are_on_disk_before_it_counts(start: Callable[..., Worker], directory: Path) -> None:
    """A write to a memory map whose page finds no room on the disk would kill the process."""
    start()
    files = {path.name: path.stat() for path in directory.glob("*.db")}
    assert {"counter_0.db", "histogram_0.db", "gauge_livesum_0.db"} == set(files)
    assert {0o600} == {status.st_mode & 0o777 for status in files.values()}
    assert all(status.st_blocks * 512 >= 2**20 for status in files.values())
