"""Sums of records: what the daily totals do not tell.

Invariant: the sums of a tenant's day add up to the totals that `Ledger.fill` reports. A tenant's day whose records do
not is refused.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import GroupBy, LedgerEntry, TenantDay, UsageFilter, UsageReport, UsageTotals, total_of
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_keys import read_record

_TRIES: Final = 5
_RECORDS_MAX: Final = 100_000
"""Limit on the records of a report by hour, which reads all of them for each page: 400 calls."""
_LAST_S: Final = 253_402_300_799
"""End of the year 9999, the last that a date can express."""
_K = TypeVar("_K")


async def fill(ledger: Ledger, report: UsageReport, selection: UsageFilter) -> None:
    """Fills a report with the sums that it needs, from the records if it is by hour.

    Raises: GatewayError as `Ledger.fill`; by hour also INVALID_VALUE, and as `sum_records`.
    """
    if report.split != GroupBy.HOUR.value:
        return await ledger.fill(report, selection)
    if (count := await ledger.count(selection)) > _RECORDS_MAX:
        text = f"Usage by hour reads every record: there are {count}, the limit is {_RECORDS_MAX}. "
        raise GatewayError(ErrorCode.INVALID_VALUE, f"{text}Select fewer days, or one tenant.", param="from")
    sheets = await ledger.tenant_days(selection)
    if report.needs_holders:
        report.holders = await ledger.holders(sorted({sheet.tenant for sheet in sheets}))
    for sheet in sheets:
        report.add(sheet, await sum_records(ledger, sheet, _hour_group))
    return None


async def sum_records(ledger: Ledger, sheet: TenantDay, group_of: Callable[[LedgerEntry], _K]) -> dict[_K, UsageTotals]:
    """Returns the amounts of a tenant's day by group, read from its records until they agree with its totals.

    Raises: GatewayError CONFLICT if they do not, REDIS_UNAVAILABLE.
    """
    for _ in range(_TRIES):  # again from the first record, if one moved that was read
        groups: dict[_K, UsageTotals] = {}
        last: str | None = None
        for _ in range(_TRIES):  # on from the last one, if requests were settled meanwhile
            async for entries in ledger.stream(sheet, last):
                for _, fields in entries:
                    entry = read_record(sheet.tenant, fields)
                    groups.setdefault(group_of(entry), UsageTotals()).add(entry.amounts)
                last = entries[-1][0]
            [sums] = await ledger.sums([sheet])
            if total_of(groups.values()) == total_of(sums.values()):
                return groups
    have_records = (await ledger.have_records([sheet]))[0]
    why = (
        "differ from its totals. Run `imagegate usage verify`, or try again while fewer requests end"
        if have_records
        else "are gone. Export CSV by day, which needs the totals alone"
    )
    raise GatewayError(ErrorCode.CONFLICT, f"The records of tenant '{sheet.tenant}' on {sheet.day} {why}.")


def _hour_group(entry: LedgerEntry) -> tuple[str, str, str]:
    """Returns key, model and hour. A correction has no hour: the one that it corrects is of another month."""
    admitted_s = min(max(entry.admitted_ms // 1000, 0), _LAST_S)
    hour = "" if entry.correction_of else f"{datetime.fromtimestamp(admitted_s, UTC):%Y-%m-%dT%H:00Z}"
    return entry.key_id, entry.model, hour
