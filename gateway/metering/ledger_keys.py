"""Redis keys of a tenant day, and the fields of its sums and records."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Final

from gateway.domain.billing import AccountOutcome, BatchLine, Timings
from gateway.domain.usage import MEASURES, LedgerEntry, Sums, TenantDay, UsageTotals

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def days_record(prefix: str, tenant: str) -> str:
    """Returns the sorted set of days that have sums; the score is the day's number."""
    return f"{prefix}:{{{tenant}}}:days"


def sums_record(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:sums:{day_number(tenant_day.day)}"


def batch_sums_record(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:batch_sums:{day_number(tenant_day.day)}"


def records_stream(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:ledger:{day_number(tenant_day.day)}"


def day_number(day: date) -> int:
    """Returns a day as the number YYYYMMDD."""
    return day.year * 10_000 + day.month * 100 + day.day


def read_sums(fields: Mapping[str, str], batch_fields: Mapping[str, str]) -> Sums:
    """Parses the fields "KEYID|MEASURE|MODEL" of all requests, and "BATCHID|KEYID|MEASURE|MODEL" of those of batches.

    A model name may contain "|". Skips measures of later versions.
    """
    found: dict[tuple[str, str, str], UsageTotals] = {}
    batched = set[tuple[str, str, str]]()
    named = [("", name, value) for name, value in fields.items()]
    named += [(*name.partition("|")[::2], value) for name, value in batch_fields.items()]
    for batch, name, value in named:
        key, _, rest = name.partition("|")
        measure, _, model = rest.partition("|")
        if measure not in MEASURES:
            continue
        amount = read_integer(value)
        found.setdefault((key, model, batch), UsageTotals()).increase(measure, amount)
        if batch:
            found.setdefault((key, model, ""), UsageTotals()).increase(measure, -amount)
            batched.add((key, model, ""))
    return {group: amounts for group, amounts in found.items() if group not in batched or amounts != UsageTotals()}


def read_amounts(fields: Mapping[str, str]) -> UsageTotals:
    """Returns what one record adds to the sums."""
    return UsageTotals(1, *(read_integer(fields.get(measure)) for measure in MEASURES if measure != "requests"))


def read_group(fields: Mapping[str, str]) -> tuple[str, str, str]:
    """Returns the group of sums that one record belongs to: key ID, model, batch ID."""
    return fields.get("key_id", ""), fields.get("model", ""), fields.get("batch_id", "")


def read_purchase(fields: Mapping[str, str], amounts: UsageTotals) -> tuple[str, str] | None:
    """Returns the line of a batch, as (batch ID, custom ID), or the idempotency key, as ("", key), of a purchase.

    At most one record has each. None: neither, or no images were bought.
    """
    if not amounts.delivered + amounts.withheld + amounts.lost + amounts.unconfirmed:
        return None
    if batch_id := fields.get("batch_id"):
        return batch_id, fields.get("custom_id", "")
    return ("", key) if (key := fields.get("idempotency")) else None


def read_record(tenant: str, fields: Mapping[str, str]) -> LedgerEntry:
    request_id, key_id, model = (fields.get(name, "") for name in ("request_id", "key_id", "model"))
    return LedgerEntry(
        fields.get("reservation", ""),
        read_integer(fields.get("admitted_ms")),
        *(request_id, tenant, key_id, model),
        read_amounts(fields),
        read_integer(fields.get("price_usd_micros")),
        fields.get("outcome", ""),
        dict(_read_calls(fields.get("calls", ""))),
        Timings(*(read_integer(fields.get(name)) for name in ("queue_ms", "upstream_ms", "total_ms"))),
        BatchLine(fields["batch_id"], fields.get("custom_id", "")) if fields.get("batch_id") else None,
    )


def _read_calls(text: str) -> Iterator[tuple[tuple[str, str], AccountOutcome]]:
    """Parses "UPSTREAM/ACCOUNT:DELIVERED,WITHHELD,LOST,UNCONFIRMED", joined by ";"."""
    for call in filter(None, text.split(";")):
        place, _, counts = call.rpartition(":")
        upstream, _, account = place.partition("/")
        delivered, withheld, lost, unconfirmed, *_ = *map(read_integer, counts.split(",")), 0, 0, 0, 0
        share = AccountOutcome(delivered=delivered, withheld=withheld, lost=lost, unconfirmed=unconfirmed)
        yield (upstream, account), share


def read_integer(text: str | None) -> int:
    """Parses an integer. An invalid one counts as 0, so that a damaged record appears as a discrepancy."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else 0
