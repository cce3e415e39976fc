"""Reads a JSON object field by field, with OpenAI's own errors (reference/openai-images.md section 1.4).

`null` means absent everywhere. `reject_unknown` refuses every field that was not read.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.replies import JSON_DECODE_ERRORS

_NULL: Final = msgspec.Raw(b"null")
_SHOWN_MAX_CHARS: Final = 64
_STRUCTURE: Final = (b'"', b",")
_STRUCTURE_MAX: Final = 20_000
"""Limit on commas and quotes in a body, including those in strings. A common body has tens, its prompt up to 1499.
16 MiB of them would parse into objects that take seconds and hundreds of megabytes.
"""


class JsonFields:
    """The fields of one request body."""

    def __init__(self, body: bytes | bytearray) -> None:
        """Raises: GatewayError INVALID_JSON."""
        if sum(body.count(mark) for mark in _STRUCTURE) > _STRUCTURE_MAX:
            raise GatewayError(
                ErrorCode.INVALID_JSON, "We could not parse the JSON body of your request: it has too many values."
            )
        try:
            self._raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            raise GatewayError(
                ErrorCode.INVALID_JSON, "We could not parse the JSON body of your request: it must be an object."
            ) from None
        except JSON_DECODE_ERRORS as error:
            raise GatewayError(
                ErrorCode.INVALID_JSON, f"We could not parse the JSON body of your request: {_reason(error)}."
            ) from None
        self._untaken = set(self._raw)

    def raw(self, name: str) -> msgspec.Raw | None:
        """Returns the undecoded field; None if absent or null."""
        self._untaken.discard(name)
        value = self._raw.get(name)
        return None if value == _NULL else value

    def value(self, name: str) -> object:
        """Returns the decoded field; None if absent or null."""
        raw = self.raw(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw)
        except JSON_DECODE_ERRORS as error:
            raise GatewayError(
                ErrorCode.INVALID_JSON,
                f"We could not parse '{name}' in the JSON body of your request: {_reason(error)}.",
            ) from None

    def string(self, name: str) -> str | None:
        value = self.value(name)
        if value is None or isinstance(value, str):
            return value
        raise wrong_type(name, "a string", value)

    def boolean(self, name: str) -> bool | None:
        value = self.value(name)
        if value is None or isinstance(value, bool):
            return value
        raise wrong_type(name, "a boolean", value)

    def integer(self, name: str, lowest: int, highest: int) -> int | None:
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an integer", value)
        if value < lowest:
            raise GatewayError(
                ErrorCode.INTEGER_BELOW_MIN,
                f"Invalid '{name}': integer below minimum value. Expected a value >= {lowest}, "
                f"but got {_shown(str(value))} instead.",
                param=name,
            )
        if value > highest:
            raise GatewayError(
                ErrorCode.INTEGER_ABOVE_MAX,
                f"Invalid '{name}': integer above maximum value. Expected a value <= {highest}, "
                f"but got {_shown(str(value))} instead.",
                param=name,
            )
        return value

    def choice(self, name: str, supported: Sequence[str]) -> str | None:
        value = self.string(name)
        if value is None or value in supported:
            return value
        raise wrong_value(name, value, supported)

    def ignore(self, *names: str) -> None:
        """Accepts fields with any value: they have no effect."""
        self._untaken.difference_update(names)

    def reject_unknown(self) -> None:
        """Refuses fields that were not read, so that none is dropped silently."""
        unknown = sorted(name for name in self._untaken if self._raw[name] != _NULL)
        if unknown:
            raise unknown_parameter(unknown[0])


def wrong_type(name: str, expected: str, value: object) -> GatewayError:
    return GatewayError(
        ErrorCode.INVALID_TYPE,
        f"Invalid type for '{name}': expected {expected}, but got {_kind(value)} instead.",
        param=name,
    )


def wrong_value(name: str, value: object, supported: Sequence[str]) -> GatewayError:
    names = [f"'{item}'" for item in supported]
    comma = "," if len(names) > 2 else ""
    listed = f"values are: {', '.join(names[:-1])}{comma} and {names[-1]}" if names[1:] else f"value is: {names[0]}"
    return GatewayError(
        ErrorCode.INVALID_VALUE, f"Invalid value: '{_shown(str(value))}'. Supported {listed}.", param=name
    )


def refused_value(name: str, why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_VALUE, f"Invalid value for '{name}': {why}", param=name)


def missing(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{name}'.", param=name)


def unknown_parameter(name: str, why: str = "") -> GatewayError:
    shown = _shown(name)
    return GatewayError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{shown}'.{why}", param=shown)


def too_long(name: str, highest: int, length: int) -> GatewayError:
    return GatewayError(
        ErrorCode.STRING_TOO_LONG,
        f"Invalid '{name}': string too long. Expected a string with maximum length {highest}, "
        f"but got a string with length {length} instead.",
        param=name,
    )


def empty(name: str) -> GatewayError:
    return GatewayError(
        ErrorCode.EMPTY_STRING,
        f"Invalid '{name}': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        param=name,
    )


def unknown_model(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MODEL_UNKNOWN, f"The model '{_shown(name)}' does not exist. See GET /v1/models.")


def _shown(text: str) -> str:
    """Shortens the caller's text for a message."""
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}..."


_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal number"),
    (str, "a string"),
    (list, "an array"),
)
"""Names of JSON's types. bool precedes int, its base class."""


def _kind(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "an object")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).removeprefix("JSON is malformed: ").rstrip(".")
