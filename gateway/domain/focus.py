"""FOCUS 1.2, the FinOps Foundation's format of cost and usage data: its columns, and the rows of a tenant's day.

https://focus.finops.org/focus-specification/v1-2/. None is null, an empty cell. In every row price times quantity is
the cost.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from gateway.domain.attribution import CORRECTION
from gateway.domain.billing import usd
from gateway.domain.calendar import UTC_CALENDAR, Calendar
from gateway.domain.usage import Holder, LedgerEntry, TenantDay, UsageTotals

_COSTS: Final = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
_CUSTOM: Final = {
    "x_Requests": "requests",
    "x_ImagesRequested": "asked",
    "x_Withheld": "withheld",
    "x_Lost": "lost",
    "x_Unconfirmed": "unconfirmed",
}
FOCUS_COLUMNS: Final = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
    *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency"),
    *("ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost"),
    *("ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingQuantity"),
    *("PricingUnit", "ProviderName", "PublisherName", "ResourceId", "ResourceType", "ServiceCategory", "ServiceName"),
    *("ServiceSubcategory", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags", *_CUSTOM),
)
_PRODUCT: Final = "imagegate"
_IMAGES: Final = "Images"
_ALL_HOURS: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, order=True)
class FocusGroup:
    """What the requests of one row have in common."""

    key_id: str
    model: str
    price_usd_micros: int
    """Of one image; -1 if their cost is not a price times images, as with prices by tokens."""
    correction_of: date = date.max
    """The day of a closed month that is corrected; date.max for none."""


def focus_group(entry: LedgerEntry) -> FocusGroup:
    amounts, price = entry.amounts, entry.price_usd_micros
    delivered, uncharged = amounts.delivered, {0, amounts.withheld}
    charged = {delivered + some + more for some in uncharged for more in (0, amounts.unconfirmed)}
    is_by_image = amounts.usd_micros in {price * images for images in charged}
    return FocusGroup(entry.key_id, entry.model, price if is_by_image else -1, entry.correction_of or date.max)


def focus_rows(
    sheet: TenantDay,
    groups: Mapping[FocusGroup, UsageTotals],
    holder: Holder,
    account: str,
    calendar: Calendar = UTC_CALENDAR,
    name: str = "",
) -> Iterator[list[object]]:
    """Yields the rows of a tenant's day in order, each as its FOCUS_COLUMNS. `name`: of a renamed tenant."""
    tags = {"cost_centre": holder.cost_centre, **holder.tags} if holder.cost_centre else holder.tags
    first = sheet.day.replace(day=1)
    shared: dict[str, object] = {
        **dict.fromkeys(("BillingAccountId", "BillingAccountName", "InvoiceIssuerName", "ProviderName"), account),
        "BillingCurrency": "USD",
        "BillingPeriodStart": _moment(first, calendar),
        "BillingPeriodEnd": _moment((first + timedelta(days=31)).replace(day=1), calendar),
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "PublisherName": _PRODUCT,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": "Image generation",
        "ConsumedUnit": _IMAGES,
        "ResourceType": "API key",
        "SubAccountId": sheet.tenant,
        "SubAccountName": name or sheet.tenant,
        "Tags": json.dumps(tags, sort_keys=True, separators=(",", ":")) if tags else None,
    }
    for group, amounts in sorted(groups.items()):
        row = shared | _charge(sheet, group, amounts, calendar)
        yield [row[column] for column in FOCUS_COLUMNS]


def _charge(sheet: TenantDay, group: FocusGroup, amounts: UsageTotals, calendar: Calendar) -> dict[str, object]:
    is_correction = group.correction_of != date.max
    day = group.correction_of if is_correction else sheet.day
    is_by_image = group.price_usd_micros >= 0
    price = usd(group.price_usd_micros) if is_by_image else "1"
    quantity = (
        amounts.usd_micros // group.price_usd_micros
        if group.price_usd_micros > 0
        else amounts.delivered
        if is_by_image
        else usd(amounts.usd_micros)
    )
    return {
        **dict.fromkeys(_COSTS, usd(amounts.usd_micros)),
        "ChargeClass": CORRECTION if is_correction else None,
        "ChargeDescription": f"{group.model}, {'corrected images' if is_correction else 'images delivered'}",
        "ChargePeriodStart": _moment(day, calendar),
        "ChargePeriodEnd": _moment(day + timedelta(days=1), calendar),
        "ConsumedQuantity": amounts.delivered,
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), price),
        "PricingQuantity": quantity,
        "PricingUnit": _IMAGES if is_by_image else "USD",
        "ResourceId": group.key_id,
        "SkuId": group.model,
        "SkuPriceId": f"{group.model}@{price}" if is_by_image else group.model,
        **{column: amounts.of(measure) for column, measure in _CUSTOM.items()},
    }


def _moment(day: date, calendar: Calendar) -> str:
    return calendar.start(day).strftime(_ALL_HOURS)
