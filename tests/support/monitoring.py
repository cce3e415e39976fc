"""The dashboard and the alert rules of deploy/."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.files import DEPLOY, read_yaml

RULES: list[dict[str, Any]] = [
    rule for group in read_yaml(DEPLOY / "prometheus/alerts.yml")["groups"] for rule in group["rules"]
]


DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/imagegate.json").read_text("utf-8"))


PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]


def targets() -> Iterator[dict[str, Any]]:
    """Yields what every panel asks for."""
    for panel in PANELS:
        yield from panel["targets"]


def queries() -> Iterator[str]:
    """Yields every query of the panels, with Grafana's variables replaced."""
    for target in targets():
        yield _replaced(target["expr"])


def offered() -> dict[str, tuple[str, str]]:
    """The series and the label from which each variable of the dashboard takes its values."""
    found = {}
    for variable in VARIABLES:
        if variable["type"] == "query":
            query, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr] # a test that fails
            found[variable["name"]] = (_replaced(query), label)
    return found


def _replaced(query: str) -> str:
    query = query.replace("$__rate_interval", "5m").replace("$__range", "3h")
    for variable in VARIABLES:
        query = query.replace(f"${variable['name']}", ".*")
    return query
