"""Events as sentences, for Slack and e-mail. They hold names, amounts and times, never a key or a prompt."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

import msgspec

from gateway.events.deliveries import Delivery

_SENTENCES: Final[Mapping[str, str]] = {
    "quota.threshold_crossed": "{who} has used {percent} % of {quota}",
    "quota.exhausted": "{who} has exhausted {quota}",
    "budget.threshold_crossed": "{who} has used {percent} % of the budget {budget}, which blocks nothing",
    "budget.forecast_exceeded": "{who} is expected to exceed the budget {budget} this month",
    "quota.raised": "The quotas of {who} were raised by {by}",
    "limits.changed": "The limits of {who} were changed by {by}",
    "key.expiring": "API key {key_id} of {tenant} expires in {days} days",
    "key.rotated": "API key {key_id} of {tenant} was rotated",
    "key.revoked": "API key {key_id} of {tenant} was revoked",
    "pool.account_spent": "Account {upstream}/{account} has no balance or no quota left: {error_code}",
    "pool.key_quarantined": "{whose} is quarantined: {error_code}",
    "pool.no_capacity": "Upstream {upstream} has no account that can serve {served}",
    "pool.capacity_restored": "Upstream {upstream} serves {served} again",
    "upstream.spend_threshold_crossed": "Account {upstream}/{account} has spent its cap of {day}",
    "config.reload_refused": "A changed configuration was refused: {message}",
    "certificate.expiring": "The certificate of {host} expires in {days} days",
    "batch.completed": "Batch {id} of {tenant} is completed",
    "batch.failed": "Batch {id} of {tenant} failed",
    "batch.expired": "Batch {id} of {tenant} expired",
    "batch.cancelled": "Batch {id} of {tenant} was cancelled",
    "webhook.disabled": "Webhook {endpoint} was disabled: {reason}",
}
_DETAILS: Final = (
    "used",
    "limit",
    "asked",
    "projected",
    "before",
    "after",
    "window",
    "resets_at",
    "expires_at",
    "label",
)
_PLACE: Final = ("upstream", "account", "key")
_NAMES: Final = {"resets_at": "resets", "expires_at": "expires"}
_MONEY: Final = frozenset({"used", "limit", "asked", "projected"})
_AT_MAX_S: Final = 10**11
_SHOWN_MAX_CHARS: Final = 300
_SUBJECT_MAX_CHARS: Final = 200


class _Blanks(dict[str, str]):
    """The fields of an event, "?" for those that it does not have."""

    def __missing__(self, name: str) -> str:
        return "?"


def subject(event: Delivery) -> str:
    """Returns one sentence without its full stop."""
    key_id, tenant = event.data.get("key_id"), event.data.get("tenant") or event.tenant or "?"
    shown = _Blanks({name: _show(name, value) for name, value in event.data.items()})
    shown["tenant"] = _clean(str(tenant))
    shown["whose"] = (
        f"{'Key' if 'key' in shown else 'Account'} {'/'.join(shown[one] for one in _PLACE if one in shown)}"
    )
    shown["served"] = f"model {shown['model']}" if "model" in shown else "requests"
    shown["who"] = f"API key {shown['key_id']} of {shown['tenant']}" if key_id else shown["tenant"]
    return _SENTENCES.get(event.type, f"{event.type} {{tenant}}").format_map(shown)[:_SUBJECT_MAX_CHARS]


def body(event: Delivery, spenders: Sequence[tuple[str, str]], console_url: str | None) -> str:
    """Returns the text of a message. `spenders` are the API keys that spend most, with the amounts."""
    lines = [f"{subject(event)}.", ""]
    if event.tenant:
        lines.append(f"tenant: {_clean(str(event.data.get('tenant') or event.tenant))}")
    lines += [
        f"{_NAMES.get(name, name)}: {_show(name, event.data[name])}"
        for name in _DETAILS
        if event.data.get(name) is not None
    ]
    if spenders:
        lines += ["", "API keys that spent most this month:"]
        lines += [f"  {_clean(name)}: {amount} USD" for name, amount in spenders]
    if console_url:
        lines += ["", f"Console: {console_url}"]
    return "\n".join([*lines, "", f"{event.type}, {event.event_id}, {moment(event.at_ms / 1000)}"])


def moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def mail_date(unix_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(unix_s, UTC))


def _show(name: str, value: object) -> str:
    """Shows a value. Amounts of US dollars are decimal strings, and moments are Unix seconds."""
    if name in _MONEY and isinstance(value, str):
        return f"{_clean(value)} USD"
    if name.endswith("_at") and isinstance(value, int) and 0 < value < _AT_MAX_S:
        return moment(value)
    return _clean(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _clean(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:_SHOWN_MAX_CHARS])
