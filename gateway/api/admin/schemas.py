"""Request bodies and query parameters of the admin API. Errors name the field."""

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
_NAME: Final = "1 to 63 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
_WORDS: Final = {
    "name": _NAME,
    "upstream": _NAME,
    "account": _NAME,
    "key": _NAME,
    "secret": "1 to 500 printable ASCII characters without spaces",
    "state": "'ready', 'disabled' or 'draining'",
    "usd_per_month": 'a decimal string up to 999999999 with up to 6 decimals, as "50.00"',
}


_FIELD: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_SHOWN_MAX_CHARS: Final = 64


class Schema(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body. Unknown fields are errors."""


_Body = TypeVar("_Body", bound=Schema)


class LimitsChange(Schema):
    """A JSON merge patch (RFC 7396): missing fields stay unchanged, null removes a limit."""

    requests_per_minute: Limit | UnsetType | None = UNSET
    images_per_minute: Limit | UnsetType | None = UNSET
    concurrency: Limit | UnsetType | None = UNSET


class QuotasChange(Schema):
    """A JSON merge patch of quotas."""

    images_per_day: Limit | UnsetType | None = UNSET
    images_per_month: Limit | UnsetType | None = UNSET
    usd_per_month: Usd | UnsetType | None = UNSET


def merged_limits(limits: Limits, change: LimitsChange | UnsetType | None) -> Limits:
    if isinstance(change, UnsetType):
        return limits
    if change is None:
        return Limits()
    return Limits(
        value_or(change.requests_per_minute, limits.requests_per_minute),
        value_or(change.images_per_minute, limits.images_per_minute),
        value_or(change.concurrency, limits.concurrency),
    )


def merged_quotas(quotas: Quotas, change: QuotasChange | UnsetType | None) -> Quotas:
    if isinstance(change, UnsetType):
        return quotas
    if change is None:
        return Quotas()
    money = change.usd_per_month
    return Quotas(
        value_or(change.images_per_day, quotas.images_per_day),
        value_or(change.images_per_month, quotas.images_per_month),
        value_or(usd_micros(money) if isinstance(money, str) else money, quotas.usd_micros_per_month),
    )


_T = TypeVar("_T")


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
        raise _validation_error(str(error)) from None
    except JSON_DECODE_ERRORS:
        raise GatewayError(ErrorCode.INVALID_JSON) from None


def _validation_error(message: str) -> GatewayError:
    problem, _, path = message.partition(" - at `$")
    place = path.strip(".`")
    if named := _FIELD.fullmatch(problem):
        name = f"{place}.{named[1]}".lstrip(".")[:_SHOWN_MAX_CHARS]
        return GatewayError(
            ErrorCode.INVALID_VALUE, f"{place or 'The body'}: {problem[: 2 * _SHOWN_MAX_CHARS]}.", param=name
        )
    param = place or None
    expected = _WORDS.get(str(param).rpartition(".")[2], "")
    if expected and ("regex" in problem or "Expected `str" in problem):
        problem = f"Expected {expected}"
    return GatewayError(ErrorCode.INVALID_VALUE, f"{param or 'The body'}: {problem}.", param=param)


class QueryFields:
    """The query parameters of one request, each read once."""

    def __init__(self, request: Request) -> None:
        self._unread = dict(request.query_params)

    def text(self, name: str) -> str | None:
        """Returns None if absent or empty."""
        return self._unread.pop(name, "") or None

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
