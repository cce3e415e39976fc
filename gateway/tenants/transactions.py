"""Optimistic transactions on a tenant or its keys: read, decide, and write with the audit entry."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

import msgspec

from gateway.domain.audit import AuditEvent, JsonObject
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, Value, load_script
from gateway.tenants.authentication import revocation_channel
from gateway.tenants.records import audit_stream, keys_record, revoked_record, tenant_record

_ATTEMPTS_MAX: Final = 200
"""When this many changes of one record compete, one succeeds in every round."""
_T = TypeVar("_T")


class HashKind(Enum):
    """Hash of a tenant; the value is its index among the script's keys."""

    TENANT = 1
    KEYS = 2


@dataclass(frozen=True, slots=True)
class FieldUpdate:
    """One field, before and after; None is absent."""

    part: HashKind
    field: str
    before: str | None
    after: str | None


class ConflictError(Exception):
    """The record has changed since it was read."""


class TenantTransactions:
    """Changes tenants and their keys. Nothing else does."""

    def __init__(self, redis: Client, forget: Callable[[str], None], audit_keep_s: int) -> None:
        self._prefix = redis.prefix
        self._forget = forget
        self._audit_keep_s = audit_keep_s
        self._change = load_script(redis, "tenants/compare_and_set")

    async def make(
        self, act: AuditEvent, edits: Sequence[FieldUpdate], *, revoked_key: str = "", unless_revoked: str = ""
    ) -> None:
        """Applies all updates, writes the audit entry and notifies every process, or does nothing.

        `revoked_key` cannot be provisioned again; nothing happens if the key `unless_revoked` is among those. An event
        without an action is not audited.
        Raises: ConflictError; GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip, lua/compare_and_set.lua.
        """
        message = f"@{act.tenant}"
        args: list[Value] = [revocation_channel(self._prefix), message, self._audit_keep_s]
        args += [act.action, act.actor.name, act.actor.request_id]
        args += [act.key_id, _text(act.before), _text(act.after), revoked_key, unless_revoked]
        for edit in edits:
            args += [edit.part.value, edit.field, _marked(edit.before), _marked(edit.after)]
        records = (tenant_record, keys_record, revoked_record, audit_stream)
        keys = [record(self._prefix, act.tenant) for record in records]
        if not await self._change(keys, args):
            raise ConflictError
        self._forget(message)


async def retrying(change: Callable[[], Awaitable[_T]]) -> _T:
    """Runs a read-and-write change, and repeats it after conflicts."""
    for _ in range(_ATTEMPTS_MAX):
        try:
            return await change()
        except ConflictError:
            continue
    raise GatewayError(ErrorCode.CONFLICT, "Too many concurrent changes of this record; try again.")


def _text(described: JsonObject | None) -> str:
    return "" if described is None else msgspec.json.encode(described).decode()


def _marked(value: str | None) -> str:
    return "" if value is None else f"={value}"
