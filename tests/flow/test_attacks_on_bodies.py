"""JSON that is a bomb, and texts that want to become headers, log lines or commands of a terminal."""

import gzip
import json
import logging

import pytest

from gateway.observability.logging import LogFormat
from tests.support.attack_vectors import BROKEN
from tests.support.harness import Gateway, MakeGateway, Simulator
from tests.support.logging_aside import logging_aside
from tests.support.strangers import ask, head, serves


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_broken_body_is_refused_and_buys_nothing(gateway: Gateway, simulator: Simulator, kind: str) -> None:
    answer = gateway.post("/v1/images/generations", BROKEN[kind])
    assert (400, None) == (answer.status_code, answer.json()["error"]["code"])
    assert answer.json()["error"]["message"].startswith("We could not parse ")
    native = gateway.post(
        "/v1/image_generation", BROKEN[kind].replace(b'{"prompt"', b'{"model":"image-01","prompt"', 1)
    )
    assert (200, 2013) == (native.status_code, native.json()["base_resp"]["status_code"])
    assert 0 == simulator.images_billed()
    assert serves(gateway)


@pytest.mark.shares_gateway
def test_of_a_field_that_stands_twice_the_last_counts_for_everything(gateway: Gateway, simulator: Simulator) -> None:
    """What is admitted, sent and charged is one and the same."""
    answer = gateway.post("/v1/images/generations", b'{"prompt":"a","n":9,"prompt":"b","n":2,"response_format":"url"}')
    assert 2 == len(answer.json()["data"]) == simulator.images_billed()
    (sent,) = simulator.requests()[-1:]
    assert ("b", 2) == (sent["body"]["prompt"], sent["body"]["n"])


@pytest.mark.shares_gateway
def test_a_long_text_is_refused_by_its_length(gateway: Gateway) -> None:
    answer = gateway.generate(prompt="a" * 900_000)
    assert (400, "string_above_max_length") == (answer.status_code, answer.json()["error"]["code"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, identity", "gzip, gzip"])
def test_a_packed_body_is_unpacked_up_to_its_limit(gateway: Gateway, simulator: Simulator, coding: str) -> None:
    """50 MB in 50 kB, or in 200 bytes."""
    packed = gzip.compress(b'{"prompt":"' + b"x" * 50_000_000 + b'"}')
    packed = gzip.compress(packed) if coding == "gzip, gzip" else packed
    answer = gateway.post("/v1/images/generations", packed, content_encoding=coding)
    assert (413, "request_too_large") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == simulator.requests()
    assert serves(gateway)


INJECTED = "x\r\nx-injected: 1\r\n\r\n"
FIELDS = ("prompt", "model", "size", "quality", "user", "style", "response_format", "background", INJECTED)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("field", FIELDS, ids=repr)
def test_no_field_of_a_body_becomes_a_header(gateway: Gateway, field: str) -> None:
    answer = gateway.post("/v1/images/generations", {"prompt": "a cat", "response_format": "url"} | {field: INJECTED})
    assert answer.status_code in {200, 400}
    assert "x-injected" not in answer.headers
    assert all(value.isprintable() for value in answer.headers.values())


HEADERS = ("x-request-id", "x-imagegate-max-wait", "traceparent", "tracestate", "origin", "user-agent")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", [b"a\rx-injected: 1", b"a\nx-injected: 1", b"a\0b", b"\x1b[2J"])
def test_a_header_with_control_characters_is_no_http(gateway: Gateway, name: str, value: bytes) -> None:
    reply = ask(gateway.url, head(b"GET /v1/models", name.encode() + b": " + value, key=gateway.api_key))
    if value.startswith(b"\x1b"):  # which HTTP forbids, and parsers let pass
        assert "\x1b" not in "".join(reply.headers.values())
    else:
        assert 400 == reply.status
    assert "x-injected" not in reply.headers


@pytest.mark.shares_gateway
@pytest.mark.parametrize("given", ["a b", "a" * 129, "../../etc/passwd", "\xe9", "a;b", '"', "<b>"])
def test_a_request_id_that_is_none_is_replaced(gateway: Gateway, given: str) -> None:
    reply = ask(gateway.url, head(b"GET /v1/models", f"x-request-id: {given}".encode("latin-1"), key=gateway.api_key))
    assert reply.headers["x-request-id"].startswith("req_")


EVIL = '\n{"event":"forged"}\r\n2026-01-01 forged=1\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2028\u0000\x7f'


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_one_request_is_one_line_that_no_terminal_obeys(make_gateway: MakeGateway, log_format: LogFormat) -> None:
    gateway = make_gateway(logs={"prompts": True})
    with logging_aside(log_format, "info") as log:
        assert 200 == gateway.generate(prompt=EVIL, response_format="url").status_code
        for field in ("model", "size", EVIL):
            assert 400 == gateway.generate(**({"prompt": "x"} | {field: EVIL})).status_code
        ask(gateway.url, head(b"GET /%0a%1b%5b2J" + b"%0d", key=gateway.api_key))
        ask(gateway.url, head(b"GET /v1/models", b"traceparent: \x1b[2J", b"x-forwarded-for: \x1b[2J", key="\x1b[2J"))
        ask(gateway.url, b"\x1b[2J\r\n\r\n")
        logging.getLogger("imagegate").info("last")
    found = log.text.split("\n")[:-1]
    assert [] == [line for line in found if not line.isprintable()]
    lines = [line for line in found if "redis_not_persistent" not in line]  # the gateway's own, soon after its start
    assert 8 == len(lines), lines
    assert 2 == len(
        [line for line in lines if "connections_rejected" in line]
    )  # what is no HTTP: once for each problem
    if log_format == "json":
        assert EVIL == json.loads(lines[0])["prompt"]
        assert "forged" not in {json.loads(line)["event"] for line in lines}
