"""`imagegate models`."""

from typing import Final

from gateway.cli.client import AdminApi, Document, rows
from gateway.cli.output import print_table

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
