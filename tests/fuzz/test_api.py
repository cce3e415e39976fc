"""Every operation of /openapi.json under requests that are nearly right and far from it, of the program as served.

The strategies are our own, over our own document: schemathesis is well kept but brings a dozen packages and an HTTP
client that cannot send what matters most here, bytes that are no valid request, and hypothesis-jsonschema has had no
release since 2024.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.minimax import PATHS, TEXTS
from gateway.domain.errors import ERROR_SPECS, ErrorCode
from tests.fuzz.book import Answer, Book, booking
from tests.fuzz.plans import Hostility, endless, quick
from tests.fuzz.requests import SEEDS, Sent, requests
from tests.fuzz.schemas import OPERATIONS, Operation
from tests.support.harness import Simulator
from tests.support.hostile import Hostile, hostile
from tests.support.profile import fuzzing
from tests.support.strangers import resident_mb

ERRORS: Final = {(row.status, row.type, row.code) for row in ERROR_SPECS.values()} | {
    (400, "image_generation_user_error", "moderation_blocked")
}
NEVER: Final = {(500, "server_error", "internal_error"), (499, "invalid_request_error", "client_closed_request")}
TOLD_IN_THE_HEAD: Final = frozenset({404, 405, 431})
"""Of every path, says the document."""
NOT_HTTP: Final = ERROR_SPECS[ErrorCode.MALFORMED_HTTP]
"""What is no request is answered before there is an operation."""
GROWTH_MAX_MB: Final = 150
"""All these requests together, with the bodies of the largest; none of them may cost what it claims to be."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture(scope="module")
def book(one_simulator: Simulator, upstream: Hostile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    with booking(tmp_path_factory.mktemp("f"), one_simulator, {"dark": upstream.url}) as running:
        before_mb = resident_mb(running.pid)
        yield running
        running.revive()
        assert 200 == running.serves()
        assert resident_mb(running.pid) - before_mb < GROWTH_MAX_MB


def check_openai_error(answer: Answer) -> tuple[int, str, str | None]:
    """An error of the table, in OpenAI's envelope."""
    document = json.loads(answer.body)
    assert {"error"} == set(document)
    told = document["error"]
    assert (
        {"message", "type", "param", "code"} <= set(told) <= {"message", "type", "param", "code", "moderation_details"}
    )
    assert isinstance(told["message"], str)
    assert told["message"]
    assert told["param"] is None or isinstance(told["param"], str)
    stated = (answer.status, told["type"], told["code"])
    assert stated in ERRORS - NEVER
    return stated


def check_native(answer: Answer) -> None:
    told = json.loads(answer.body)["base_resp"]
    assert {"status_code", "status_msg"} == set(told)
    assert told["status_code"] in {0, *TEXTS}


def check_envelope(sent: Sent, answer: Answer) -> None:
    """The body is what its status and its wire say."""
    path = sent.target.partition(b"?")[0].decode("latin-1")
    if sent.method in {b"HEAD", b"OPTIONS"}:
        return
    if answer.status == 503 and path == "/readyz":
        assert "unavailable" == json.loads(answer.body)["status"]
    elif answer.status >= 400:
        stated = check_openai_error(answer)
        if sent.method == b"POST" and path in PATHS:
            assert stated in {(400, NOT_HTTP.type, NOT_HTTP.code), (431, "invalid_request_error", "headers_too_large")}
    elif sent.method == b"POST" and path in PATHS:
        check_native(answer)
    elif answer.headers["content-type"].startswith("application/json"):
        assert isinstance(json.loads(answer.body), dict)


def check_status(sent: Sent, answer: Answer) -> None:
    """It is one that the document gives for the operation."""
    assert answer.status < 300 or answer.status >= 400
    is_its_own = sent.method == sent.operation.method.encode() and sent.is_plain
    if is_its_own and answer.status >= 400 and NOT_HTTP.message.encode() not in answer.body:
        assert answer.status in sent.operation.statuses | TOLD_IN_THE_HEAD


def check_secrecy(book: Book, answer: Answer) -> None:
    request_id = answer.headers["x-request-id"]
    assert 1 <= len(request_id) <= 128
    news = book.logged(request_id)
    leaked = [secret for secret in book.canaries if secret in answer.raw or secret in news.encode()]
    assert [] == leaked
    assert [] == [word for word in ("internal_error", "Traceback", '"level": "error"') if word in news]


def check(book: Book, sent: Sent) -> None:
    answer = book.send(sent)
    assert answer.status
    check_envelope(sent, answer)
    check_status(sent, answer)
    check_secrecy(book, answer)
    if b"[" in sent.body:
        book.revive()


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
@given(st.data())
@fuzzing(20)
def test_every_request_is_answered_with_what_the_document_says_and_no_secret(
    book: Book, operation: Operation, data: st.DataObject
) -> None:
    check(book, data.draw(requests(operation)))


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.path in SEEDS], ids=repr)
@given(st.data())
@fuzzing(150)
def test_every_request_for_images_is_answered_so(book: Book, operation: Operation, data: st.DataObject) -> None:
    check(book, data.draw(requests(operation)))


@given(st.sampled_from(("url", "b64_json")), st.booleans(), st.one_of(quick, quick, quick, endless()))
@fuzzing(60)
def test_no_answer_of_an_upstream_makes_an_answer_that_is_none_or_tells_a_secret(
    book: Book, upstream: Hostile, delivery: str, is_stream: bool, case: Hostility
) -> None:
    book.revive()
    upstream.begin(case.plan)
    wanted = {"response_format": delivery} | ({"stream": True} if is_stream and delivery == "b64_json" else {})
    reply = book.post("/v1/images/generations", {"model": "dark", "prompt": "a cat"} | wanted, book.keys["acme"])
    answer = Answer(reply.status_code, reply.headers, reply.content, str(reply.headers).encode() + reply.content)
    if answer.status != 200:
        check_openai_error(answer)
    check_secrecy(book, answer)
