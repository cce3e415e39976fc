"""Uploads that are wrong, repeated, too many or too large, or that break off, and what is left of them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.filing import PURPOSE, Place, empty, expiry, file, place_for_files
from tests.support.forms import BOUNDARY, form, part
from tests.support.harness import Gateway, MakeGateway, new_key, wait_until
from tests.support.memory import MB, held
from tests.support.strangers import connected, replies


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_for_files(tmp_path_factory) as found:
        yield found


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    yield shared
    empty(shared)


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
