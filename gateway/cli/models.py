"""`imagegate models`."""

from gateway.cli.client import AdminApi, Document, rows
from gateway.cli.output import print_table


def models(api: AdminApi) -> None:
    """List the configured models with their prices and upstreams."""
    api.show(api.ask("GET", "models"), _print_list)


def _print_list(response: Document) -> None:
    listed = []
    for model in rows(response):
        aliases, capabilities = model.get("aliases"), model.get("capabilities")
        other_names = ", ".join(map(str, aliases)) if isinstance(aliases, list) else ""
        edits = "yes" if isinstance(capabilities, dict) and capabilities.get("edits") else "no"
        upstreams = ", ".join(str(target.get("upstream")) for target in rows(model, "targets"))
        listed.append((model.get("id"), other_names, edits, upstreams, model.get("price_per_image_usd")))
    print_table(("ID", "ALIASES", "EDITS", "UPSTREAMS", "USD/IMAGE"), listed, empty="No models.", numbers=1)
