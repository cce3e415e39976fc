"""Events that a change of a tenant or a key emits, besides its audit entry."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from gateway.domain.audit import AuditEvent, JsonObject
from gateway.domain.events import EventType

_OF_KEYS = {"key.rotate": EventType.KEY_ROTATED, "key.revoke": EventType.KEY_REVOKED}


def change_events(act: AuditEvent) -> Iterator[tuple[EventType, JsonObject]]:
    """Yields the events of one change, without a secret: an audit entry holds none."""
    about = {"tenant": act.tenant} | ({"key_id": act.key_id} if act.key_id else {}) | {"by": act.actor.name}
    if event := _OF_KEYS.get(act.action):
        until = {"old_secret_until": act.after.get("old_secret_until")} if act.after else {}
        yield event, about | {"label": (act.before or {}).get("label", "")} | until
    if act.before is None or act.after is None:
        return
    before, after = (_flat(state) for state in (act.before, act.after))
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    raised = [name for name in changed if _is_raised_quota(name, before, after)]
    for event, names in (
        (EventType.QUOTA_RAISED, raised),
        (EventType.LIMITS_CHANGED, [name for name in changed if name not in raised]),
    ):
        if names:
            yield event, about | {"before": _part(before, names), "after": _part(after, names)}


def _flat(state: JsonObject) -> dict[str, object]:
    """Returns limits and quotas; an absent one is unlimited."""
    parts = (state.get(part) for part in ("limits", "quotas"))
    return {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}


def _part(state: Mapping[str, object], names: list[str]) -> dict[str, object]:
    return {name: state.get(name) for name in names}


def _is_raised_quota(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """A soft budget is no quota: it admits no more when it is raised."""
    if name not in {"images_per_day", "images_per_month", "usd_per_month"} or before.get(name) is None:
        return False
    return after.get(name) is None or Decimal(str(after[name])) > Decimal(str(before[name]))
