"""Builds logging, tracing, metrics and the health endpoints."""

import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gateway import __version__
from gateway.api.dedicated_ports import DedicatedPort
from gateway.api.health import HealthRoutes
from gateway.api.middleware import Ids, SendSpans
from gateway.api.readiness import Readiness, RedisHealth
from gateway.api.request_log import RequestLogOptions
from gateway.api.scrape import Scrape
from gateway.api.shutdown import ShutdownState
from gateway.config import Settings, SettingsError
from gateway.generation.memory_budget import ByteBudget, return_freed_memory
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.observability.metrics import Metrics, ProcessCollector
from gateway.redis import Client
from gateway.redis.preflight import PreflightMonitor, write_refusal
from gateway.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the middleware logs and traces with, and its startup and shutdown steps."""

    ids: Ids
    log_options: RequestLogOptions
    send_spans: SendSpans | None = None
    starts: tuple[AsyncCallback, ...] = ()
    closes: tuple[AsyncCallback, ...] = ()


def build_telemetry(settings: Settings) -> Telemetry:
    """Raises: SettingsError if tracing is configured and its extra is not installed."""
    ids = Ids(lambda: f"req_{uuid.uuid4().hex}", lambda: uuid.uuid4().hex, lambda: secrets.token_hex(8))
    log_options = RequestLogOptions(settings.logs.prompts, settings.logs.client_address)
    endpoint = settings.tracing.otlp_endpoint
    if endpoint is None:
        return Telemetry(ids, log_options)
    try:
        from gateway.observability.tracing import SpanSender  # noqa: PLC0415 - an extra of hundreds of modules
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing.otlp_endpoint: needs the package {error.name}, which is not installed: "
            'pip install "imagegate[otel]", or take the setting out'
        ) from error
    sender = SpanSender(endpoint, settings.tracing.service_name, __version__, time.time_ns, time.monotonic)
    return Telemetry(ids, log_options, sender.send, (sender.start,), (sender.close,))


@dataclass(frozen=True, slots=True)
class Operations:
    """The routes of operators, and their background tasks."""

    routes: HealthRoutes
    background_tasks: tuple[AsyncCallback, ...]


def build_operations(
    redis: Client,
    metrics: Metrics,
    admission: Admission,
    scheduler: Scheduler,
    drain: ShutdownState,
    budget: ByteBudget,
    ports: Sequence[DedicatedPort],
) -> Operations:
    """Builds the health of this process, the metrics of all workers, and the background tasks that sample both."""
    preflight = PreflightMonitor(redis)
    sampled = {
        metrics.pending_settlements: lambda: admission.unsettled,
        metrics.held_bytes: lambda: budget.held_bytes,
        metrics.redis_breaker_open: lambda: int(redis.guard.breaker.is_open),
    }
    process = ProcessCollector(metrics, sampled, time.monotonic)
    health = RedisHealth(partial(write_refusal, redis), lambda: preflight.problems)
    readiness = Readiness(drain, health, scheduler, time.monotonic)
    scrape = Scrape(metrics.registry, process, scheduler, lambda: preflight.memory, __version__)
    return Operations(
        HealthRoutes(readiness, scrape, ports), (preflight.run, process.run, partial(return_freed_memory, budget))
    )
