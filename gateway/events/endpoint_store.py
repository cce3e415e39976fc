"""Stores endpoints that are created at run time, and which endpoints are disabled.

URL and secrets are sealed with the encryption keys of the pool, because the URL of a Slack webhook is a secret too.
Redis keys: `ig3:{events:}:endpoints` and `:audit`; see deliveries.py for the others.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec

from gateway.domain.accounts import make_secret
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.events.deliveries import KEPT_S, events_record
from gateway.events.endpoints import (
    ADDRESS_PREFIX,
    ADDRESSES_MAX,
    ALERTS,
    Channel,
    Disabled,
    Endpoint,
    tenant_endpoint,
    wants,
)
from gateway.events.signing import new_secret
from gateway.redis import Client, execute, load_script
from gateway.scheduler.encryption import DecryptionError, SecretBox
from gateway.tenants.names import TenantNames

ENDPOINTS_MAX: Final = 500
ROTATION_S: Final = 86_400
"""How long the old secret signs too."""
_ID_BYTES: Final = 12


class _Sealed(msgspec.Struct, frozen=True):
    """What only this gateway may read."""

    url: str
    secret: str = ""
    old_secret: str = ""


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value of the hash of endpoints."""

    name: str
    channel: Channel
    event_types: tuple[str, ...]
    tenant: str = ""
    sealed: str
    old_until: int = 0
    created_at: int
    updated_at: int


