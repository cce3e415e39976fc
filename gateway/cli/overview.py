"""`imagegate overview`."""

import time

from gateway.cli.client import AdminApi, Document, number, rows
from gateway.cli.output import minute, print_fields, print_table
from gateway.cli.pool_table import span


def overview(api: AdminApi) -> None:
    """Show spend, waiting requests, capacity, and what needs attention.

    Days are those of [metering] time_zone.
    """
    api.show(api.ask("GET", "overview"), _print)


def _print(response: Document) -> None:
    print_fields(
        ("as of", minute(response.get("at"))),
        ("today", _spend(response, "today")),
        ("month", _spend(response, "month")),
    )
    print()
    queue = {str(row.get("upstream")): row for row in rows(response, "queue")}
    lines = [
        (
            row.get("upstream"),
            *(f"{number(row, 'with_room')} of {number(row, 'accounts')}", number(row, "requests_free")),
            *(number(row, "images_free"), *_waiting(queue.get(str(row.get("upstream")), {}))),
        )
        for row in rows(response, "pool")
    ]
    columns = ("UPSTREAM", "WITH ROOM", "REQUESTS FREE", "IMAGES FREE", "WAITING", "LONGEST")
    print_table(columns, lines, empty="No upstreams.", numbers=5)
    for print_part in (_print_refusals, _print_resting, _print_keys):
        print_part(response)


def _spend(response: Document, name: str) -> str:
    part = response.get(name)
    found = part if isinstance(part, dict) else {}
    text = f"{found.get('usd')} USD, {found.get('images')} images, {found.get('requests')} requests"
    previous = found.get("previous_usd_same_days")
    return text if previous is None else f"{text}; {previous} USD in the same days of last month"


def _waiting(queue: Document) -> tuple[int, str]:
    oldest_s = queue.get("oldest_wait_s")
    return number(queue, "waiting"), f"{oldest_s} s" if isinstance(oldest_s, int | float) else ""


def _print_refusals(response: Document) -> None:
    lines = [(row.get("code"), row.get("count")) for row in rows(response, "refusals_24h")]
    if lines:
        print()
        print_table((f"REFUSED SINCE {minute(response.get('refusals_since'))}", "REQUESTS"), lines, empty="", numbers=1)


def _print_resting(response: Document) -> None:
    now_s, lines = int(time.time()), []
    for row in rows(response, "resting"):
        retry_at = row.get("retry_at")
        named = "/".join(str(row[part]) for part in ("upstream", "account", "key") if row.get(part))
        retry = f"in {span(retry_at - now_s)}" if isinstance(retry_at, int) else ""
        lines.append((named, row.get("state"), retry, row.get("fault") or row.get("held_by") or row.get("error_code")))
    if lines:
        print()
        print_table(("OUT OF ROTATION", "STATE", "RETRY", "WHY"), lines, empty="")
    if (more := number(response, "resting_total") - len(lines)) > 0:
        print(f"{more} more: imagegate pool list")


def _print_keys(response: Document) -> None:
    lines = [
        (row.get("id"), row.get("label"), row.get("tenant"), minute(row.get("expires_at")))
        for row in rows(response, "expiring_keys")
    ]
    if lines:
        print()
        print_table(("KEY", "LABEL", "TENANT", "EXPIRES"), lines, empty="")
    for row in rows(response, "certificates"):
        print(f"The certificate of {row.get('host')} expires {minute(row.get('expires_at'))}.")
