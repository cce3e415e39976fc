"""Which routes and parameters this version serves, so that the console shows no control without its route."""

from functools import cache
from typing import Any

import msgspec

from gateway.api.health import DOCUMENT

_METHODS = ("get", "post", "patch", "delete")


@cache
def served(prefix: str) -> list[str]:
    """Returns `GET /path` of each route below a prefix, and `GET /path?name` of each parameter of its query."""
    document: dict[str, Any] = msgspec.json.decode(DOCUMENT.read_bytes())
    shared = document["components"]["parameters"]
    found = []
    for path, item in document["paths"].items():
        if not path.startswith(f"{prefix}/"):
            continue
        for method in (name for name in _METHODS if name in item):
            found.append(f"{method.upper()} {path}")
            for each in item[method].get("parameters", []):
                parameter = shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
                if parameter["in"] == "query":
                    found.append(f"{method.upper()} {path}?{parameter['name']}")
    return found
