"""One line per request: why was it slow, refused, expensive."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, new_key, upstream, wait_until
from tests.support.logging_aside import Log, logging_aside

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROMPT = "a lighthouse that nobody may hear of"
TIMES = ("admit_ms", "queue_ms", "upstream_ms", "settle_ms", "overhead_ms", "total_ms")


@pytest.fixture
def log() -> Iterator[Log]:
    with logging_aside() as aside:
        yield aside


def test_the_line_of_a_job_says_what_was_bought_for_whom_and_where_the_time_went(log: Log, gateway: Gateway) -> None:
    answer = gateway.generate(prompt=f"{PROMPT} [delay=0.2]", n=10)
    line = log.request(answer.headers["x-request-id"])
    times = {name: line.pop(name) for name in TIMES}
    calls, key_id, moment = line.pop("calls"), line.pop("key_id"), line.pop("timestamp")
    assert (10, True) == (len(key_id), moment.endswith("Z"))
    assert {
        "event": "request",
        "level": "info",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "route": "/v1/images/generations",
        "status": 200,
        "tenant": "acme",
        "model": "image-01",
        "stream": False,
        "images_requested": 10,
        "delivered": 10,
        "withheld": 0,
        "lost": 0,
        "unconfirmed": 0,
        "settlement": "delivered",
        "usd": "0.035",
        "attempts": 2,
    } == line
    assert [1, 9] == sorted(call.pop("images") for call in calls)
    assert all(call.pop("ms") >= 200 for call in calls)
    assert all(call.pop("key").startswith("fp-") for call in calls)
    assert [{"upstream": "sim", "account": "main"}] * 2 == calls
    assert times["upstream_ms"] >= 200
    assert (
        times["total_ms"] + 2
        >= times["queue_ms"] + times["upstream_ms"] + times["overhead_ms"]
        >= times["total_ms"] - 2
    )
    assert times["overhead_ms"] + 2 >= times["admit_ms"] + times["settle_ms"]


def test_each_call_tells_where_it_went_and_why_it_failed(
    log: Log, make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gone = upstream("gone", "minimax", "http://127.0.0.1:1", "a:a-1")
    gateway = make_gateway(gone, upstream("sim", "302ai", simulator.url, "b:b-1"))
    answer = gateway.generate(prompt=PROMPT)
    line = log.request(answer.headers["x-request-id"])
    first, *_, last = line["calls"]
    assert ("gone", "a", "connect_failed") == (first["upstream"], first["account"], first["error_code"])
    assert ("sim", "b", None) == (last["upstream"], last["account"], last.get("error_code"))
    assert (200, 1, 1) == (line["status"], line["attempts"], line["delivered"])


def test_what_was_withheld_is_said_and_not_charged(log: Log, gateway: Gateway) -> None:
    answer = gateway.generate(prompt=f"{PROMPT} [fail=1]", n=3)
    line = log.request(answer.headers["x-request-id"])
    assert (3, 2, 1, "0.007") == (line["images_requested"], line["delivered"], line["withheld"], line["usd"])


def test_an_order_without_an_answer_is_unconfirmed_and_charged(log: Log, gateway: Gateway) -> None:
    answer = gateway.generate(prompt=f"{PROMPT} [http=502]")
    line = log.request(answer.headers["x-request-id"])
    assert (1, "unconfirmed", "0.0035") == (line["unconfirmed"], line["settlement"], line["usd"])
    assert ("warning", "invalid_response", "invalid_response") == (
        line["level"],
        line["error_code"],
        line["calls"][0]["error_code"],
    )


def test_a_refusal_says_which_limit_it_met(log: Log, gateway: Gateway) -> None:
    slow = Gateway(gateway.url, new_key(gateway.url, "slow", limits={"images_per_minute": 2}))
    assert 200 == slow.generate(prompt=PROMPT, n=2).status_code
    refused = slow.generate(prompt=PROMPT, n=2)
    line = log.request(refused.headers["x-request-id"])
    assert (429, "slow", "rate_limited") == (line["status"], line["tenant"], line["error_code"])
    assert "images" in line["detail"]
    assert ([], 0) == (line["calls"], line["attempts"])
    assert "usd" not in line


def test_a_mistake_names_its_field_and_does_not_repeat_its_value(log: Log, gateway: Gateway) -> None:
    answer = gateway.generate(prompt=PROMPT, size="canaryofasize")
    line = log.request(answer.headers["x-request-id"])
    assert (400, "size") == (line["status"], line["param"])
    assert "canaryofasize" not in log.text


@pytest.mark.parametrize("name", ["https://faces.example/?sig=canary", "a canary of words", "canary" * 11, "canary\n"])
def test_the_name_of_an_unknown_field_is_logged_only_where_it_looks_like_one(
    log: Log, gateway: Gateway, name: str
) -> None:
    answer = gateway.generate(prompt=PROMPT, **{name: 1})
    assert answer.json()["error"]["param"].startswith(name[:64])
    assert (400, "?") == tuple(log.request(answer.headers["x-request-id"])[field] for field in ("status", "param"))
    assert "canary" not in log.text
    known = gateway.generate(prompt=PROMPT, **{"extra_body.x-1[0]": 1})
    assert "extra_body.x-1[0]" == log.request(known.headers["x-request-id"])["param"]


def test_a_stream_and_a_request_without_a_job_are_told_apart(log: Log, gateway: Gateway) -> None:
    streamed = gateway.generate(prompt=PROMPT, model="gpt-image-1", stream=True)
    assert log.request(streamed.headers["x-request-id"])["stream"] is True
    listed = log.request(gateway.get("/v1/models").headers["x-request-id"])
    assert {"stream", "images_requested", "calls", "client", "prompt", "trace_id"}.isdisjoint(listed)


def test_prompts_and_addresses_are_told_only_where_a_setting_says_so(log: Log, make_gateway: MakeGateway) -> None:
    answer = make_gateway().generate(prompt=PROMPT)
    assert {"prompt", "client"}.isdisjoint(log.request(answer.headers["x-request-id"]))
    assert PROMPT not in log.text
    telling = make_gateway(logs={"prompts": True, "client_address": True})
    line = log.request(telling.generate(prompt="é" * 600).headers["x-request-id"])
    assert ("é" * 500, "127.0.0.1") == (line["prompt"], line["client"])


def test_a_trace_is_logged_and_passed_on_with_the_call_as_its_parent(
    log: Log, gateway: Gateway, simulator: Simulator
) -> None:
    answer = gateway.post(
        "/v1/images/generations",
        {"prompt": PROMPT, "n": 10},
        traceparent=f"00-{TRACE}-{PARENT}-00",
        tracestate="vendor=1",
    )
    line = log.request(answer.headers["x-request-id"])
    assert TRACE == line["trace_id"]
    sent = [request["headers"] for request in simulator.requests()]
    spans = {call["span_id"] for call in line["calls"]}
    assert 2 == len(spans - {PARENT})
    assert {f"00-{TRACE}-{span}-00" for span in spans} == {headers["traceparent"] for headers in sent}
    assert {"vendor=1"} == {headers["tracestate"] for headers in sent}


@pytest.mark.parametrize("given", ["", "garbage", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_malformed_trace_is_ignored(log: Log, gateway: Gateway, simulator: Simulator, given: str) -> None:
    answer = gateway.post("/v1/images/generations", {"prompt": PROMPT}, traceparent=given, tracestate="vendor=1")
    assert 200 == answer.status_code
    assert "trace_id" not in log.request(answer.headers["x-request-id"])
    (sent,) = simulator.requests()
    assert {"traceparent", "tracestate"}.isdisjoint(sent["headers"])


def test_a_trace_does_not_stay_for_the_next_request_of_a_connection(log: Log, gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        first = client.get("/v1/nope", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        second = client.get("/v1/nope")
    assert TRACE == log.request(first.headers["x-request-id"])["trace_id"]
    assert "trace_id" not in log.request(second.headers["x-request-id"])


def test_the_readable_form_has_a_line_per_event_and_nothing_that_a_terminal_obeys(make_gateway: MakeGateway) -> None:
    with logging_aside("console", "info") as log:
        gateway = make_gateway(logs={"prompts": True})
        gateway.generate(prompt="first\n\x1b[31m\x9b2J\r\u202esecond")
        gateway.generate(prompt="third")
        wait_until(lambda: 2 == log.text.count("/v1/images/generations"), "both lines are written")
    lines = [line for line in log.text.splitlines() if "/v1/images/generations" in line]
    assert 2 == len(lines)
    assert [] == [character for character in log.text if not character.isprintable() and character != "\n"]
    assert all("calls='sim/main fp-" in line for line in lines)


def test_a_level_leaves_out_what_is_below_it(make_gateway: MakeGateway) -> None:
    with logging_aside("json", "warning") as log:
        gateway = make_gateway()
        assert 200 == gateway.get("/v1/models").status_code
        assert 502 == (failed := gateway.generate(prompt="[http=502]")).status_code
        assert 502 == log.request(failed.headers["x-request-id"])["status"]
    assert "/v1/models" not in log.text
