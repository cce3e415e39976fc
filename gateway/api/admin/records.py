"""`/admin/v1/usage/records`: the ledger's records, oldest or newest first, and those of one request.

Oldest first they are by tenant within each day, as an export needs them; newest first by time over all tenants.
"""

from dataclasses import astuple, dataclass, fields
from datetime import date
from typing import Annotated, Final, Literal

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import QueryFields
from gateway.api.admin.usage import PageCursor, UsageSection
from gateway.api.refusals import excerpt, refused_value, wrong_value
from gateway.api.usage_amounts import describe_record
from gateway.domain.audit import Actor
from gateway.domain.billing import RequestOutcome
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import TenantDay, UsageFilter
from gateway.metering.ledger import RecordPage
from gateway.metering.record_places import READINGS_MAX, Place, Reading
from gateway.metering.record_search import RecordFilter, RecordSearch

_ROWS_MAX: Final = 1000
_DAYS: Final = 2
"""Days up to today that are searched for a request, unless the query names others."""
_UPSTREAM_FIELDS: Final = frozenset({"upstream", "account", "calls", "cost_usd"})
"""Fields of a record that a tenant does not see."""
_NAMES: Final = tuple(field.name for field in fields(RecordFilter))
_EntryId = Annotated[str, Meta(pattern=r"^[0-9]{1,19}-[0-9]{1,19}\Z")]
"""Below 2**64, the limit of Redis."""
_Order = Literal["asc", "desc"]


class _RecordsCursor(PageCursor, frozen=True, tag="records"):
    """Continues records after one of them, with the count from the first page."""

    day: date
    holder: str
    """The tenant."""
    id: _EntryId
    total: int | None
    readings: Annotated[tuple[tuple[_EntryId, _EntryId], ...], Meta(max_length=READINGS_MAX)] = ()
    order: _Order = "asc"
    wanted: tuple[str | None, str | None, str | None, str | None] = (None, None, None, None)

    @property
    def place(self) -> Place:
        readings = tuple(Reading(*ids) for ids in self.readings)
        return Place(TenantDay(self.day, self.holder), self.id, readings)


@dataclass(frozen=True, slots=True, repr=False)
class RecordsSection:
    """Routes of records."""

    usage: UsageSection
    search: RecordSearch

    def handlers(self) -> Handlers:
        return {
            "/usage/records": {"GET": self.list_records},
            "/usage/records/{id}": {"GET": self.list_records},
        }

    async def list_records(self, request: Request, _: Actor) -> Response:
        return (await self.page_of(request))[0]

    async def page_of(self, request: Request, own_tenant: str | None = None) -> tuple[Response, int]:
        """Returns a page, of one request if the path names it, and the number of records that were read.

        With `own_tenant` it has the records of that tenant, without the names of upstreams and accounts.
        Raises: GatewayError, NOT_FOUND if the last page of one request has no record.
        """
        query, request_id = QueryFields(request), request.path_params.get("id")
        cursor, selection = self.usage.parse(query, _RecordsCursor, own_tenant, _DAYS if request_id else 0)
        wanted, order = _parse_filter(query, cursor, request_id), _parse_order(query, cursor)
        limit = query.integer("limit", 1, _ROWS_MAX, _ROWS_MAX)
        query.reject_unknown()
        is_filtered, total = wanted != RecordFilter(), cursor.total if cursor else None
        if not cursor and not is_filtered:
            total = await self.usage.ledger.count(selection)
        place, ledger = cursor.place if cursor else None, self.usage.ledger
        if is_filtered or order == "desc":
            page, read = await self.search.find(selection, wanted, place, limit, newest_first=order == "desc")
        else:
            page = await ledger.records(selection, place, limit)
            read = len(page.records)
        if request_id and not page.records and not page.end and not cursor:
            text = (
                f"There is no record of request '{excerpt(request_id)}' from {selection.first} to {selection.last}. "
                "For other days, set 'from' and 'to'."
            )
            raise GatewayError(ErrorCode.NOT_FOUND, text)
        data = await self.usage.names.show([_describe(page, index, own_tenant) for index in range(len(page.records))])
        following = _following(selection, page.end, total, order, wanted) if page.end else None
        return self.usage.page(selection, {"data": data, "total": total}, following), read


def _describe(page: RecordPage, index: int, own_tenant: str | None) -> dict[str, object]:
    described = describe_record(page.records[index])
    return {name: value for name, value in described.items() if own_tenant is None or name not in _UPSTREAM_FIELDS}


def _following(
    selection: UsageFilter, end: Place, total: int | None, order: _Order, wanted: RecordFilter
) -> _RecordsCursor:
    ids = tuple((reading.end, reading.newest) for reading in end.readings)
    day, holder = end.tenant_day.day, end.tenant_day.tenant
    of = (selection.first, selection.last, selection.tenant)
    return _RecordsCursor(*of, day, holder, end.id, total, ids, order, astuple(wanted))


def _parse_order(query: QueryFields, cursor: _RecordsCursor | None) -> _Order:
    """Raises: GatewayError INVALID_VALUE."""
    text = query.text("order")
    if text not in {None, "asc", "desc"}:
        raise wrong_value("order", text or "", ["asc", "desc"])
    order: _Order = cursor.order if cursor else "desc" if text == "desc" else "asc"
    if text not in {None, order}:
        raise refused_value("cursor", "it belongs to a request with another 'order'.")
    return order


def _parse_filter(query: QueryFields, cursor: _RecordsCursor | None, request_id: str | None) -> RecordFilter:
    """Parses the filter, or takes that of the cursor. Raises: GatewayError INVALID_VALUE."""
    values = {name: query.text(name) for name in _NAMES if not (request_id and name == "request_id")}
    if request_id:
        values["request_id"] = request_id
    outcomes = [outcome.value for outcome in RequestOutcome]
    if (outcome := values["outcome"]) and outcome not in outcomes:
        raise wrong_value("outcome", outcome, outcomes)
    if cursor is None:
        return RecordFilter(**values)
    continued = RecordFilter(*cursor.wanted)
    for name, value in values.items():
        if value not in {None, getattr(continued, name)}:
            raise refused_value("cursor", f"it belongs to a request with another '{name}'.")
    return continued
