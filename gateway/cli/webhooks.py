"""`imagegate webhook`."""

from typing import Annotated

import typer

from gateway.cli.client import AdminApi, Document, Yes, admin_command, rows
from gateway.cli.contexts import confirm
from gateway.cli.output import fail, minute, print_fields, print_table, printable

app = typer.Typer(help="Manage endpoints that get events: webhooks, Slack and e-mail.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(help="The webhook's ID, as listed.")]
Events = Annotated[
    list[str] | None, typer.Option("--event", help="A type of event, or a pattern as 'quota.*'; repeatable.")
]


@admin_command(app, "create")
def create(
    api: AdminApi,
    name: Annotated[str, typer.Argument(help="What the webhook is for.")],
    to: Annotated[str, typer.Argument(metavar="URL", help="An https:// URL, or mailto: and an address.")],
    event: Events = None,
    tenant: Annotated[str | None, typer.Option(help="Send only the events of this tenant.")] = None,
    slack: Annotated[
        bool, typer.Option("--slack", help="Send text, as Slack, Mattermost and Teams accept it.")
    ] = False,
) -> None:
    """Create a webhook and show its secret once. Default: all events of all tenants."""
    body: Document = {"name": name, "url": to, "event_types": event or ["*"], "tenant": tenant}
    api.show(api.ask("POST", "webhooks", body=body | ({"channel": "slack"} if slack else {})), _print_secret)


@admin_command(app, "list")
def list_(api: AdminApi) -> None:
    """List webhooks."""
    api.show(api.ask("GET", "webhooks"), _print_list)


@admin_command(app, "show")
def show(api: AdminApi, webhook: WebhookId) -> None:
    """Show one webhook."""
    api.show(api.ask("GET", "webhooks", webhook), _print)


@admin_command(app, "update")
def update(
    api: AdminApi,
    webhook: WebhookId,
    name: Annotated[str | None, typer.Option(help="What the webhook is for.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="URL", help="Where it sends to.")] = None,
    event: Events = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Enable or disable it.")] = None,
) -> None:
    """Change a webhook. Omitted options stay unchanged."""
    given = {"name": name, "url": to, "event_types": event or None, "enabled": enable}
    change: Document = {field: value for field, value in given.items() if value is not None}
    if not change:
        raise typer.BadParameter("nothing to change; set --name, --to, --event, --enable or --disable")
    api.show(api.ask("PATCH", "webhooks", webhook, body=change), _print)


@admin_command(app, "delete")
def delete(
    api: AdminApi,
    webhook: WebhookId,
    yes: Yes = False,
) -> None:
    """Delete a webhook with its secret and its pending deliveries."""
    confirm(api.place, f"delete webhook {webhook}, its secret and its pending deliveries", yes=yes)
    api.show(api.ask("DELETE", "webhooks", webhook), lambda _: print(printable(f"Webhook {webhook} is deleted.")))


@admin_command(app, "rotate")
def rotate(
    api: AdminApi,
    webhook: WebhookId,
    now: Annotated[bool, typer.Option("--now", help="Stop signing with the old secret at once.")] = False,
    yes: Yes = False,
) -> None:
    """Replace the secret and show it once. Events are signed with the old one too for 24 hours."""
    if now:
        confirm(api.place, f"rotate the secret of webhook {webhook} and end its present one at once", yes=yes)
    body: Document = {"keep_old_secret_active_for_24_hours": not now}
    api.show(api.ask("POST", "webhooks", webhook, "rotate_secret", body=body), _print_secret)


@admin_command(app, "test")
def send_test(
    api: AdminApi,
    webhook: WebhookId,
    event: Annotated[str, typer.Argument(help="The type of event to send.")] = "quota.threshold_crossed",
) -> None:
    """Send a test event and show the status that came back."""
    answer = api.ask("POST", "webhooks", webhook, "test", body={"event_type": event})
    api.show(answer, lambda _: print(printable(f"{event}: {_outcome(answer)}")))
    status = answer.get("status_code")
    if not (isinstance(status, int) and 200 <= status < 300):
        fail(f"the test event was not accepted: {_outcome(answer)}")


@admin_command(app, "deliveries")
def deliveries(api: AdminApi, webhook: WebhookId) -> None:
    """List the last 100 deliveries of a webhook."""
    api.show(api.ask("GET", "webhooks", webhook, "deliveries"), _print_deliveries)


@admin_command(app, "replay")
def replay(
    api: AdminApi, webhook: WebhookId, delivery: Annotated[str, typer.Argument(help="The delivery's ID, as listed.")]
) -> None:
    """Send a delivery again, with the same event ID."""
    answer = api.ask("POST", "webhooks", webhook, "deliveries", delivery, "replay", body={})
    api.show(answer, lambda _: print(printable(f"{delivery} will be sent again.")))


def _print_list(answer: Document) -> None:
    listed = [
        (one.get("id"), one.get("name"), one.get("channel"), one.get("tenant") or "all", _events(one), _state(one))
        for one in rows(answer)
    ]
    print_table(("ID", "NAME", "CHANNEL", "TENANT", "EVENTS", "STATE"), listed, empty="No webhooks.")


def _print(webhook: Document) -> None:
    hint, until = webhook.get("signing_secret_hint"), webhook.get("old_secret_until")
    print_fields(
        *((name, webhook.get(name)) for name in ("id", "name", "url", "channel")),
        ("events", _events(webhook)),
        ("tenant", webhook.get("tenant") or "all"),
        ("state", _state(webhook)),
        ("reason", webhook.get("disabled_reason")),
        ("problem", webhook.get("problem")),
        ("secret", f"whsec_...{hint}" if hint else None),
        ("old secret until", minute(until) if until else None),
        ("declared", "in the configuration" if webhook.get("declared") else None),
    )


def _print_secret(webhook: Document) -> None:
    if secret := webhook.get("signing_secret"):
        print(printable(str(secret)))
        typer.echo(printable(f"Webhook {webhook.get('id')}. The secret is shown only once. Store it safely."), err=True)
    else:
        _print(webhook)
    if until := webhook.get("old_secret_until"):
        typer.echo(f"The old secret signs too until {minute(until)}.", err=True)


def _print_deliveries(answer: Document) -> None:
    listed = [
        (
            one.get("id"),
            minute(one.get("created_at")),
            one.get("event_type"),
            one.get("result"),
            one.get("attempts"),
            _outcome(one),
        )
        for one in rows(answer)
    ]
    print_table(("ID", "EVENT AT", "EVENT", "RESULT", "ATTEMPTS", "LAST"), listed, empty="No deliveries.")


def _outcome(answer: Document) -> str:
    """Renders a status and the reason or the beginning of the response."""
    said = [str(answer[name]) for name in ("status_code", "error", "answer") if answer.get(name)]
    return ", ".join(said) or "-"


def _events(webhook: Document) -> str:
    types = webhook.get("event_types")
    return ", ".join(map(str, types)) if isinstance(types, list) else ""


def _state(webhook: Document) -> str:
    return "enabled" if webhook.get("enabled") else "disabled"
