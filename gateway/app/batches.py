"""Builds the batches of image requests, if a storage is configured."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.api import openai
from gateway.api.batches import ENDPOINTS, BatchRoutes, LineParser
from gateway.api.images import ImageRoutes
from gateway.app.storage import StorageParts
from gateway.config.resolve import Config
from gateway.domain.catalog import Target
from gateway.generation.memory_budget import ByteBudget
from gateway.generation.posts import post
from gateway.generation.service import GenerationService
from gateway.generation.transport import AiohttpTransport
from gateway.jobs.batch_forecast import BatchForecast
from gateway.jobs.batch_lines import LineRunner
from gateway.jobs.batch_output import OUTPUT, OutputRenderer
from gateway.jobs.batch_stages import BatchStages
from gateway.jobs.batch_worker import BatchWorker
from gateway.jobs.batches import BatchLimits, BatchStore
from gateway.jobs.webhooks import Webhooks
from gateway.lifespan import AsyncCallback
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.scheduler import Scheduler
from gateway.storage.links import Links


@dataclass(frozen=True, slots=True)
class BatchParts:
    """The batches with their worker."""

    store: BatchStore
    worker: BatchWorker
    routes: BatchRoutes
    background_tasks: tuple[AsyncCallback, ...]


def build_batches(
    config: Config,
    redis: Client,
    storage: StorageParts,
    images: ImageRoutes,
    service: GenerationService,
    scheduler: Scheduler,
    measured_s: Callable[[Target, int], float | None],
    links: Links,
    transport: AiohttpTransport,
    budget: ByteBudget,
    metrics: Metrics,
) -> BatchParts:
    """`measured_s` returns the usual duration of a call for a number of images. Close the worker at shutdown."""
    terms, settings, catalog = config.settings.batches, config.settings, images.catalog
    files, authenticator = storage.files, images.authenticator.authenticator
    store = BatchStore(redis, BatchLimits(terms.max_open))
    files.renderers[OUTPUT] = OutputRenderer(storage.objects, storage.pictures)
    parser = LineParser(catalog, images.options.openai_options, images.attributor)
    line_max_bytes = settings.server.max_minimax_body_bytes
    lines_max_bytes = dict(zip(ENDPOINTS, (settings.server.max_body_bytes, line_max_bytes), strict=True))
    lines = LineRunner(
        *(store, files, storage.pictures, service, parser, authenticator.find, links.sign, budget, line_max_bytes)
    )
    stages = BatchStages(
        *(store, files, authenticator.find, parser.find_model, terms.max_lines, lines_max_bytes),
        *(openai.IMAGES_MAX, storage.quota, budget, time.time),
    )
    webhooks, drain = _build_webhooks(config, redis, transport, metrics), images.drain
    lease_s, lines_max = settings.requests.reservation_lease_s, terms.max_concurrency
    worker = BatchWorker(store, lines, stages, metrics, lambda: drain.is_on, lines_max, webhooks, lease_s)
    forecast = BatchForecast(store, scheduler, catalog, measured_s, lines_max)
    routes = BatchRoutes(
        *(images.authenticator, store, files, forecast, images.options.limits, drain, worker.wake.set),
        images.attributor,
        public_url=settings.server.public_url or "",
    )
    tasks = (worker.run, worker.keep_claims, *((webhooks.run,) if webhooks else ()))
    return BatchParts(store, worker, routes, tasks)


def _build_webhooks(config: Config, redis: Client, transport: AiohttpTransport, metrics: Metrics) -> Webhooks | None:
    """Returns None if no webhook is configured."""
    webhook, send = config.settings.batches.webhook, partial(post, transport)
    return Webhooks(redis, webhook.url, config.webhook_secret, send, metrics, uuid.uuid4().hex) if webhook else None
