"""Builds what repeated requests get."""

import time

from gateway.app.backends import MeteringParts
from gateway.config.resolve import Config
from gateway.generation.memory_budget import ByteBudget
from gateway.generation.service import GenerationService
from gateway.jobs.held_results import HeldResults
from gateway.jobs.outcomes import Outcomes, StorageLimits
from gateway.jobs.replays import Replays, ReplayTerms
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.storage.pictures import PictureStore


def build_replays(
    config: Config,
    redis: Client,
    metering: MeteringParts,
    service: GenerationService,
    budget: ByteBudget,
    metrics: Metrics,
    pictures: PictureStore | None,
) -> Replays:
    """Without `pictures`, images in base64 are stored in Redis."""
    stored = config.settings.replays
    limits = StorageLimits(
        stored.result_retention_s, stored.max_result_bytes, stored.max_tenant_bytes, stored.max_total_bytes
    )
    outcomes = Outcomes(redis, limits, pictures)
    held = HeldResults(outcomes, redis, metering.repeats.channel, budget)
    keep_hours, deadline_s = config.settings.storage.keep_hours, config.settings.requests.deadline_s
    charges_unknown = config.billing.charges_unconfirmed
    terms = ReplayTerms(deadline_s, metering.repeats, stored.result_retention_s, keep_hours, charges_unknown)
    return Replays(service, outcomes, held, terms, metrics, time.monotonic)
