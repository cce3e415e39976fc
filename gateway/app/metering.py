"""Composes what counts and charges: admission, the sweeper after dead processes, and the usage that is read from it."""

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.api.admin.usage import UsageSection
from gateway.config import Settings, SettingsError
from gateway.domain.billing import BillingRule
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
    settings: Settings,
    redis: Client,
    metrics: Metrics,
    journal: Journal = Journal(),  # noqa: B008 - off, so it holds nothing
) -> MeteringParts:
    """Settles by itself what is owed and what died, while its companions run."""
    rule = BillingRule(settings.billing.charge_moderated, settings.billing.charge_unknown_outcomes)
    ledger_terms = settings.ledger
    terms = ReservationConfig(
        rule,
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


def journal_directory(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Where this user's journals are; None where they are switched off.

    Raises: SettingsError where the environment names no directory of the user's.
    """
    given = settings.requests.journal_dir
    if given is not None:
        return Path(given).expanduser().absolute() if given else None
    state, home = (Path(environ.get(name, "")) for name in ("XDG_STATE_HOME", "HOME"))
    if state.is_absolute():
        return state / "imagegate" / "journal"
    if home.is_absolute():
        return home / ".local" / "state" / "imagegate" / "journal"
    raise SettingsError('requests.journal_dir: there is no HOME to put it in; set it, "" for none')


def build_journal(settings: Settings, environ: Mapping[str, str]) -> Journal:
    """Files of several gateways may be in one directory: each replays those of its own Redis."""
    try:
        return Journal(journal_directory(settings, environ), redis_id(settings))
    except SettingsError as error:
        return Journal(remedy=str(error))


def build_replayer(journal: Journal, admission: Admission, releases: Releases) -> JournalReplayer:
    acts = {SETTLE: admission.replay, RELEASE: releases.replay}
    return JournalReplayer(journal, acts, own_kinds=frozenset({RELEASE}))


def redis_id(settings: Settings) -> str:
    """Of a Redis by its address, without its password."""
    return hashlib.sha256(settings.redis.url.rpartition("@")[2].encode()).hexdigest()[:12]


def _new_id() -> str:
    return uuid.uuid4().hex
