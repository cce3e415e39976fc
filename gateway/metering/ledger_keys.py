"""Redis keys of a tenant day, and the fields of its sums and records."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from fractions import Fraction
from typing import Final
from urllib.parse import unquote

import msgspec

from gateway.domain.attribution import (
    CHARGE_CLASS,
    CORRECTION,
    OTHER,
    UPSTREAM,
    USER,
    Attribution,
    tag_dimension,
)
from gateway.domain.billing import AccountOutcome, BatchLine, Timings
from gateway.domain.pricing import Basis
from gateway.domain.usage import MEASURES, Holder, LedgerEntry, Sums, TenantDay, UsageTotals

_BASES: Final = {basis.value: basis for basis in Basis}
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def days_record(prefix: str, tenant: str) -> str:
    """Returns the sorted set of days that have sums; the score is the day's number."""
    return f"{prefix}:{{{tenant}}}:days"


def sums_record(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:sums:{day_number(tenant_day.day)}"


def batch_sums_record(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:batch_sums:{day_number(tenant_day.day)}"


def split_sums_record(prefix: str, tenant_day: TenantDay) -> str:
    """Returns the sums by tag, user and upstream; see lua/split_sums.lua."""
    return f"{prefix}:{{{tenant_day.tenant}}}:split_sums:{day_number(tenant_day.day)}"


def records_stream(prefix: str, tenant_day: TenantDay) -> str:
    return f"{prefix}:{{{tenant_day.tenant}}}:ledger:{day_number(tenant_day.day)}"


def closed_record(prefix: str, tenant: str) -> str:
    """Returns the hash of closed months, YYYYMM -> JSON of the Holder at that time."""
    return f"{prefix}:{{{tenant}}}:closed"


def day_number(day: date) -> int:
    """Returns a day as the number YYYYMMDD."""
    return day.year * 10_000 + day.month * 100 + day.day


def read_day(text: str | None) -> date | None:
    """Parses YYYYMMDD. An invalid one is no day."""
    with suppress(ValueError):
        return date.fromisoformat(text) if text and len(text) == len("YYYYMMDD") else None
    return None


def read_sums(fields: Mapping[str, str], split_fields: Mapping[str, str]) -> Sums:
    """Parses the fields "KEYID|MEASURE|MODEL" of all requests, and "VALUE|KEYID|MEASURE|MODEL" of those with a value.

    What is in no value's sums is that of the value "". A model name may contain "|". Skips measures of later versions.
    """
    found: dict[tuple[str, str, str], UsageTotals] = {}
    divided = set[tuple[str, str, str]]()
    named = [("", name, value) for name, value in fields.items()]
    named += [(*name.partition("|")[::2], value) for name, value in split_fields.items()]
    for escaped, name, value in named:
        split = unquote(escaped)
        key, _, rest = name.partition("|")
        measure, _, model = rest.partition("|")
        if measure not in MEASURES:
            continue
        amount = read_integer(value)
        found.setdefault((key, model, split), UsageTotals()).increase(measure, amount)
        if split:
            found.setdefault((key, model, ""), UsageTotals()).increase(measure, -amount)
            divided.add((key, model, ""))
    return {group: amounts for group, amounts in found.items() if group not in divided or amounts != UsageTotals()}


def select_split(fields: Mapping[str, str], dimension: str) -> dict[str, str]:
    """Returns one dimension's fields of the split sums, as `read_sums` takes them."""
    start = f"{dimension}|"
    return {name.removeprefix(start): value for name, value in fields.items() if name.startswith(start)}


def read_split_sums(fields: Mapping[str, str]) -> Sums:
    """Parses the split sums of every dimension. The third name of a group is "DIMENSION=VALUE"."""
    dimensions = dict.fromkeys(name.partition("|")[0] for name in fields)
    read = ((dimension, read_sums({}, select_split(fields, dimension))) for dimension in dimensions)
    return {
        (key, model, f"{dimension}={value}"): amounts
        for dimension, sums in read
        for (key, model, value), amounts in sums.items()
        if value
    }


def read_splits(fields: Mapping[str, str]) -> Iterator[tuple[str, UsageTotals]]:
    """Yields what one record adds to the split sums: "DIMENSION=VALUE" and the amounts."""
    if "summed" not in fields:
        return
    tags, amounts = read_tags(fields), read_amounts(fields)
    values = {tag_dimension(key): value for key, value in tags.items()} | {USER: fields.get("user", "")}
    for name in filter(None, fields["summed"].split(",")):
        dimension, is_other, _ = name.partition("=")
        yield f"{dimension}={OTHER if is_other else values.get(dimension, '')}", amounts
    if "correction_of" in fields:
        yield f"{CHARGE_CLASS}={CORRECTION}", amounts
    for upstream, share in _read_upstreams(fields, amounts).items():
        yield f"{UPSTREAM}={upstream}", share


def _read_upstreams(fields: Mapping[str, str], amounts: UsageTotals) -> dict[str, UsageTotals]:
    """Returns the amounts by upstream. What the others do not have of the cost has the last one."""
    if "upstreams" in fields:
        return _read_corrected_upstreams(fields["upstreams"])
    found: dict[str, UsageTotals] = {}
    counted = ""
    for (upstream, _), share in _read_calls(fields.get("calls", "")):
        images = UsageTotals(0, 0, share.delivered, share.withheld, share.lost, share.unconfirmed)
        found.setdefault(upstream, UsageTotals()).add(images)
        counted = counted or (upstream if images != UsageTotals() else "")
    if not found:
        return found
    counted = counted or next(iter(found))
    found[counted].requests, found[counted].asked = 1, amounts.asked
    costs = (share.partition(":")[::2] for share in filter(None, fields.get("upstream_usd", "").split(";")))
    usd_micros = {upstream: read_integer(cost) for upstream, cost in costs}
    *others, last = found
    for upstream in others:
        found[upstream].usd_micros = usd_micros.get(upstream, 0)
    found[last].usd_micros = amounts.usd_micros - sum(found[upstream].usd_micros for upstream in others)
    return found


def _read_corrected_upstreams(text: str) -> dict[str, UsageTotals]:
    """Parses the differences of a correction; none if they are damaged, so that it appears as a discrepancy."""
    try:
        found = msgspec.json.decode(text, type=dict[str, dict[str, int]])
        return {upstream: UsageTotals(**amounts) for upstream, amounts in found.items()}
    except (msgspec.MsgspecError, TypeError):
        return {}


def write_attribution(attribution: Attribution) -> bytes:
    """Renders the fields of a reservation as JSON for admit.lua."""
    tags = msgspec.json.encode(attribution.tags, order="sorted").decode() if attribution.tags else ""
    fields = {"tags": tags, "user": attribution.user, "summed": ",".join(attribution.summed)}
    return msgspec.json.encode({name: value for name, value in fields.items() if value})


def read_tags(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns a record's tags; none if they are damaged, so that it appears as a discrepancy."""
    try:
        return msgspec.json.decode(fields.get("tags") or "{}", type=dict[str, str])
    except msgspec.MsgspecError:
        return {}


def read_amounts(fields: Mapping[str, str]) -> UsageTotals:
    """Returns what one record adds to the sums. A correction states its requests: none, or one settled since."""
    requests = read_integer(fields.get("requests", "1"))
    return UsageTotals(requests, *(read_integer(fields.get(measure)) for measure in MEASURES if measure != "requests"))


def read_group(fields: Mapping[str, str]) -> tuple[str, str, str]:
    """Returns the group of sums that one record belongs to: key ID, model, batch ID."""
    return fields.get("key_id", ""), fields.get("model", ""), fields.get("batch_id", "")


def read_purchase(fields: Mapping[str, str], amounts: UsageTotals) -> tuple[str, str] | None:
    """Returns the line of a batch, as (batch ID, custom ID), or the idempotency key, as ("", key), of a purchase.

    At most one record has each. None: neither, no images were bought, or a correction of what was.
    """
    if "correction_of" in fields or not amounts.delivered + amounts.withheld + amounts.lost + amounts.unconfirmed:
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
        read_tags(fields),
        fields.get("user", ""),
        read_day(fields.get("correction_of")),
        _BASES.get(fields.get("price_basis", ""), Basis.ANSWER),
        tuple(filter(None, fields.get("summed", "").split(","))),
    )


def _read_calls(text: str) -> Iterator[tuple[tuple[str, str], AccountOutcome]]:
    """Parses what `write_calls` renders."""
    for call in filter(None, text.split(";")):
        place, _, counts = call.rpartition(":")
        upstream, _, account = place.partition("/")
        delivered, withheld, lost, unconfirmed, charge, cost, *_ = *counts.split(","), *[""] * 6
        numbers = [read_integer(count) for count in (delivered, withheld, lost, unconfirmed)]
        share = AccountOutcome(numbers[0], numbers[1], numbers[2], numbers[3])
        share.charge = read_integer(charge) if charge else None
        share.cost = read_integer(cost) if cost else None
        yield (upstream, account), share


def write_calls(shares: Mapping[tuple[str, str], AccountOutcome], images: int, reserved: int) -> str:
    """Renders "UPSTREAM/ACCOUNT:DELIVERED,WITHHELD,LOST,UNCONFIRMED,CHARGE,COST" of each account, joined by ";".

    Charge and cost are micro-dollars. The charges add up to their exact sum, rounded up once. One that is the share of
    the delivered images in the `reserved` cost is left out, and so is an unknown cost.
    """
    written, charged = [], Fraction(0)
    for (upstream, account), share in sorted(shares.items()):
        if not share.was_reached:
            continue
        counts = f"{share.delivered},{share.withheld},{share.lost},{share.unconfirmed}"
        own, charge = share.charge, ""
        if own is not None and (own != int(own) or own * images != share.delivered * reserved):
            charge = str(math.ceil(charged + own) - math.ceil(charged))
            charged += own
        cost = "" if share.cost is None or not share.images else str(math.ceil(share.cost))
        written.append(f"{upstream}/{account}:{counts},{charge},{cost}".rstrip(","))
    return ";".join(written)


def read_holder(text: str) -> Holder:
    """Parses a closed month's holder. Raises: msgspec.MsgspecError."""
    return msgspec.json.decode(text, type=Holder)


def write_holder(holder: Holder) -> str:
    return msgspec.json.encode(holder).decode()


def read_integer(text: str | None) -> int:
    """Parses an integer. An invalid one counts as 0, so that a damaged record appears as a discrepancy."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else 0
