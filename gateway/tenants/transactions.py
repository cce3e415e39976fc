"""Optimistic transactions on a tenant or its keys: read, decide, and write with the audit entry."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import msgspec

from gateway.domain.audit import AuditEvent
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, Value, load_script
from gateway.tenants.authentication import revocation_channel
from gateway.tenants.change_events import change_events
from gateway.tenants.records import record

_ATTEMPTS_MAX: Final = 200
"""When this many changes of one record compete, one succeeds in every round."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


class HashKind(Enum):
    """Hash of a tenant; the value is its index among the script's keys."""

    TENANT = 1
    KEYS = 2
    CLOSED = 6
    """Closed months, see metering/closing.py."""
    SESSIONS = 7
    LINKS = 8
    """Of the console, whose owner is no tenant; see sessions.py."""


@dataclass(frozen=True, slots=True)
class FieldUpdate:
    """One field, before and after; None is absent."""

    part: HashKind
    field: str
    before: str | None
    after: str | None


class ConflictError(Exception):
    """The record has changed since it was read."""


class FullError(Exception):
    """The tenant has as many keys as it may have."""


class TenantTransactions:
    """Changes tenants and their keys. Nothing else does."""

    def __init__(
        self,
        redis: Client,
        forget: Callable[[str], None],
        audit_keep_s: int,
        notify: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`notify` is called with a tenant whose change has emitted events."""
        self._redis = redis
        self._forget = forget
        self._notify = notify
        self._audit_keep_s = audit_keep_s
        self._change = load_script(redis, "tenants/compare_and_set", ("tenants/streams",))

    async def make(
        self,
        act: AuditEvent,
        edits: Sequence[FieldUpdate],
        *,
        revoked_key: str = "",
        unless_revoked: str = "",
        keys_max: int | None = None,
    ) -> None:
        """Applies all updates, writes the audit entry and events and notifies every process, or does nothing.

        `revoked_key` cannot be provisioned again; nothing happens if the key `unless_revoked` is among those. An event
        without an action is not audited. `keys_max` limits the keys of a tenant that gets another one.
        Raises: ConflictError; FullError; GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip, lua/compare_and_set.lua.
        """
        message = f"@{act.tenant}"
        args: list[Value] = [revocation_channel(self._redis), message, self._audit_keep_s]
        args += [act.action, act.actor.name, act.actor.request_id, act.key_id]
        args += ["" if state is None else msgspec.json.encode(state).decode() for state in (act.before, act.after)]
        events = [(event.value, msgspec.json.encode(data).decode()) for event, data in change_events(act)]
        args += [revoked_key, unless_revoked, "" if keys_max is None else keys_max, msgspec.json.encode(events)]
        for edit in edits:
            args += [edit.part.value, edit.field]
            args += ["" if value is None else f"={value}" for value in (edit.before, edit.after)]
        kinds = ("tenant", "keys", "revoked_keys", "audit", "events", "closed", "sessions", "links")
        keys = [record(self._redis, act.tenant, kind) for kind in kinds]
        if (changed := await self._change(keys, args)) != 1:
            raise FullError if changed == -1 else ConflictError
        self._forget(message)
        if events and self._notify:
            with suppress(GatewayError):  # the events are found without it, later
                await self._notify(act.tenant)


def retrying(change: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[object, object, _T]]:
    """Makes a read-and-write change repeat itself after conflicts. Raises: GatewayError CONFLICT."""

    @wraps(change)
    async def repeat(*args: _P.args, **options: _P.kwargs) -> _T:
        for _ in range(_ATTEMPTS_MAX):
            try:
                return await change(*args, **options)
            except ConflictError:
                continue
        raise GatewayError(ErrorCode.CONFLICT, "Too many concurrent changes of this record; try again.")

    return repeat
