"""A gateway with storage: what it says of itself, and what becomes of a tenant's objects."""

import time
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import redis

from gateway.storage.pictures import object_name, tag_of
from tests.support.batching import begin, line, read, wait
from tests.support.harness import Gateway, MakeGateway, new_key, wait_until
from tests.support.sdks import sdk


def test_expired_objects_go_and_the_metrics_tell(make_gateway: MakeGateway, tmp_path: Path) -> None:
    hour_s = int(time.time()) // 3600 * 3600
    paths = [
        tmp_path / object_name("pictures", at_s, tag_of("acme"), ".jpg") for at_s in (hour_s - 3600, hour_s + 7200)
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    gateway = make_gateway(storage={"url": tmp_path.as_uri()})
    wait_until(lambda: not paths[0].exists(), "the reaper deletes what has expired")
    assert paths[1].exists()
    metrics = gateway.get("/metrics").text
    assert 'imagegate_storage_operations_total{operation="delete",result="ok"}' in metrics
    assert 'imagegate_storage_breaker_open{access="write"} 0.0' in metrics
    assert 200 == gateway.generate(prompt="a lake", response_format="b64_json").status_code


def test_a_deleted_tenants_objects_are_to_be_erased_and_a_disabled_ones_are_not(
    make_gateway: MakeGateway, tmp_path: Path, redis_url: str
) -> None:
    gateway = make_gateway(storage={"url": tmp_path.as_uri()})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset("ig3:{acme}:stored", mapping={"4000000": 5, "5": 3})
        assert 5 == gateway.admin("GET", "/tenants/acme").json()["used"]["stored_bytes"]
        assert 200 == gateway.admin("PATCH", "/tenants/acme", {"disabled": True}).status_code
        assert set() == client.smembers("ig3:erased_tenants")
        assert gateway.admin("DELETE", "/tenants/acme").json()["disabled"]
        [erasure] = client.smembers("ig3:erased_tenants")
        assert "acme" == str(erasure).partition(" ")[2]
        assert int(time.time()) <= gateway.admin("GET", "/tenants/acme").json()["erasing_since"] + 1
        assert client.ttl("ig3:erased_tenants") > 30 * 24 * 3600


def test_what_a_deleted_tenant_had_begun_stores_nothing_and_its_batches_end(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    gateway = make_gateway(storage={"url": tmp_path.as_uri()}, images={"links": "gateway"})
    client = sdk(gateway.base_url, new_key(gateway.url, "gone", quotas={"images_per_month": 1}))
    begun = Thread(target=lambda: client.images.generate(prompt="[delay=2] a dog", model="image-01"))
    begun.start()
    wait_until(lambda: shown(gateway)["used"]["open_requests"] == 1, "it is sent")
    batch = begin(client, [line("a")])  # the quota pauses it
    wait(client, batch, "in_progress")
    assert gateway.admin("DELETE", "/tenants/gone").json()["erasing_since"]
    wait_until(lambda: not shown(gateway)["used"]["open_requests"], "it is settled")
    begun.join()
    assert [] == list(tmp_path.glob(f"pictures/*/{tag_of('gone')}/*"))
    assert 1 == gateway.admin("GET", "/usage?tenant=gone").json()["total"]["images"]

    def has_ended() -> bool:
        return bool(gateway.admin("GET", f"/tenants/gone/batches/{batch.id}").json()["status"] == "cancelled")

    wait_until(has_ended, "the batch ends")
    assert shown(gateway)["erasing_since"]  # the next rounds delete what it left


def shown(gateway: Gateway) -> dict[str, Any]:
    body: dict[str, Any] = gateway.admin("GET", "/tenants/gone").json()
    return body


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_the_pictures_of_a_deleted_output_file_are_deleted(
    make_gateway: MakeGateway, tmp_path: Path, form: str
) -> None:
    gateway = make_gateway(storage={"url": tmp_path.as_uri()}, images={"links": "gateway"})
    client = sdk(gateway.base_url, new_key(gateway.url, "gone"))
    kept = client.images.generate(prompt="a dog", model="image-01").data
    ended = wait(client, begin(client, [line(str(number), response_format=form) for number in range(3)]))
    assert ended.output_file_id
    assert kept
    assert kept[0].url
    [first, *_] = read(client, ended.output_file_id).values()
    assert 4 == len(list(tmp_path.glob("pictures/*/*/*")))
    before = shown(gateway)["used"]["stored_bytes"]
    assert client.files.delete(ended.output_file_id).deleted
    [left] = tmp_path.glob("pictures/*/*/*")
    assert before - shown(gateway)["used"]["stored_bytes"] > 2 * left.stat().st_size
    assert 200 == httpx.get(kept[0].url).status_code
    if form == "url":
        assert 404 == httpx.get(first["response"]["body"]["data"][0]["url"]).status_code


def test_a_tenants_own_terms_are_set_shown_and_removed(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    made = gateway.admin("POST", "/tenants", {"name": "b", "keep_hours": 48, "storage_bytes": 0}).json()
    assert (48, 0) == (made["keep_hours"], made["storage_bytes"])
    changed = gateway.admin("PATCH", "/tenants/b", {"keep_hours": 720}).json()
    assert (720, 0) == (changed["keep_hours"], changed["storage_bytes"])
    assert 200 == gateway.admin("PATCH", "/tenants/b", {"keep_hours": None, "storage_bytes": None}).status_code
    shown = gateway.admin("GET", "/tenants/b").json()
    assert (None, None) == (shown["keep_hours"], shown["storage_bytes"])
    for field, value in (("keep_hours", 0), ("keep_hours", 721), ("storage_bytes", -1), ("keep_hours", "1")):
        refused = gateway.admin("PATCH", "/tenants/b", {field: value})
        assert (400, field) == (refused.status_code, refused.json()["error"]["param"])
