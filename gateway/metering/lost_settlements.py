"""Settlements whose reservation Redis does not know: either in the ledger already, or lost."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog

from gateway.domain.usage import TenantDay
from gateway.metering.ledger import Ledger
from gateway.metering.reservations import ReservationOutcome

_LOG = structlog.get_logger("imagegate.admission")
_SKEW = timedelta(hours=1)
"""Maximum skew between this machine's clock and the server's."""


class LostSettlements:
    """Checks the ledger before a settlement counts as lost, because Redis drops settled reservations after a while."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._suspects: dict[str, ReservationOutcome] = {}

    def suspect(self, outcome: ReservationOutcome) -> None:
        self._suspects[outcome.reservation] = outcome

    async def log(self) -> None:
        """Logs settlements that are not in the ledger. Raises: GatewayError REDIS_UNAVAILABLE; they remain suspects."""
        while self._suspects:
            tenant = next(iter(self._suspects.values())).tenant
            suspects = [outcome for outcome in self._suspects.values() if outcome.tenant == tenant]
            found = await self._records(suspects)
            for outcome in suspects:
                self._suspects.pop(outcome.reservation, None)
                if found.get(outcome.reservation) != outcome.calls:
                    _log(outcome)

    async def _records(self, suspects: list[ReservationOutcome]) -> dict[str, str]:
        """Returns the ledger's calls by reservation ID, for one tenant's suspects, since the first of them ended."""
        since_ms = round((min(outcome.ended_s for outcome in suspects) - _SKEW.total_seconds()) * 1000)
        tenant_days = {tenant_day for outcome in suspects for tenant_day in _tenant_days(outcome)}
        wanted, found = {outcome.reservation for outcome in suspects}, dict[str, str]()
        for tenant_day in tenant_days:
            async for entries in self._ledger.stream(tenant_day, f"{since_ms}-0"):
                found |= {
                    fields["reservation"]: fields["calls"] for _, fields in entries if fields["reservation"] in wanted
                }
        return found


def _tenant_days(outcome: ReservationOutcome) -> Iterator[TenantDay]:
    """Yields the tenant days that may hold its record: the day is the admission's, by the server's clock."""
    admitted = datetime.fromtimestamp(outcome.ended_s - outcome.total_ms / 1000, UTC)
    for moment in (admitted - _SKEW, admitted + _SKEW):
        yield TenantDay(moment.date(), outcome.tenant)


def _log(outcome: ReservationOutcome) -> None:
    _LOG.error(
        "settlement_lost",
        tenant=outcome.tenant,
        request_id=outcome.request_id,
        images=outcome.images,
        calls=outcome.calls,
        hint="Redis does not know its reservation: check the ledger, which may have it, perhaps as unconfirmed",
    )
