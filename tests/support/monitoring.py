"""The dashboard and the alert rules of deploy/."""

import json
from collections.abc import Iterator
from typing import Any

from tests.deploy.files import DEPLOY, read_yaml

RULES: list[dict[str, Any]] = [
    rule for group in read_yaml(DEPLOY / "prometheus/alerts.yml")["groups"] for rule in group["rules"]
]


DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/imagegate.json").read_text("utf-8"))


PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]


def queries() -> Iterator[str]:
    """Yields every query of the panels, with Grafana's variables replaced."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "3h")
            for variable in VARIABLES:
                query = query.replace(f"${variable['name']}", ".*")
            yield query
