"""Request bodies and query parameters of the admin API. Errors name the field."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request

from gateway.api.bodies import BodyLimits, read_json_body
from gateway.api.refusals import refused_value, unknown_parameter
from gateway.domain.billing import usd_micros
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import LIMIT_MAX, Limits, Quotas, Tenant
from gateway.providers.replies import JSON_DECODE_ERRORS

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
Weight = Annotated[int, Meta(ge=1, le=1000)]
KeepHours = Annotated[int, Meta(ge=1, le=720)]
StorageBytes = Annotated[int, Meta(ge=0, le=2**53)]
_Limit = Annotated[int, Meta(ge=0, le=LIMIT_MAX)]
_Usd = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z")]
Text = Annotated[str, Meta(max_length=100)]
_TagKey = Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,32}\Z")]
_TagValue = Annotated[str, Meta(pattern=r"^[ -~]{1,64}\Z")]
TagsChange = dict[_TagKey, _TagValue | None]
_Percent = Annotated[int, Meta(ge=1, le=1000)]
AlertAddress = Annotated[str, Meta(max_length=2000, pattern=r"^(mailto:[^\s@]+@[^\s@]+|https?://\S+)\Z")]
TAGS_MAX: Final = 8
_NAME: Final = "1 to 63 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
_WORDS: Final = {
    **dict.fromkeys(("name", "upstream", "account", "key"), _NAME),
    "secret": "1 to 500 printable ASCII characters without spaces",
    "state": "'ready', 'disabled' or 'draining'",
    "tags": "a key of 1 to 32 characters of a-z, 0-9, '_', '.' and '-'",
    "tags[...]": "a value of 1 to 64 printable ASCII characters",
    "to": "'mailto:' and an address, or a URL",
    "month": "a month, as 2026-01",
    "id": "at most 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'",
    "usd": 'a decimal string up to 999999999 with up to 6 decimals, as "50.00"',
    "usd_per_month": 'a decimal string up to 999999999 with up to 6 decimals, as "50.00"',
}
_FIELD: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_SHOWN_MAX_CHARS: Final = 64


class Schema(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body. Unknown fields are errors."""


class LimitsChange(Schema):
    """A JSON merge patch (RFC 7396): missing fields stay unchanged, null removes a limit."""

    requests_per_minute: _Limit | UnsetType | None = UNSET
    images_per_minute: _Limit | UnsetType | None = UNSET
    concurrency: _Limit | UnsetType | None = UNSET


class QuotasChange(Schema):
    """A JSON merge patch of quotas."""

    images_per_day: _Limit | UnsetType | None = UNSET
    images_per_month: _Limit | UnsetType | None = UNSET
    usd_per_month: _Usd | UnsetType | None = UNSET
    soft_usd_per_month: _Usd | UnsetType | None = UNSET


class AlertsChange(Schema):
    """A JSON merge patch of alerts; null is the setting."""

    percent: list[_Percent] | UnsetType | None = UNSET
    to: list[AlertAddress] | UnsetType | None = UNSET


class AboutChange(Schema):
    """A JSON merge patch of what a tenant's record says about it; null removes."""

    owner: Text | UnsetType | None = UNSET
    contact: Text | UnsetType | None = UNSET
    cost_centre: Text | UnsetType | None = UNSET
    tags: TagsChange | UnsetType | None = UNSET
    required_tags: list[_TagKey] | UnsetType | None = UNSET
    alerts: AlertsChange | UnsetType | None = UNSET

    def applied(self, tenant: Tenant) -> Tenant:
        alerts = AlertsChange(percent=None, to=None) if self.alerts is None else value_or(self.alerts, AlertsChange())
        required = tenant.required_tags if isinstance(self.required_tags, UnsetType) else self.required_tags
        to = tenant.alert_to if isinstance(alerts.to, UnsetType) else alerts.to
        percents = value_or(alerts.percent, tenant.alert_percents)
        return replace(
            tenant,
            owner=value_or(self.owner, tenant.owner) or "",
            contact=value_or(self.contact, tenant.contact) or "",
            cost_centre=value_or(self.cost_centre, tenant.cost_centre) or "",
            tags=merged_tags(tenant.tags, self.tags),
            required_tags=frozenset(required or ()),
            alert_percents=None if percents is None else tuple(sorted(set(percents))),
            alert_to=tuple(to or ()),
        )


