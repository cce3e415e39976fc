"""Composes what counts and charges: admission, the sweeper after dead processes, and the usage that is read from it."""

import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import BillingRule
from gateway.lifespan import Act
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.stores import Client
from gateway.stores.admission import Admission
from gateway.stores.ledger import Ledger
from gateway.stores.sweeper import Sweeper
from gateway.stores.tickets import Terms
from gateway.stores.verification import Verifier
from gateway.web.admin.usage import UsageSection

_SWEEP_ROUND_S: Final = 5.0
"""How often somebody looks for what dead processes left behind."""


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """What every request is admitted and settled by, and what administrators read."""

    admission: Admission
    usage: UsageSection
    companions: tuple[Act, ...]


def build_bookkeeping(settings: Settings, redis: Client, metrics: Metrics) -> Bookkeeping:
    """Settles by itself what is owed and what died, while its companions run."""
    rule = BillingRule(settings.billing.charge_withheld, settings.billing.charge_unconfirmed)
    terms = Terms(rule, settings.requests.lease_s, settings.ledger.keep_days)
    admission = Admission(redis, terms, metrics, time.monotonic, _new_id)
    redis.guard.on_opened = admission.distrust  # it need not break connections: a master that hangs is replaced
    round_s = min(_SWEEP_ROUND_S, settings.requests.lease_s / 2)
    sweeper = Sweeper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=_new_id())
    ledger = Ledger(redis)
    usage = UsageSection(ledger, Verifier(ledger, settings.ledger.keep_days, time.time), time.time)
    return Bookkeeping(admission, usage, (admission.run, admission.keep_alive, sweeper.run))


def _new_id() -> str:
    return uuid.uuid4().hex
