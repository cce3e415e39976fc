"""JSON as nobody should write it, and bytes that were JSON once.

A `Raw` stands in a value for a text that is written as it is; a `Pairs` is an object that may name a field twice.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from hypothesis import strategies as st

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | Raw | Pairs | None"


@dataclass(frozen=True)
class Raw:
    text: bytes


@dataclass(frozen=True)
class Pairs:
    fields: tuple[tuple[str, JsonValue], ...]


def render(value: JsonValue) -> bytes:
    """JSON, as far as the value is."""
    match value:
        case Raw(text=text):
            return text
        case Pairs(fields=fields):
            return b"{" + b",".join(json.dumps(name).encode() + b":" + render(item) for name, item in fields) + b"}"
        case Mapping():
            return render(Pairs(tuple(value.items())))
        case str() | bool() | int() | float() | None:
            return json.dumps(value).encode()
        case _:
            return b"[" + b",".join(map(render, value)) + b"]"


def _deep(opening: bytes, closing: bytes) -> Callable[[int], Raw]:
    return lambda depth: Raw(opening * depth + b"0" + closing * depth)


_ODD_TOKENS: Final = (
    *(b"NaN", b"Infinity", b"-Infinity", b"-0", b"-0.0", b"1e999", b"-1e999", b"1e-999", b"1E400", b"0.1e1", b"1.0"),
    *(b"01", b"+1", b"0x10", b"1_0", b".5", b"5.", b"1e", b"--1", b"truE", b"True", b"None", b"undefined", b"'x'"),
    *(b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\\x41"', b'"a\x00b"', b'"a\nb"'),
    *(b'"\xff\xfe"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x80\xae"', b'"', b"", b"[", b"}"),
    *(b"9" * 400, b"9" * 4301, b"-" + b"9" * 5000, b"0." + b"9" * 5000, b"1" + b"0" * 4400 + b".0", b"1e" + b"9" * 400),
    *(b'"' + b"x" * 3000 + b'"', '"\u00e9"'.encode("latin-1"), "\ufeff1".encode(), b"/**/1", b"1//", b"1,", b"[1,]"),
)
_NUMBERS: Final = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 0.5, 1e308, 5e-324, -0.0)

texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec=None, categories=("Cs", "Cc", "Cf", "Lo", "So", "Zs")), max_size=8),
    st.sampled_from(
        ("", " ", "\x00", "null", "true", "0", "-1", "1e9", "\u202e", "\ud800", "\ufeff", "../../x", "%s%n")
    ),
    st.integers(1, 5000).map(lambda length: "x" * length),
)
numbers = st.one_of(st.sampled_from(_NUMBERS), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
odd_tokens = st.one_of(
    st.sampled_from(_ODD_TOKENS).map(Raw),
    st.integers(1, 3000).map(_deep(b"[", b"]")),
    st.integers(1, 3000).map(_deep(b'{"a":', b"}")),
    st.integers(1, 60_000).map(_deep(b"[", b"")),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)


def _nested(inner: "st.SearchStrategy[JsonValue]") -> "st.SearchStrategy[JsonValue]":
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.lists(st.tuples(texts, inner), max_size=4).map(lambda fields: Pairs(tuple(fields))),
    )


anything: "st.SearchStrategy[JsonValue]" = st.recursive(st.one_of(scalars, odd_tokens), _nested, max_leaves=8)
"""Any value of the wrong kind, and some that are none."""


@st.composite
def spoiled(draw: st.DrawFn, body: Mapping[str, JsonValue], names: Sequence[str]) -> JsonValue:
    """An object with some fields changed, left out, named twice, or named otherwise; `names`: those it might have."""
    fields: list[tuple[str, JsonValue]] = list(body.items())
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.one_of(st.sampled_from(names), texts))
        if draw(st.booleans()):
            fields = [field for field in fields if field[0] != name]
        if draw(st.integers(0, 3)):
            fields.insert(draw(st.integers(0, len(fields))), (name, draw(anything)))
    return Pairs(tuple(fields))


_MARKS: Final = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\\",
    b"\\u",
    b"\n",
    b"\x85",
)
_ENCODINGS: Final = ("utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1")


def _change(act: str, whole: bytes, first: int, last: int, more: bytes) -> bytes:
    match act:
        case "cut":
            return whole[:last]
        case "drop":
            return whole[:first] + whole[last:]
        case "double":
            return whole[:last] + whole[first:]
        case "flip":
            return whole[:first] + bytes(byte ^ 0x80 for byte in whole[first : first + 1]) + whole[first + 1 :]
        case _:
            return whole[:first] + more + whole[first:]


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes cut, doubled, flipped, put into another encoding or with something before, inside or behind."""
    for _ in range(draw(st.integers(1, 3))):
        act = draw(st.sampled_from(("cut", "drop", "double", "flip", "put", "before", "behind", "encode")))
        if act == "encode":
            whole = whole.decode("latin-1").encode(draw(st.sampled_from(_ENCODINGS)))
            continue
        first, last = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
        at = {"before": 0, "behind": len(whole)}.get(act, first)
        more = draw(st.one_of(st.sampled_from(_MARKS), st.binary(max_size=4)))
        whole = _change(act, whole, at, max(at, last), more)
    return whole
