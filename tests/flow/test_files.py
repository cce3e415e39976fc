"""Files as OpenAI's SDKs send them: uploaded in any order of parts, listed, read by ranges and deleted."""

import gzip
import io
from collections.abc import Iterator
from typing import Final

import httpx
import openai
import pytest

from tests.support.filing import LINES, PURPOSE, Place, authorization, empty, expiry, file, place_for_files
from tests.support.forms import BOUNDARY, form
from tests.support.harness import Gateway
from tests.support.memory import MB
from tests.support.sdks import closing

DAYS_30: Final = 30 * 86_400


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_for_files(tmp_path_factory) as found:
        yield found


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    yield shared
    empty(shared)


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


@pytest.mark.parametrize("wanted", ["0-0", "0-", "-5", "5-"])
def test_an_empty_file_has_no_range(place: Place, wanted: str) -> None:
    sent = form(file(b""), PURPOSE)
    made = place.gateway.post("/v1/files", sent, content_type=f"multipart/form-data; boundary={BOUNDARY}").json()
    path = f"/v1/files/{made['id']}/content"
    found = place.gateway.get(path, range=f"bytes={wanted}")
    assert (416, "bytes */0") == (found.status_code, found.headers["content-range"])
    assert (200, b"") == ((whole := place.gateway.get(path)).status_code, whole.content)


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


def test_addresses_and_keys_of_azures_clients_work(place: Place) -> None:
    client = openai.AzureOpenAI(
        base_url=f"{place.gateway.url}/openai",
        api_key=place.gateway.api_key,
        api_version="2024-10-21",
        http_client=closing(),
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
