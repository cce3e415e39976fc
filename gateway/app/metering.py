"""Composes what counts and charges: admission, the sweeper after dead processes, and the usage that is read from it."""

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.api.admin.usage import UsageSection
from gateway.config.resolve import Config
from gateway.lifespan import AsyncCallback
from gateway.metering.admission import Admission
from gateway.metering.ledger import Ledger
from gateway.metering.recovery import ExpiredReservationReaper
from gateway.metering.reservations import SETTLE, ReservationConfig
from gateway.metering.transfers import Transfers
from gateway.metering.verification import LedgerVerifier
from gateway.observability.metrics import Metrics
from gateway.redis import Client
from gateway.redis.journal import Journal
from gateway.redis.journal_replay import JournalReplayer
from gateway.scheduler.unsaved_releases import RELEASE, Releases

_SWEEP_ROUND_S: Final = 5.0
"""How often somebody looks for what dead processes left behind."""


@dataclass(frozen=True, slots=True)
class MeteringParts:
    """What every request is admitted and settled by, and what administrators read."""

    admission: Admission
    transfers: Transfers
    usage: UsageSection
    background_tasks: tuple[AsyncCallback, ...]


def build_metering(
    config: Config,
    redis: Client,
    metrics: Metrics,
    journal: Journal = Journal(),  # noqa: B008 - off, so it holds nothing
) -> MeteringParts:
    """Settles by itself what is owed and what died, while its companions run."""
    settings, ledger_terms = config.settings, config.settings.ledger
    terms = ReservationConfig(
        config.billing,
        settings.requests.reservation_lease_s,
        ledger_terms.retention_days,
        ledger_terms.max_recent_requests,
        ledger_terms.max_records_per_day,
    )
    admission = Admission(redis, terms, metrics, time.monotonic, _new_id, journal, time.time)
    redis.guard.on_opened = (
        admission.mark_data_suspect
    )  # it need not break connections: a master that hangs is replaced
    round_s = min(_SWEEP_ROUND_S, settings.requests.reservation_lease_s / 2)
    sweeper = ExpiredReservationReaper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=_new_id())
    ledger = Ledger(redis)
    usage = UsageSection(ledger, LedgerVerifier(ledger, settings.ledger.retention_days, time.time), time.time)
    transfers = Transfers(redis, settings.requests.reservation_lease_s, time.monotonic, _new_id)
    background_tasks = (admission.run, admission.keep_alive, transfers.run, sweeper.run)
    return MeteringParts(admission, transfers, usage, background_tasks)


def build_journal(config: Config) -> Journal:
    """Files of several gateways may be in one directory: each replays those of its own Redis."""
    return Journal(config.journal_dir, redis_id(config), remedy=config.journal_problem)


def build_replayer(journal: Journal, admission: Admission, releases: Releases) -> JournalReplayer:
    acts = {SETTLE: admission.replay, RELEASE: releases.replay}
    return JournalReplayer(journal, acts, own_kinds=frozenset({RELEASE}))


def redis_id(config: Config) -> str:
    """Of a Redis by its address, without its password."""
    return hashlib.sha256(config.settings.redis.url.rpartition("@")[2].encode()).hexdigest()[:12]


def _new_id() -> str:
    return uuid.uuid4().hex
