"""Spans, as a real collector gets them; and that nobody pays for them who does not want them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.middleware import RequestContextMiddleware
from gateway.api.request_log import Telemetry
from gateway.api.shutdown import ShutdownState
from gateway.generation.memory_budget import ByteBudget
from gateway.observability.metrics import Metrics
from tests.support.harness import ADMIN_KEY, Gateway, Simulator, document, gatewaying, serving, upstream
from tests.support.logging_aside import logging_aside

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROMPT = "a lighthouse that nobody may hear of"
ROUTE = "POST /v1/images/generations"


@dataclass
class Collector:
    """Takes OTLP over HTTP."""

    url: str = ""
    raw: list[bytes] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.raw.append(await request.body())
        return Response(b"", media_type="application/x-protobuf")

    @property
    def spans(self) -> list[Span]:
        batches = [ExportTraceServiceRequest.FromString(raw) for raw in self.raw]
        scopes = [scope for batch in batches for part in batch.resource_spans for scope in part.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def jobs(self) -> list[Span]:
        """The spans of the traces in which images were made, in the order of their beginnings."""
        traces = {span.trace_id for span in self.spans if span.name == ROUTE}
        return sorted(
            (span for span in self.spans if span.trace_id in traces), key=lambda span: span.start_time_unix_nano
        )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    with serving(Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])) as url:
        collector.url = url
        yield collector


@pytest.fixture
def tracing(stack: ExitStack, redis_url: str, simulator: Simulator, collector: Collector) -> Gateway:
    """A gateway that sends its spans; what it has not sent comes when the stack is closed."""
    configured = document(
        redis_url,
        upstream("sim", "minimax", simulator.url),
        tracing={"otlp_endpoint": collector.url, "service_name": "pictures"},
    )
    return stack.enter_context(gatewaying(configured))


def attributes(span: Span) -> dict[str, str | int]:
    return {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}


def test_a_request_is_a_trace_of_its_parts(
    tracing: Gateway, stack: ExitStack, collector: Collector, simulator: Simulator
) -> None:
    answer = tracing.post(
        "/v1/images/generations", {"prompt": PROMPT, "n": 10}, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="v=1"
    )
    sent = {request["headers"]["traceparent"] for request in simulator.requests()}
    stack.close()
    first, *parts = collector.jobs()
    assert (ROUTE, PARENT, Span.SPAN_KIND_SERVER) == (first.name, first.parent_span_id.hex(), first.kind)
    assert {TRACE} == {span.trace_id.hex() for span in (first, *parts)}
    assert {"v=1"} == {span.trace_state for span in (first, *parts)}
    assert {first.span_id} == {part.parent_span_id for part in parts}
    assert ["admit", "attempt", "attempt", "queue", "queue", "settle"] == sorted(part.name for part in parts)
    assert sent == {f"00-{TRACE}-{part.span_id.hex()}-01" for part in parts if part.name == "attempt"}
    for part in parts:
        assert first.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= first.end_time_unix_nano
    told = attributes(first)
    assert 10 == len(str(told.pop("imagegate.key_id")))
    assert {
        "http.request.method": "POST",
        "http.route": "/v1/images/generations",
        "http.response.status_code": 200,
        "imagegate.request_id": answer.headers["x-request-id"],
        "imagegate.tenant": "acme",
        "imagegate.model": "image-01",
        "imagegate.images_asked": 10,
        "imagegate.images_delivered": 10,
        "imagegate.usd": "0.035",
    } == told
    assert b"pictures" in collector.raw[0]


def test_a_trace_begins_here_where_none_came(
    tracing: Gateway, stack: ExitStack, collector: Collector, simulator: Simulator
) -> None:
    with logging_aside() as log:
        answers = [tracing.generate(prompt=PROMPT) for _ in range(2)]
        logged = [log.request(answer.headers["x-request-id"])["trace_id"] for answer in answers]
    stack.close()
    firsts = [span for span in collector.jobs() if span.name == ROUTE]
    assert logged == [span.trace_id.hex() for span in firsts]
    assert [b"", b""] == [span.parent_span_id for span in firsts]
    assert logged == [request["headers"]["traceparent"].split("-")[1] for request in simulator.requests()]
    assert 2 == len(set(logged))


def test_what_failed_is_marked_with_its_fault(tracing: Gateway, stack: ExitStack, collector: Collector) -> None:
    assert 502 == tracing.generate(prompt=f"{PROMPT} [garbage]").status_code
    stack.close()
    failed = {span.name: attributes(span)["error.type"] for span in collector.jobs() if span.status.code}
    assert {ROUTE: "unexpected_response", "attempt": "unexpected_response"} == failed
    assert {Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET} == {span.status.code for span in collector.jobs()}


def test_no_span_holds_a_prompt_or_a_secret(tracing: Gateway, stack: ExitStack, collector: Collector) -> None:
    for word in ("", "[code=1004]", "[http=500]", "[garbage]", "[code=1026]"):
        tracing.generate(prompt=f"{PROMPT} {word}")
    tracing.post("/v1/images/generations", {"prompt": PROMPT, "size": PROMPT})
    stack.close()
    assert collector.jobs()
    secrets = (PROMPT, tracing.api_key, tracing.api_key[-16:], ADMIN_KEY, "main-1", "Bearer")
    assert [] == [secret for secret in secrets if secret.encode() in b"".join(collector.raw)]


def test_a_caller_that_keeps_no_trace_gets_none_and_probes_are_not_traced(
    tracing: Gateway, stack: ExitStack, collector: Collector
) -> None:
    tracing.post("/v1/images/generations", {"prompt": PROMPT}, traceparent=f"00-{TRACE}-{PARENT}-00")
    tracing.get("/healthz")
    tracing.get("/metrics")
    stack.close()
    assert [] == collector.jobs()
    assert [] == [span.name for span in collector.spans if "healthz" in span.name or "metrics" in span.name]


def test_a_collector_that_is_away_costs_no_request(redis_url: str, simulator: Simulator) -> None:
    configured = document(
        redis_url, upstream("sim", "minimax", simulator.url), tracing={"otlp_endpoint": "http://127.0.0.1:1"}
    )
    with gatewaying(configured) as gateway:
        assert [200] * 5 == [gateway.generate(prompt=PROMPT).status_code for _ in range(5)]


def run(code: str, directory: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Python, with a configuration whose tracing has this endpoint."""
    config = directory / "imagegate.toml"
    config.write_text(
        f"[server]\nport = 0\n[tracing]\n{endpoint}\n"
        '[[upstreams]]\nname = "sim"\nprovider = "minimax"\nbase_url = "http://127.0.0.1:1"\n'
        '[[upstreams.accounts]]\nname = "a"\n[[upstreams.accounts.keys]]\nname = "a-1"\nsecret = { env = "KEY" }\n'
        '[[models]]\nid = "image-01"\nprice_per_image_usd = "0.0035"\n'
        '[[models.targets]]\nupstream = "sim"\nmodel = "image-01"\n'
    )
    environ = os.environ | {"KEY": "sk-7f3e9a1c5b2d", "IMAGEGATE_CONFIG": str(config)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


BUILD = """
import os, sys
from gateway.app import create_app
from gateway.config import load
from gateway.config.resolve import resolve
create_app(resolve(load(None, os.environ), os.environ))
tracing = ("gateway.observability.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter")
ours = (*tracing, "google.protobuf", "requests")
print([name for name in ours if name in sys.modules])
"""
SERVE_WITHOUT_THE_EXTRA = """
import sys
sys.modules["opentelemetry"] = None
from gateway.cli import main
sys.argv = ["imagegate", "serve"]
main()
"""


@pytest.mark.slow
def test_nothing_is_loaded_for_it_while_it_is_off(tmp_path: Path) -> None:
    """Although the extra is installed. redis-py looks for OpenTelemetry's metrics by itself."""
    assert "[]" == run(BUILD, tmp_path, "").stdout.strip()
    assert "gateway.observability.tracing" in run(BUILD, tmp_path, 'otlp_endpoint = "http://127.0.0.1:1"').stdout


@pytest.mark.anyio
async def test_no_request_makes_an_id_or_a_span_while_it_is_off() -> None:
    made: list[str] = []

    def make() -> str:
        made.append("id")
        return "0" * 16

    observing = Telemetry(lambda: "req_1", make, make)
    scope_of = RequestContextMiddleware(
        Response("ok"), Metrics(), time.monotonic, observing, ShutdownState(), ByteBudget(1000)
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(scope_of), base_url="http://test") as client:
        assert [200] * 3 == [(await client.get("/")).status_code for _ in range(3)]
        assert [] == made
        await client.get("/", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert ["id"] == made


def test_tracing_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    ended = run(SERVE_WITHOUT_THE_EXTRA, tmp_path, 'otlp_endpoint = "http://127.0.0.1:1"')
    assert 1 == ended.returncode
    assert "tracing.otlp_endpoint" in ended.stderr
    assert 'pip install "imagegate[otel]"' in ended.stderr
    assert "Traceback" not in ended.stderr
