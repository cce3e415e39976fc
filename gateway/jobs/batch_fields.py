"""The fields of a batch's record, as its Redis hash has them: as text, and structured ones as JSON."""

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import accumulate
from typing import Final, TypeVar

import msgspec

_JSON: Final = frozenset({"metadata", "tags", "errors"})
_T = TypeVar("_T")


def write_fields(fields: Mapping[str, object]) -> bytes:
    """Renders fields as the flat JSON array that the scripts pass to HSET; those that are None are left out."""
    flat: list[str] = []
    for name, value in fields.items():
        if value is not None:
            flat += [name, msgspec.json.encode(value).decode() if name in _JSON else _text(value)]
    return msgspec.json.encode(flat)


def read_fields(fields: Mapping[str, str], kind: type[_T]) -> _T:
    decoded = {name: msgspec.json.decode(text) if name in _JSON else text for name, text in fields.items()}
    return msgspec.convert(decoded, kind, strict=False)


def first_encoded(values: Sequence[_T], max_bytes: int) -> Sequence[_T]:
    """Returns the first values, as many as have at most `max_bytes` as JSON."""
    sizes = accumulate(len(msgspec.json.encode(value)) for value in values)
    return values[: sum(size <= max_bytes for size in sizes)]


def _text(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)