class EndpointStore:
    """All endpoints. Its methods raise GatewayError REDIS_UNAVAILABLE."""

    def __init__(
        self,
        redis: Client,
        box: SecretBox | None,
        declared: Sequence[Endpoint],
        clock: Callable[[], float],
        audit_keep_s: int,
    ) -> None:
        self._redis, self._box, self._clock, self._audit_keep_s = redis, box, clock, audit_keep_s
        self._declared: Mapping[str, Endpoint] = {endpoint.id: endpoint for endpoint in declared}
        self._names = TenantNames(redis)
        self._change = load_script(redis, "events/change_endpoint")
        self._key = partial(events_record, redis.prefix)

    async def list_all(self) -> list[Endpoint]:
        """Returns the declared endpoints, then the created ones, oldest first.

        Seals those again whose encryption key is to be removed.
        """
        created = []
        for name, text in (await self._texts()).items():
            created.append(endpoint := self._read(name, text))
            if self._box and not endpoint.problem and not self._box.is_current(_record(text).sealed):
                await self._run(name, text, self._render(endpoint), ())
        return [*self._declared.values(), *sorted(created, key=lambda one: (one.created_at, one.id))]

    async def matching(self, kind: str, tenant: str, targets: Iterable[str]) -> list[tuple[str, str]]:
        """Returns the IDs of the endpoints that get an event of a tenant ("" for none), with the address of `targets`.

        `tenant` is its ID. `targets` are the addresses of its `alert_to`; of the other endpoints the address is "".
        """
        created = {name: _record(text) for name, text in (await self._texts()).items()}
        known: dict[str, Endpoint | _Record] = {**self._declared, **created}
        wanting = {name: one.tenant for name, one in known.items() if wants(one.event_types, kind)}
        ids = await self._names.ids_of(sorted(filter(None, wanting.values())))  # declared ones have names
        found = [(name, "") for name, of in wanting.items() if ids.get(of, of) in {"", tenant}]
        if wants(ALERTS, kind):
            addresses = tuple(dict.fromkeys(targets))[:ADDRESSES_MAX]
            found += [(tenant_endpoint(target, tenant).id, target) for target in addresses]
        return found

    async def get(self, name: str) -> Endpoint:
        """Raises: GatewayError NOT_FOUND."""
        return self._declared.get(name) or self._read(name, await self._text(name))

    async def find(self, name: str) -> Endpoint | None:
        """Returns None if there is no such endpoint."""
        try:
            return await self.get(name)
        except GatewayError as error:
            if error.error_code is ErrorCode.NOT_FOUND:
                return None
            raise

    async def create(self, endpoint: Endpoint, actor: Actor) -> Endpoint:
        """Stores an endpoint with a new ID, and for a webhook a new secret.

        Raises: GatewayError CONFLICT (no encryption key, too many endpoints).
        """
        now = int(self._clock())
        secret = make_secret(new_secret()) if endpoint.channel is Channel.WEBHOOK else None
        name = "we_" + os.urandom(_ID_BYTES).hex()
        made = replace(endpoint, id=name, secret=secret, created_at=now, updated_at=now)
        await self._run(name, "", self._render(made), _entry("webhook.create", actor, None, made))
        return made

    async def update(self, name: str, change: Callable[[Endpoint], Endpoint], actor: Actor) -> Endpoint:
        """Raises: GatewayError NOT_FOUND, CONFLICT (it is declared, or changed meanwhile)."""
        return await self._replace(name, "webhook.update", change, actor)

    async def rotate(self, name: str, actor: Actor, *, keeps_old: bool) -> Endpoint:
        """Replaces the secret. With `keeps_old`, events are signed with the old one too for 24 hours.

        Raises: GatewayError NOT_FOUND, CONFLICT (it is declared, or has no secret).
        """

        def change(before: Endpoint) -> Endpoint:
            if before.secret is None:
                raise GatewayError(ErrorCode.CONFLICT, f"'{name}' has no signing secret: only channel 'webhook' signs.")
            old, until = (before.secret, int(self._clock()) + ROTATION_S) if keeps_old else (None, 0)
            return replace(before, secret=make_secret(new_secret()), old_secret=old, old_until=until)

        return await self._replace(name, "webhook.rotate", change, actor)

    async def delete(self, name: str, actor: Actor) -> None:
        """Raises: GatewayError NOT_FOUND, CONFLICT (it is declared)."""
        self._refuse_declared(name)
        text = await self._text(name)
        await self._run(name, text, "", _entry("webhook.delete", actor, self._read(name, text), None), "")

    async def declared_of(self, tenant: str) -> list[str]:
        """Returns the IDs of the declared endpoints of a tenant, given by its ID."""
        owners = {name: one.tenant for name, one in self._declared.items() if one.tenant}
        ids = await self._names.ids_of(sorted(set(owners.values())))
        return [name for name, owner in owners.items() if ids[owner] == tenant]

    async def purge(self, tenant: str) -> None:
        """Deletes the created endpoints of a tenant, given by its ID. Their audit entries do not name it."""
        for name, text in (await self._texts()).items():
            if _record(text).tenant == tenant:
                fields = {"action": "webhook.delete", "actor": "", "request_id": "", "key_id": name}
                entry = [part for pair in (fields | {"before": "", "after": ""}).items() for part in pair]
                await self._run(name, text, "", entry, "")

    async def disabled(self, name: str) -> Disabled | None:
        text = await execute(self._redis, self._redis.get(self._key(f"disabled:{name}")), object)
        return msgspec.json.decode(str(text), type=Disabled) if text else None

    async def disable(self, name: str, reason: str) -> bool:
        """Disables an endpoint that fails; an address of a tenant's `alert_to` for 30 days.

        Returns: False if it is disabled already.
        """
        lasts_s = KEPT_S if name.startswith(ADDRESS_PREFIX) else None
        setting = self._redis.set(self._key(f"disabled:{name}"), self._disabled(reason), nx=True, ex=lasts_s)
        return bool(await execute(self._redis, setting, object))

    async def hold(self, name: str, actor: Actor, *, is_disabled: bool) -> None:
        """Disables or enables an endpoint, also a declared one. Raises: GatewayError NOT_FOUND."""
        text = "" if name in self._declared else await self._text(name)
        state = self._disabled(f"disabled by {actor.name}") if is_disabled else ""
        entry = _entry("webhook.disable" if is_disabled else "webhook.enable", actor, None, await self.get(name))
        await self._run(name, text, text, entry, state)

    async def note(self, action: str, endpoint: Endpoint, actor: Actor) -> None:
        """Writes an audit entry of an act that changes no endpoint. Raises: GatewayError NOT_FOUND, CONFLICT."""
        text = "" if endpoint.is_declared else await self._text(endpoint.id)
        await self._run(endpoint.id, text, text, _entry(action, actor, None, endpoint))

    def _disabled(self, reason: str) -> str:
        return msgspec.json.encode(Disabled(int(self._clock()), reason)).decode()

    async def _replace(self, name: str, action: str, change: Callable[[Endpoint], Endpoint], actor: Actor) -> Endpoint:
        self._refuse_declared(name)
        text = await self._text(name)
        before = self._read(name, text)
        if before.problem:
            raise GatewayError(ErrorCode.CONFLICT, f"'{name}' cannot be changed: {before.problem}.")
        after = replace(change(before), updated_at=int(self._clock()))
        await self._run(name, text, self._render(after), _entry(action, actor, before, after))
        return after

    async def _run(self, name: str, before: str, after: str, entry: Sequence[str], disabled: str | None = None) -> None:
        """Redis: one round trip, lua/change_endpoint.lua."""
        args = {"id": name, "before": before, "after": after, "endpoints_max": ENDPOINTS_MAX}
        args |= {"audit_s": self._audit_keep_s, "entry": entry} | ({} if disabled is None else {"disabled": disabled})
        keys = [self._key(kind) for kind in ("endpoints", "audit", f"disabled:{name}")]
        made = await self._change(keys, [msgspec.msgpack.encode(args)])
        if made == -1:
            raise GatewayError(ErrorCode.CONFLICT, f"There are {ENDPOINTS_MAX} webhooks already; delete one first.")
        if made == 0 and entry:
            raise GatewayError(ErrorCode.CONFLICT, f"'{name}' was changed at the same time; try again.")

    async def _texts(self) -> dict[str, str]:
        return await execute(self._redis, self._redis.hgetall(self._key("endpoints")), dict[str, str])

    async def _text(self, name: str) -> str:
        if text := await execute(self._redis, self._redis.hget(self._key("endpoints"), name), object):
            return str(text)
        raise GatewayError(ErrorCode.NOT_FOUND, f"There is no webhook '{name[:64]}'. See GET /admin/v1/webhooks.")

    def _refuse_declared(self, name: str) -> None:
        if name in self._declared:
            raise GatewayError(
                ErrorCode.CONFLICT, f"'{name}' is declared in the configuration: change [[alerts.endpoints]] there."
            )

    def _render(self, endpoint: Endpoint) -> str:
        if self._box is None:
            raise GatewayError(
                ErrorCode.CONFLICT,
                "Webhooks cannot be created: set [pool] encryption_keys, which encrypt their secrets.",
            )
        secrets = (secret.plaintext if secret else "" for secret in (endpoint.secret, endpoint.old_secret))
        sealed = msgspec.json.encode(_Sealed(endpoint.url, *secrets)).decode()
        record = _Record(
            name=endpoint.name,
            channel=endpoint.channel,
            event_types=endpoint.event_types,
            tenant=endpoint.tenant,
            sealed=self._box.seal(sealed, _owner(endpoint.id)),
            old_until=endpoint.old_until,
            created_at=endpoint.created_at,
            updated_at=endpoint.updated_at,
        )
        return msgspec.json.encode(record).decode()

    def _read(self, name: str, text: str) -> Endpoint:
        record, problem, inner = _record(text), "", _Sealed("")
        if self._box is None:
            problem = "its secrets are encrypted, and [pool] encryption_keys is not set"
        else:
            try:
                inner = msgspec.json.decode(self._box.open(record.sealed, _owner(name)), type=_Sealed)
            except DecryptionError as error:
                problem = str(error)
        secret, old = (make_secret(value) if value else None for value in (inner.secret, inner.old_secret))
        return Endpoint(
            *(name, inner.url, record.channel, record.event_types, record.name, record.tenant, secret, old),
            *(record.old_until, False, record.created_at, record.updated_at, problem),
        )


def describe(endpoint: Endpoint) -> dict[str, object]:
    """Renders an endpoint without its secret, as OpenAI's object."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "name": endpoint.name,
        "url": endpoint.shown_url,
        "channel": endpoint.channel.value,
        "event_types": list(endpoint.event_types),
        "tenant": endpoint.tenant or None,
        "signing_secret_hint": endpoint.secret.plaintext[-4:] if endpoint.secret else None,
        "old_secret_until": endpoint.old_until or None,
        "declared": endpoint.is_declared,
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def _owner(name: str) -> str:
    return f"webhooks/{name}"


def _record(text: str) -> _Record:
    return msgspec.json.decode(text, type=_Record)


def _entry(action: str, actor: Actor, before: Endpoint | None, after: Endpoint | None) -> tuple[str, ...]:
    """Returns the fields of an audit entry, which is stored as it is."""
    described = (one and describe(one) | {"url": one.audited_url} for one in (before, after))
    states = [msgspec.json.encode(state).decode() if state else "" for state in described]
    one = after or before
    fields = {"action": action, "actor": actor.name, "request_id": actor.request_id, "key_id": one.id if one else ""}
    fields |= dict(zip(("before", "after"), states, strict=True))
    return tuple(part for pair in fields.items() for part in pair)
