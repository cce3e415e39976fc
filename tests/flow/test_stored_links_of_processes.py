"""The gateway's own links over processes and their deaths, and from a bucket."""

import asyncio
import io
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.support.harness import Gateway, MakeGateway, Simulator, new_key
from tests.support.processes import log_of, start_gateway, write_configuration
from tests.support.storing import BUCKET, in_bucket, opened, s3_server

pytestmark = pytest.mark.slow


def tables_of(url: str, **options: object) -> dict[str, dict[str, object]]:
    storage = {"url": f"s3://{BUCKET}/gateway", "endpoint": url, "region": "us-east-1", **options}
    return {"storage": storage, "images": {"links": "gateway"}}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


async def delete_pictures(url: str) -> None:
    objects = opened(in_bucket(url, "gateway"))
    await objects.delete([found.name async for found in objects.list("pictures")])


def link_of(answer: httpx.Response) -> str:
    assert 200 == answer.status_code, answer.text
    url: str = answer.json()["data"][0]["url"]
    return url


def test_a_link_outlives_its_process_and_no_log_has_its_signature(
    redis_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    more = f'[storage]\nurl = "{(tmp_path / "files").as_uri()}"\n[images]\nlinks = "gateway"\n'
    configuration = write_configuration(tmp_path, redis_url, simulator.url, more=more)
    first, url = start_gateway(configuration)
    try:
        gateway = Gateway(url, new_key(url))
        link = link_of(gateway.generate(prompt="a cat", response_format="url"))
        image = httpx.get(link, verify=False).content
    finally:
        first.kill()
        first.wait()
    second, other = start_gateway(configuration, secrets={"IMAGEGATE_LOGS__LEVEL": "debug"})
    try:
        path, query = urlsplit(link).path, urlsplit(link).query
        assert image == httpx.get(f"{other}{path}?{query}", verify=False).content
        assert 403 == httpx.get(f"{other}{path}?{query}x", verify=False).status_code
        assert 404 == httpx.get(f"{other}/nowhere?{query}", verify=False).status_code
    finally:
        second.kill()
        second.wait()
    lines = log_of(configuration)
    assert {200, 403} <= {line.get("status") for line in lines if line.get("route") == "/files/{id}.{extension}"}
    text = json.dumps(lines)
    assert [] == [secret for secret in (query.rpartition("=")[2], "signature", "expires=") if secret in text]


@pytest.mark.usefixtures("bucket")
def test_a_bucket_serves_the_images_to_which_the_gateway_redirects(make_gateway: MakeGateway, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3.log") as s3:
        gateway = make_gateway(**tables_of(s3, redirect=True))
        link = link_of(gateway.generate(prompt="a cat", response_format="url", output_format="webp"))
        told = httpx.get(link, verify=False)
        assert (302, "private, max-age=150") == (told.status_code, told.headers["cache-control"])
        assert told.headers["location"].startswith(f"{s3}/{BUCKET}/gateway/pictures/")
        found = httpx.get(told.headers["location"], verify=False)
        assert (200, "image/webp") == (found.status_code, found.headers["content-type"])
        assert "WEBP" == Image.open(io.BytesIO(found.content)).format
        head = httpx.head(link, verify=False)
        assert (200, str(len(found.content))) == (head.status_code, head.headers["content-length"])
        assert 403 == httpx.get(f"{link}x", verify=False).status_code


@pytest.mark.usefixtures("bucket")
def test_a_bucket_has_ranges_and_says_what_is_deleted(make_gateway: MakeGateway, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3.log") as s3:
        gateway = make_gateway(**tables_of(s3))
        link = link_of(gateway.generate(prompt="a cat", response_format="url"))
        whole = httpx.get(link, verify=False).content
        for wanted, expected in (("bytes=5-9", whole[5:10]), ("bytes=-7", whole[-7:]), ("bytes=9-", whole[9:])):
            part = httpx.get(link, headers={"range": wanted}, verify=False)
            assert (206, expected) == (part.status_code, part.content)
        behind = httpx.get(link, headers={"range": "bytes=99999999-"}, verify=False)
        assert (416, f"bytes */{len(whole)}") == (behind.status_code, behind.headers["content-range"])
        asyncio.run(delete_pictures(s3))
        assert 404 == httpx.get(link, verify=False).status_code


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_never_responds_costs_no_request(make_gateway: MakeGateway, simulator: Simulator) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        gateway = make_gateway(**tables_of(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5))
        for _ in range(3):
            answer = gateway.generate(prompt="a cat", response_format="url")
            assert link_of(answer).startswith(simulator.url)
            assert "provider" == answer.headers["x-imagegate-links"]
        answer = gateway.generate(prompt="a cat", response_format="b64_json")
        assert (200, None) == (answer.status_code, answer.headers.get("x-imagegate-links"))
