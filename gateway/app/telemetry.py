"""Builds logging, tracing, metrics and the health endpoints."""

import secrets
import time
import uuid
from collections.abc import Sequence
from functools import partial

from gateway import __version__
from gateway.api.health import HealthRoutes
from gateway.api.middleware import DedicatedPort
from gateway.api.request_log import Telemetry
from gateway.api.scrape import Scrape
from gateway.api.shutdown import ShutdownState
from gateway.config import Settings, SettingsError
from gateway.generation.memory_budget import ByteBudget, return_freed_memory
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.observability.metrics import Metrics
from gateway.observability.process import ProcessCollector
from gateway.redis import Client
from gateway.redis.preflight import PreflightMonitor, write_refusal
from gateway.scheduler import Scheduler


def build_telemetry(settings: Settings) -> tuple[Telemetry, tuple[AsyncCallback, ...], tuple[AsyncCallback, ...]]:
    """Returns what the middleware logs and traces with, and its startup and shutdown steps.

    Raises: SettingsError if tracing is configured and its extra is not installed.
    """
    build = partial(
        Telemetry,
        lambda: f"req_{uuid.uuid4().hex}",
        lambda: uuid.uuid4().hex,
        lambda: secrets.token_hex(8),
        settings.logs.prompts,
        settings.logs.client_address,
    )
    endpoint = settings.tracing.otlp_endpoint
    if endpoint is None:
        return build(), (), ()
    try:
        from gateway.observability.tracing import SpanSender  # noqa: PLC0415 - an extra of hundreds of modules
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing.otlp_endpoint: needs the package {error.name}, which is not installed: "
            'pip install "imagegate[otel]", or take the setting out'
        ) from error
    sender = SpanSender(endpoint, settings.tracing.service_name, __version__, time.time_ns, time.monotonic)
    return build(sender.send), (sender.start,), (sender.close,)


def build_operations(
    redis: Client,
    metrics: Metrics,
    admission: Admission,
    scheduler: Scheduler,
    drain: ShutdownState,
    budget: ByteBudget,
    ports: Sequence[DedicatedPort],
) -> tuple[HealthRoutes, tuple[AsyncCallback, ...]]:
    """Returns the routes of operators, and the background tasks that sample what they report."""
    preflight = PreflightMonitor(redis)
    sampled = {
        metrics.pending_settlements: lambda: admission.unsettled,
        metrics.held_bytes: lambda: budget.held_bytes,
        metrics.redis_breaker_open: lambda: int(redis.guard.breaker.is_open),
    }
    process = ProcessCollector(metrics, sampled, time.monotonic)
    scrape = Scrape(metrics.registry, process, scheduler, lambda: preflight.memory, __version__)
    refusal = partial(write_refusal, redis)
    routes = HealthRoutes(scrape, ports, drain, scheduler, refusal, lambda: preflight.problems, time.monotonic)
    return routes, (preflight.run, process.run, partial(return_freed_memory, budget))
