"""Builds the batches of image requests, if a storage is configured."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.api import openai
from gateway.api.batches import ENDPOINTS, BatchRoutes, LineParser
from gateway.api.images import ImageRoutes
from gateway.app.storage import StorageParts
from gateway.config.resolve import Config
from gateway.domain.catalog import Target
from gateway.events.outbox import Outbox
from gateway.generation.memory_budget import ByteBudget
from gateway.generation.service import GenerationService
from gateway.jobs.batch_forecast import BatchForecast
from gateway.jobs.batch_lines import LineRunner
from gateway.jobs.batch_output import OUTPUT, OutputRenderer
from gateway.jobs.batch_stages import BatchStages
from gateway.jobs.batch_worker import BatchWorker
from gateway.jobs.batches import BatchLimits, BatchStore
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
    outbox: Outbox,
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
    drain = images.drain
    lease_s, lines_max = settings.requests.reservation_lease_s, terms.max_concurrency
    worker = BatchWorker(store, lines, stages, metrics, lambda: drain.is_on, lines_max, outbox, lease_s)
    forecast = BatchForecast(store, scheduler, catalog, measured_s, lines_max)
    routes = BatchRoutes(
        *(images.authenticator, store, files, forecast, images.options.limits, drain, worker.wake.set),
        images.attributor,
        public_url=settings.server.public_url or "",
    )
    tasks = (worker.run, worker.keep_claims)
    return BatchParts(store, worker, routes, tasks)