_Body = TypeVar("_Body", bound=Schema)
_Bounds = TypeVar("_Bounds", Limits, Quotas)
_T = TypeVar("_T")


def merged(bounds: _Bounds, change: LimitsChange | QuotasChange | UnsetType | None) -> _Bounds:
    """Applies a merge patch; null removes all."""
    if isinstance(change, UnsetType):
        return bounds
    if change is None:
        return type(bounds)()
    values = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
    for name in {"usd_per_month", "soft_usd_per_month"} & values.keys():
        money = values.pop(name)
        values[name.replace("usd", "usd_micros")] = None if money is None else usd_micros(money)
    return replace(bounds, **values)


def merged_tags(tags: Mapping[str, str], change: Mapping[str, str | None] | UnsetType | None) -> Mapping[str, str]:
    """Applies a merge patch; null removes one, or all. Raises: GatewayError INVALID_VALUE for more than 8."""
    if isinstance(change, UnsetType):
        return tags
    after = {} if change is None else {name: value for name, value in {**tags, **change}.items() if value is not None}
    if len(after) > TAGS_MAX:
        raise refused_value("tags", f"expected at most {TAGS_MAX}.")
    return after


def value_or(value: _T | UnsetType, default: _T) -> _T:
    """Returns the value that was sent, or the default."""
    return default if isinstance(value, UnsetType) else value


async def read_document(request: Request, limits: BodyLimits, kind: type[_Body]) -> _Body:
    """Decodes the body of a request. An empty body is an empty object.

    Raises: GatewayError INVALID_VALUE with the field's name, INVALID_JSON, and those of `read_json_body`.
    """
    body = await read_json_body(request, limits)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        place, problem, field = describe_mistake(str(error))
        param = f"{place}.{field}".lstrip(".")[:_SHOWN_MAX_CHARS] if field else place or None
        raise GatewayError(ErrorCode.INVALID_VALUE, f"{place or 'The body'}: {problem}.", param=param) from None
    except JSON_DECODE_ERRORS:
        raise GatewayError(ErrorCode.INVALID_JSON) from None


def describe_mistake(message: str) -> tuple[str, str, str]:
    """Returns place and problem of msgspec's message, and the field that is unknown or missing there, or ""."""
    problem, _, path = message.replace("`key` in `$", "`$").partition(" - at `$")
    place = path.strip(".`")
    if named := _FIELD.fullmatch(problem):
        return place, problem[: 2 * _SHOWN_MAX_CHARS], named[1]
    if "regex" in problem or "Expected `str" in problem:
        expected = _WORDS.get(re.sub(r"\[\d+\]\Z", "", place.rpartition(".")[2]))
        problem = f"Expected {expected}" if expected else problem
    return place, problem, ""


class QueryFields:
    """The query parameters of one request, each read once."""

    def __init__(self, request: Request) -> None:
        self._unread = {name: request.query_params.getlist(name) for name in request.query_params}

    def text(self, name: str) -> str | None:
        """Returns None if absent. Raises: GatewayError INVALID_VALUE if empty or repeated: its meaning is unclear."""
        values = self._unread.pop(name, None)
        if values is None:
            return None
        if values[1:]:
            raise refused_value(name, "expected it once.")
        if not values[0]:
            raise refused_value(name, "it is empty; leave it out for its default.")
        return values[0]

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest):
            raise refused_value(name, f"expected an integer from {lowest} to {highest}.")
        return int(text)

    def reject_unknown(self) -> None:
        """Refuses parameters that were not read, so that none is dropped silently."""
        for name in sorted(self._unread):
            raise unknown_parameter(name)
