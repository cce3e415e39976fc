"""`imagegate models`, and what `imagegate check` reports of models that retire."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from gateway.cli.client import AdminApi, Document, rows
from gateway.cli.output import print_table
from gateway.domain.catalog import Catalog

_NOTICE: Final = timedelta(days=60)
"""Time before the retirement of a model from which `imagegate check` warns of it."""
_COLUMNS: Final = ("ID", "ALIASES", "UPSTREAM", "MODEL", "N", "EDITS", "MASK", "FORMATS", "SIZES", "RETIRES", "USD")


def models(api: AdminApi) -> None:
    """List the configured models: what each upstream can make of them, and their prices."""
    api.show(api.ask("GET", "models"), _print_list)


def _print_list(response: Document) -> None:
    """Prints a line for each target."""
    listed = [_line(model, target) for model in rows(response) for target in rows(model, "targets")]
    print_table(_COLUMNS, listed, empty="No models.")


def _line(model: Document, target: Document) -> tuple[object, ...]:
    return (
        *(model.get("id"), _joined(model.get("aliases")), target.get("upstream"), target.get("model")),
        target.get("max_images_per_call"),
        *("yes" if target.get(name) else "no" for name in ("edits", "mask")),
        *(_joined(target.get(name)) for name in ("output_formats", "sizes")),
        *(target.get("retires_on") or "", target.get("price")),
    )


def _joined(values: object) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else ""


def retiring(catalog: Catalog, today: date) -> Iterator[tuple[str, str]]:
    """Yields each model with a target that has retired or soon will, and the warning."""
    for model in {model.id: model for _, model in catalog.names()}.values():
        for target in model.targets:
            if target.retires_on is None or target.retires_on > today + _NOTICE:
                continue
            days = (target.retires_on - today).days
            left = f"{days} day{'s' * (days > 1)}"
            when = f"retires on {target.retires_on}, in {left}" if days > 0 else f"retired on {target.retires_on}"
            text = f"'{target.model}' of upstream '{target.upstream}' {when}; use another model in [[models.targets]]"
            yield model.id, text
