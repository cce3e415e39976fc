"""Options and output of what a tenant or a key says about itself."""

from typing import Annotated

import typer

from gateway.cli.client import Document

Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="A tag of all its requests; repeatable. KEY= removes one."),
]


def tags_document(tags: list[str] | None) -> Document:
    """Builds the merge patch of tags that were given. Raises: typer.BadParameter."""
    patch: Document = {}
    for tag in tags or ():
        name, equals, value = tag.partition("=")
        if not equals:
            raise typer.BadParameter("expected KEY=VALUE, as feature=shop", param_hint="--tag")
        patch[name] = value or None
    return patch


def about_fields(document: Document) -> list[tuple[str, object]]:
    """Returns names and values of what a tenant or key says about itself; those that are set."""
    alerts = document.get("alerts")
    percents, to = (alerts.get("percent"), alerts.get("to")) if isinstance(alerts, dict) else (None, None)
    tags, required = document.get("tags"), document.get("required_tags")
    lines: list[tuple[str, object]] = [
        (name.replace("_", " "), document.get(name) or None) for name in ("owner", "contact", "cost_centre", "role")
    ]
    pairs = [f"{name}={value}" for name, value in tags.items()] if isinstance(tags, dict) else []
    lines += [
        (name, ", ".join(map(str, values)) if isinstance(values, list) and values else None)
        for name, values in (
            ("tags", pairs),
            ("required tags", required),
            ("alerts at percent", percents),
            ("alerts to", to),
        )
    ]
    return lines
