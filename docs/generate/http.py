"""Routes and headers, from gateway/api/openapi.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from docs.generate.pages import code, codes, prose, table

DESCRIPTION: Final = Path(__file__).parents[2] / "gateway" / "api" / "openapi.json"
_KEYS: Final = {"tenantKey": "tenant's", "adminKey": "admin's"}


def blocks() -> dict[str, str]:
    described: dict[str, Any] = json.loads(DESCRIPTION.read_text("utf-8"))
    return {
        "routes": table(("route", "description", "key", "statuses"), _routes(described)),
        "headers": table(("header", "description"), _headers(described)),
    }


def _operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                yield f"{method.upper()} {path}", operation


def _routes(described: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for route, operation in _operations(described):
        schemes = [_KEYS[name] for needed in operation.get("security", ()) for name in needed]
        yield code(route), operation["summary"], " or ".join(schemes) or "none", codes(operation["responses"])


def _headers(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each response header once, at its first occurrence."""
    descriptions: dict[str, str] = {}
    for response in _responses(described):
        for name, header in response.get("headers", {}).items():
            descriptions.setdefault(name, _resolve(described, header)["description"])
    return ((code(name), prose(text)) for name, text in descriptions.items())


def _responses(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for _, operation in _operations(described):
        yield from (_resolve(described, response) for response in operation["responses"].values())


def _resolve(described: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Resolves a `$ref`."""
    found: Any = described
    for step in item.get("$ref", "").split("/")[1:]:
        found = found[step]
    return item if found is described else found
