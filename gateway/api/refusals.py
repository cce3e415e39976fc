"""Refusals of request fields in OpenAI's own words (reference/openai-images.md section 1.4)."""

import re
from collections.abc import Sequence
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError

_SHOWN_MAX_CHARS: Final = 64
_LISTED_MAX: Final = 20
"""Limit on unknown fields that an error or a header names."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_OTHER_NAME: Final = "?"
"""Written in a header instead of a field name of another form."""


def wrong_value(name: str, value: str, supported: Sequence[str]) -> GatewayError:
    kind = "values are" if supported[1:] else "value is"
    choices = listed([f"'{item}'" for item in supported])
    message = f"Invalid value: '{excerpt(value)}'. Supported {kind}: {choices}."
    return GatewayError(ErrorCode.INVALID_VALUE, message, param=name)


def refused_value(name: str, why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_VALUE, f"Invalid value for '{name}': {why}", param=name)


def missing(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{name}'.", param=name)


def unknown_parameter(name: str, why: str = "") -> GatewayError:
    return unknown_parameters([name], why)


def unknown_parameters(names: Sequence[str], why: str = "") -> GatewayError:
    """Names all of them, so that a client is changed once. `param` is the first."""
    shown = [excerpt(name) for name in names[:_LISTED_MAX]]
    quoted = [f"'{name}'" for name in shown]
    if more := len(names) - len(quoted):
        quoted.append(f"{more} more")
    plural = "s" if names[1:] else ""
    return GatewayError(
        ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter{plural}: {listed(quoted)}.{why}", param=shown[0]
    )


def header_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the client's own field names as a header can list them."""
    shown = (name if _HEADER_NAME.fullmatch(name) else _OTHER_NAME for name in names[:_LISTED_MAX])
    more = len(names) - _LISTED_MAX
    return (*dict.fromkeys(shown), *([f"{more} more"] if more > 0 else []))


def unknown_model(name: str) -> GatewayError:
    return GatewayError(ErrorCode.MODEL_UNKNOWN, f"The model '{excerpt(name)}' does not exist. See GET /v1/models.")


def listed(items: Sequence[str]) -> str:
    """Returns the items as a sentence lists them."""
    comma = "," if items[2:] else ""
    return f"{', '.join(items[:-1])}{comma} and {items[-1]}" if items[1:] else items[0]


def excerpt(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}..."
