"""Values that a schema of our own /openapi.json allows: what is spoiled afterwards comes close to being right."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from tests.fuzz.values import JsonValue
from tests.support.openapi import DESCRIBED, resolve

Schema = Mapping[str, Any]

_METHODS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    statuses: frozenset[int]
    query: tuple[tuple[str, Schema], ...]
    header: tuple[tuple[str, Schema], ...]
    body: Schema | None

    @property
    def is_admins(self) -> bool:
        return self.path.startswith("/admin/")

    @property
    def names(self) -> list[str]:
        """Of the fields that its body may have."""
        return sorted(resolve(self.body).get("properties", {})) if self.body else []

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


def _operations() -> Iterator[Operation]:
    for path, item in DESCRIBED["paths"].items():
        for method, described in item.items():
            if method not in _METHODS:
                continue
            given = [resolve(one) for one in (*item.get("parameters", ()), *described.get("parameters", ()))]
            content = resolve(described.get("requestBody", {})).get("content", {})
            yield Operation(
                method.upper(),
                path,
                frozenset(int(status) for status in described["responses"]),
                tuple((one["name"], one["schema"]) for one in given if one["in"] == "query"),
                tuple((one["name"], one["schema"]) for one in given if one["in"] == "header"),
                content.get("application/json", {}).get("schema"),
            )


OPERATIONS: Final = tuple(_operations())


def values(schema: Schema) -> st.SearchStrategy[JsonValue]:
    """What the schema allows; as far as the keywords go that our document uses."""
    schema = resolve(schema)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "oneOf" in schema or "anyOf" in schema:
        return st.one_of([values(one) for one in schema.get("oneOf", schema.get("anyOf"))])
    kinds = schema.get("type", "object")
    return st.one_of([_of_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _of_kind(kind: str, schema: Schema) -> st.SearchStrategy[JsonValue]:
    makers: Mapping[str, Callable[[], st.SearchStrategy[JsonValue]]] = {
        "null": st.none,
        "boolean": st.booleans,
        "integer": lambda: _integers(schema),
        "number": lambda: st.floats(schema.get("exclusiveMinimum", 0), schema.get("maximum", 1e6), exclude_min=True),
        "string": lambda: _texts(schema),
        "array": lambda: st.lists(values(schema.get("items", {})), min_size=schema.get("minItems", 0), max_size=3),
        "object": lambda: _objects(schema),
    }
    return makers[kind]()


def _integers(schema: Schema) -> st.SearchStrategy[JsonValue]:
    step = schema.get("multipleOf", 1)
    low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    return st.integers(-(-low // step), high // step).map(lambda number: number * step)


def _texts(schema: Schema) -> st.SearchStrategy[JsonValue]:
    given = [*schema.get("examples", ()), *((schema["example"],) if "example" in schema else ())]
    if "pattern" in schema:
        whole = schema["pattern"].removeprefix("^").removesuffix("$")
        drawn: st.SearchStrategy[str] = st.from_regex(re.compile(f"(?:{whole})", re.ASCII), fullmatch=True)
    elif schema.get("format") == "date":
        drawn = st.dates().map(str)
    else:
        drawn = st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 40), 40))
    return st.one_of(drawn, st.sampled_from(given)) if given else drawn


def _objects(schema: Schema) -> st.SearchStrategy[JsonValue]:
    parts = [resolve(part) for part in (schema, *schema.get("allOf", ()))]
    fields = {name: values(node) for part in parts for name, node in part.get("properties", {}).items()}
    required = {name for part in parts for name in part.get("required", ())}
    return st.fixed_dictionaries(
        {name: made for name, made in fields.items() if name in required},
        optional={name: made for name, made in fields.items() if name not in required},
    )
