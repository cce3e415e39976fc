"""What administrators send: bodies and query parameters, taken whole or refused with the field named."""

import re
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request

from gateway.api.bodies import BodyLimits, read_json_body
from gateway.api.fields import refused_value, unknown_parameter
from gateway.domain.billing import usd_micros
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import LIMIT_MAX, Limits, Quotas
from gateway.providers.replies import JSON_DECODE_ERRORS

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
Label = Annotated[str, Meta(max_length=100)]
Moment = Annotated[int, Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, up to the year 9999."""
Weight = Annotated[int, Meta(ge=1, le=1000)]
Limit = Annotated[int, Meta(ge=0, le=LIMIT_MAX)]
Usd = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z")]
_NAME: Final = "1 to 63 of the characters a-z, 0-9, '.', '_' and '-', a letter or digit first"
_WORDS: Final = {
    "name": _NAME,
    "upstream": _NAME,
    "account": _NAME,
    "key": _NAME,
    "secret": "1 to 500 printable ASCII characters without blanks",
    "state": "'ready', 'disabled' or 'draining'",
    "usd_per_month": 'a decimal in quotes, up to 999999999 and with up to 6 decimals, as "50.00"',
}


_FIELD: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_SHOWN_MAX_CHARS: Final = 64


class Schema(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body: unknown fields are errors."""


_Body = TypeVar("_Body", bound=Schema)


class LimitsChange(Schema):
    """What is not given stays, null removes a limit (RFC 7396)."""

    requests_per_minute: Limit | UnsetType | None = UNSET
    images_per_minute: Limit | UnsetType | None = UNSET
    concurrency: Limit | UnsetType | None = UNSET


class QuotasChange(Schema):
    """The same for quotas."""

    images_per_day: Limit | UnsetType | None = UNSET
    images_per_month: Limit | UnsetType | None = UNSET
    usd_per_month: Usd | UnsetType | None = UNSET


def merged_limits(limits: Limits, change: LimitsChange | UnsetType | None) -> Limits:
    if isinstance(change, UnsetType):
        return limits
    if change is None:
        return Limits()
    return Limits(
        given(change.requests_per_minute, limits.requests_per_minute),
        given(change.images_per_minute, limits.images_per_minute),
        given(change.concurrency, limits.concurrency),
    )


def merged_quotas(quotas: Quotas, change: QuotasChange | UnsetType | None) -> Quotas:
    if isinstance(change, UnsetType):
        return quotas
    if change is None:
        return Quotas()
    money = change.usd_per_month
    return Quotas(
        given(change.images_per_day, quotas.images_per_day),
        given(change.images_per_month, quotas.images_per_month),
        given(usd_micros(money) if isinstance(money, str) else money, quotas.usd_micros_per_month),
    )


_T = TypeVar("_T")


def given(value: _T | UnsetType, otherwise: _T) -> _T:
    """What was sent, or what there is."""
    return otherwise if isinstance(value, UnsetType) else value


async def read_document(request: Request, limits: BodyLimits, kind: type[_Body]) -> _Body:
    """The body of a request; an empty one is an empty document.

    Raises: GatewayError INVALID_VALUE naming the field, INVALID_JSON, and what `read_json_body` does.
    """
    body = await read_json_body(request, limits)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except JSON_DECODE_ERRORS:
        raise GatewayError(ErrorCode.INVALID_JSON) from None


def _refusal(message: str) -> GatewayError:
    what, _, where = message.partition(" - at `$")
    place = where.strip(".`")
    if named := _FIELD.fullmatch(what):
        name = f"{place}.{named[1]}".lstrip(".")[:_SHOWN_MAX_CHARS]
        return GatewayError(
            ErrorCode.INVALID_VALUE, f"{place or 'The body'}: {what[: 2 * _SHOWN_MAX_CHARS]}.", param=name
        )
    param = place or None
    words = _WORDS.get(str(param).rpartition(".")[2], "")
    if words and ("regex" in what or "Expected `str" in what):
        what = f"Expected {words}"
    return GatewayError(ErrorCode.INVALID_VALUE, f"{param or 'The body'}: {what}.", param=param)


class QueryFields:
    """The query parameters of one request, each taken once."""

    def __init__(self, request: Request) -> None:
        self._given = dict(request.query_params)

    def text(self, name: str) -> str | None:
        """None when absent or empty."""
        return self._given.pop(name, "") or None

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest):
            raise refused_value(name, f"an integer from {lowest} to {highest} is expected.")
        return int(text)

    def reject_unknown(self) -> None:
        """Refuse parameters that nobody took: nothing is dropped silently."""
        for name in sorted(self._given):
            raise unknown_parameter(name)
