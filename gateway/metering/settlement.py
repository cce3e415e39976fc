"""Settlements: runs lua/settle.lua and counts what it moved."""

import msgspec
import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.metering.ledger import Ledger
from gateway.metering.lost_settlements import LostSettlements
from gateway.metering.reservations import ReservationConfig, ReservationKeys, ReservationOutcome, Settled
from gateway.observability.metrics import Metrics
from gateway.redis import Client, Value, load_script

_LOG = structlog.get_logger("imagegate.admission")


class Settlements:
    """Settles reservations: from memory, from a journal, or from their own record after expiry."""

    def __init__(self, redis: Client, terms: ReservationConfig, metrics: Metrics) -> None:
        self.lost = LostSettlements(Ledger(redis))
        self._prefix = redis.prefix
        self._terms = terms
        self._metrics = metrics
        self._script = load_script(redis, "metering/settle")

    async def settle(self, outcome: ReservationOutcome) -> Settled:
        """Settles an outcome. Raises: GatewayError REDIS_UNAVAILABLE."""
        return await self._run(outcome.tenant, outcome.reservation, outcome.arguments(self._terms.ledger_days))

    async def replay(self, body: msgspec.Raw) -> None:
        """Settles a journal entry. Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""
        outcome = msgspec.json.decode(body, type=ReservationOutcome)
        settled = await self.settle(outcome)
        if settled.status != "repeated":  # a repeated one is already counted
            self.count(settled, outcome.tenant)
        if settled.status == "gone" and outcome.was_sent:
            self.lost.suspect(outcome)

    async def settle_expired(self, tenant: str, reservation_id: str) -> None:
        """Settles an expired reservation by its own record. Raises: GatewayError REDIS_UNAVAILABLE."""
        rule = self._terms.rule
        args: list[Value] = [reservation_id, 1, int(rule.charges_withheld), int(rule.charges_unconfirmed)]
        settled = await self._run(tenant, reservation_id, [*args, self._terms.ledger_days])
        self.count(settled, tenant)
        if settled.status == "settled":
            _LOG.warning("reservation_expired", tenant=tenant, reservation=reservation_id, outcome=settled.outcome)

    def count(self, settled: Settled, tenant: str) -> None:
        if settled.status in {"settled", "corrected", "repeated"}:
            outcome = settled.status if settled.status == "corrected" else settled.outcome
            self._metrics.settlements.labels(outcome).inc()
            if settled.usd_micros > 0:
                self._metrics.spend_usd.labels(settled.model, tenant).inc(settled.usd_micros / 1e6)

    async def _run(self, tenant: str, reservation_id: str, args: list[Value]) -> Settled:
        """Runs settle.lua. Raises: GatewayError REDIS_UNAVAILABLE, INTERNAL for a malformed reply."""
        names = ReservationKeys.of(self._prefix, tenant, reservation_id=reservation_id)
        reply = await self._script([names.reservation, names.open], args)
        try:
            return msgspec.json.decode(str(reply), type=Settled)
        except msgspec.MsgspecError as error:
            raise GatewayError(ErrorCode.INTERNAL, f"settle.lua: {error}") from error
