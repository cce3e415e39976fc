"""`imagegate console`: who may sign in to the console, and who is signed in."""

from typing import Annotated, Literal

import typer

from gateway.cli.client import AdminApi, Document, Yes, admin_command, rows
from gateway.cli.contexts import confirm
from gateway.cli.output import minute, print_table, printable

app = typer.Typer(help="Invite people to the console, and list and end their sessions.", no_args_is_help=True)

Role = Literal["admin", "finance", "viewer", "lead", "member"]


@admin_command(app, "invite")
def invite(
    api: AdminApi,
    name: Annotated[str, typer.Argument(help="The person, as the audit log names it.")],
    role: Annotated[Role, typer.Option(help="What the person may do.")],
    tenant: Annotated[str | None, typer.Option(help="The tenant of a lead or a member.")] = None,
) -> None:
    """Create a link that signs a person in once, within 24 hours."""
    body: Document = {"name": name, "role": role, "tenant": tenant}
    api.show(api.ask("POST", "console", "invitations", body=body), print_link)


@admin_command(app, "members")
def members(api: AdminApi, tenant: Annotated[str, typer.Argument(help="The tenant.")]) -> None:
    """List who has access to a tenant.

    Sessions, invitations, and keys of leads.
    """
    api.show(api.ask("GET", "tenants", tenant, "members"), print_members)


@admin_command(app, "links")
def links(api: AdminApi) -> None:
    """List links that were not used."""
    api.show(api.ask("GET", "console", "invitations"), _print_links)


@admin_command(app, "delete-link")
def delete_link(api: AdminApi, link: Annotated[str, typer.Argument(help="The link's ID, as listed.")]) -> None:
    """Delete a link that was not used."""
    answer = api.ask("DELETE", "console", "invitations", link)
    api.show(answer, lambda _: print(printable(f"The link for {answer.get('name')} is deleted.")))


@admin_command(app, "sessions")
def sessions(api: AdminApi) -> None:
    """List who is signed in, the most recently active first."""
    api.show(api.ask("GET", "console", "sessions"), _print_sessions)


@admin_command(app, "end")
def end(
    api: AdminApi,
    session: Annotated[str, typer.Argument(help="The session's ID, as listed.")],
    yes: Yes = False,
) -> None:
    """End a session. The person must sign in again."""
    confirm(api.place, f"end session {session}", yes=yes)
    answer = api.ask("DELETE", "console", "sessions", session)
    api.show(answer, lambda _: print(printable(f"The session of {answer.get('label')} has ended.")))


def print_members(answer: Document) -> None:
    listed = [
        (
            *(one.get(name) for name in ("id", "kind", "name", "role")),
            *("-" if one.get(name) is None else minute(one.get(name)) for name in ("seen_at", "expires_at")),
        )
        for one in rows(answer)
    ]
    print_table(("ID", "KIND", "NAME", "ROLE", "LAST SEEN", "EXPIRES"), listed, empty="No members.")


def print_link(answer: Document) -> None:
    print(printable(str(answer.get("url"))))
    until = minute(answer.get("expires_at"))
    typer.echo(printable(f"Link {answer.get('id')}. It signs {answer.get('name')} in once, until {until}."), err=True)


def _print_links(answer: Document) -> None:
    listed = [
        (one.get("id"), one.get("name"), one.get("role"), one.get("tenant") or "-", minute(one.get("expires_at")))
        for one in rows(answer)
    ]
    print_table(("ID", "NAME", "ROLE", "TENANT", "EXPIRES"), listed, empty="No unused links.")


def _print_sessions(answer: Document) -> None:
    listed = [
        (
            one.get("id"),
            one.get("label"),
            one.get("role"),
            one.get("tenant") or "-",
            one.get("method"),
            minute(one.get("seen_at")),
            minute(one.get("expires_at")),
        )
        for one in rows(answer)
    ]
    columns = ("ID", "NAME", "ROLE", "TENANT", "SIGNED IN BY", "LAST SEEN", "EXPIRES")
    print_table(columns, listed, empty="No open sessions.")
