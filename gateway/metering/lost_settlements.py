"""Settlements whose reservation Redis does not know: in the ledger, or lost."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog

from gateway.domain.usage import Sheet
from gateway.metering.ledger import Ledger
from gateway.metering.reservations import TicketOutcome

_LOG = structlog.get_logger("imagegate.admission")
_SKEW = timedelta(hours=1)
"""Between this machine's clock and the server's, at most."""


class Lost:
    """Looks in the ledger before it calls a settlement lost: Redis forgets a settled reservation after a while."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._suspects: dict[str, TicketOutcome] = {}

    def suspect(self, outcome: TicketOutcome) -> None:
        self._suspects[outcome.ticket] = outcome

    async def tell(self) -> None:
        """Log those that are not in the ledger as they ended. Raises: GatewayError REDIS_AWAY: they stay."""
        while self._suspects:
            tenant = next(iter(self._suspects.values())).tenant
            suspects = [outcome for outcome in self._suspects.values() if outcome.tenant == tenant]
            found = await self._records(suspects)
            for outcome in suspects:
                self._suspects.pop(outcome.ticket, None)
                if found.get(outcome.ticket) != outcome.calls:
                    _tell(outcome)

    async def _records(self, suspects: list[TicketOutcome]) -> dict[str, str]:
        """The calls by ticket that the ledger has of one tenant's suspects, among its records since the first ended."""
        since_ms = round((min(outcome.ended_s for outcome in suspects) - _SKEW.total_seconds()) * 1000)
        sheets = {sheet for outcome in suspects for sheet in _sheets(outcome)}
        wanted, found = {outcome.ticket for outcome in suspects}, dict[str, str]()
        for sheet in sheets:
            async for entries in self._ledger.stream(sheet, f"{since_ms}-0"):
                found |= {fields["ticket"]: fields["calls"] for _, fields in entries if fields["ticket"] in wanted}
        return found


def _sheets(outcome: TicketOutcome) -> Iterator[Sheet]:
    """Where its record may stand: the day is the admission's by the server's clock."""
    admitted = datetime.fromtimestamp(outcome.ended_s - outcome.total_ms / 1000, UTC)
    for moment in (admitted - _SKEW, admitted + _SKEW):
        yield Sheet(moment.date(), outcome.tenant)


def _tell(outcome: TicketOutcome) -> None:
    _LOG.error(
        "settlement_lost",
        tenant=outcome.tenant,
        request_id=outcome.request_id,
        images=outcome.images,
        calls=outcome.calls,
        remedy="Redis does not know its reservation: look in the ledger, which may have it, perhaps as unconfirmed",
    )
