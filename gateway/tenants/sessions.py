"""Sessions of the console, and one-time links that open one.

Redis holds only hashes of their tokens. A token has 256 random bits, so a plain hash cannot be inverted. The first half
of it is the ID under which a session or a link is listed and ended; it does not reveal the token.

Invariant: a session ends at its absolute time, after `idle_s` without a request, or when it is ended, whichever comes
first; a link opens at most one session.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.audit import Actor, AuditEvent
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import ConsoleRole
from gateway.redis import Client, execute
from gateway.tenants.audit import CONSOLE
from gateway.tenants.records import record
from gateway.tenants.transactions import FieldUpdate, HashKind, TenantTransactions, retrying

_PER_SUBJECT_MAX: Final = 10
"""Limit on the sessions of one person. Another one ends the oldest."""
_SESSIONS_MAX: Final = 10_000
"""Limit on all sessions. Another one ends the oldest."""
_LINKS_MAX: Final = 1000
LINK_S: Final = 86_400
_SEEN_STEP_S: Final = 20
"""The last request of a session is recorded at most this often."""
_ID_CHARS: Final = 32


class TenantRole(msgspec.Struct, frozen=True):
    """A role that a person may take."""

    tenant: str
    """ID of the tenant."""
    role: ConsoleRole


class Grant(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who signed in, as what, and by which credential."""

    subject: str
    """The actor of the person's changes in the audit log."""
    label: str
    """The name to show."""
    role: ConsoleRole
    tenant: str = ""
    """ID of the tenant of a lead or a member."""
    method: str
    """`admin_key`, `tenant_key`, `link` or `oidc`."""
    credential: str = ""
    """Name of the admin key, or ID of the tenant's key."""
    proof: str = ""
    """Keyed hash of the key, or digest of the provider's terms: what was replaced since ends its sessions."""
    choices: tuple[TenantRole, ...] = ()
    """All tenants of a person that has several."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the hash `sessions`."""

    grant: Grant
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that is valid now. Times are Unix seconds."""

    id: str
    grant: Grant
    created_at: int
    expires_at: int
    seen_at: int
    idle_expires_at: int
    """At most `expires_at`."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the hash `links`: an invitation."""

    name: str
    role: ConsoleRole
    tenant: str
    created_by: str
    created_at: int
    expires_at: int


def token_id(token: str) -> str:
    """Returns the ID of the session or link that a token belongs to."""
    return hashlib.sha256(token.encode()).hexdigest()[:_ID_CHARS]


class SessionStore:
    """Sessions of all processes of a gateway."""

    def __init__(
        self, redis: Client, changes: TenantTransactions, clock: Callable[[], float], idle_s: int, lifetime_s: int
    ) -> None:
        self._redis = redis
        self._changes = changes
        self._clock = clock
        self.idle_s = idle_s
        self.lifetime_s = lifetime_s
        self._records = record(redis, CONSOLE, "sessions")
        self._seen = record(redis, CONSOLE, "sessions_seen")
        self._ends = record(redis, CONSOLE, "sessions_end")

    async def open(self, grant: Grant, expires_at: int | None = None) -> tuple[str, OpenSession]:
        """Opens a session. Returns: its token, which nothing else holds, and the session.

        `expires_at` is that of the session that it continues.
        Raises: GatewayError REDIS_UNAVAILABLE. Redis: three round trips.
        """
        token, now_s, by_subject = secrets.token_urlsafe(32), int(self._clock()), self._subject_key(grant.subject)
        session = Session(grant=grant, created_at=now_s, expires_at=expires_at or now_s + self.lifetime_s)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrangebyscore(self._ends, "-inf", now_s, 0, _SESSIONS_MAX)
        pipeline.zrange(self._ends, 0, -_SESSIONS_MAX)
        pipeline.zrange(by_subject, 0, -_PER_SUBJECT_MAX)
        replies = await execute(self._redis, pipeline.execute(), list[list[str]])
        await self._delete({session_id for reply in replies for session_id in reply}, by_subject)
        session_id = token_id(token)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(self._records, session_id, msgspec.json.encode(session).decode())
        for key, score in ((self._seen, now_s), (self._ends, session.expires_at), (by_subject, session.expires_at)):
            pipeline.zadd(key, {session_id: score})
        for key in (self._records, self._seen, self._ends, by_subject):
            pipeline.expire(key, self.lifetime_s + 60)
        await execute(self._redis, pipeline.execute(), object)
        return token, self._opened(session_id, session, now_s)

    async def read(self, token: str) -> OpenSession | None:
        """Returns the session of a token, and records its use; None if it has ended.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip, two every 20 s.
        """
        session_id, now_s = token_id(token), int(self._clock())
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(self._records, session_id)
        pipeline.zscore(self._seen, session_id)
        text, seen = await execute(self._redis, pipeline.execute(), tuple[str | None, float | None])
        if not text:
            return None
        session = msgspec.json.decode(text, type=Session)
        opened = self._opened(session_id, session, int(seen or 0))
        if now_s >= opened.idle_expires_at:
            await self._delete({session_id}, self._subject_key(session.grant.subject))
            return None
        if now_s - opened.seen_at >= _SEEN_STEP_S:  # `xx`: an ended one leaves no entry
            await execute(self._redis, self._redis.zadd(self._seen, {session_id: now_s}, xx=True), object)
            opened = self._opened(session_id, session, now_s)
        return opened

    async def close(self, token: str) -> None:
        """Ends the session of a token, if there is one. Raises: GatewayError REDIS_UNAVAILABLE."""
        text = await execute(self._redis, self._redis.hget(self._records, token_id(token)), str)
        if text:
            subject = msgspec.json.decode(text, type=Session).grant.subject
            await self._delete({token_id(token)}, self._subject_key(subject))

    async def use_once(self, name: str, keep_s: int) -> bool:
        """Returns whether a name was not used in the last `keep_s`. Raises: GatewayError REDIS_UNAVAILABLE."""
        key = record(self._redis, CONSOLE, f"used:{token_id(name)}")
        return bool(await execute(self._redis, self._redis.set(key, 1, nx=True, ex=keep_s), object))

    async def list_open(self) -> list[OpenSession]:
        """Returns all valid sessions, the most recently used first. Raises: GatewayError REDIS_UNAVAILABLE."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(self._records)
        pipeline.zrange(self._seen, 0, -1, withscores=True)
        texts, seen = await execute(self._redis, pipeline.execute(), tuple[dict[str, str], list[tuple[str, float]]])
        at = {session_id: int(score) for session_id, score in seen}
        decoded = ((name, msgspec.json.decode(text, type=Session)) for name, text in texts.items())
        found = [self._opened(name, session, at.get(name, 0)) for name, session in decoded]
        now_s = self._clock()
        valid = [one for one in found if now_s < one.idle_expires_at]
        return sorted(valid, key=lambda one: (-one.seen_at, one.id))

    @retrying
    async def end(self, session_id: str, actor: Actor) -> OpenSession:
        """Ends a session for an administrator. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        text = await execute(self._redis, self._redis.hget(self._records, session_id), str)
        if not text:
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no session '{session_id[:64]}'.")
        session = msgspec.json.decode(text, type=Session)
        grant = session.grant
        before = {"subject": grant.subject, "role": grant.role.value, "tenant": grant.tenant or None}
        act = AuditEvent(actor, "session.end", CONSOLE, session_id, before=before)
        await self._changes.make(act, [FieldUpdate(HashKind.SESSIONS, session_id, text, None)])
        await self._delete({session_id}, self._subject_key(grant.subject))
        return self._opened(session_id, session, session.created_at)

    def _opened(self, session_id: str, session: Session, seen_at: int) -> OpenSession:
        ends = (session.created_at, session.expires_at, seen_at, min(seen_at + self.idle_s, session.expires_at))
        return OpenSession(session_id, session.grant, *ends)

    def _subject_key(self, subject: str) -> str:
        return record(self._redis, CONSOLE, f"sessions_of:{token_id(subject)}")

    async def _delete(self, ids: set[str], by_subject: str) -> None:
        if ids:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hdel(self._records, *ids)
            for key in (self._seen, self._ends, by_subject):
                pipeline.zrem(key, *ids)
            await execute(self._redis, pipeline.execute(), object)


class LinkStore:
    """One-time links."""

    def __init__(self, redis: Client, changes: TenantTransactions, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._changes = changes
        self._clock = clock
        self._records = record(redis, CONSOLE, "links")

    @retrying
    async def create(self, name: str, role: ConsoleRole, tenant: str, actor: Actor) -> tuple[str, str, Link]:
        """Creates a link. Returns: its token, ID and record.

        Raises: GatewayError CONFLICT, REDIS_UNAVAILABLE.
        """
        if len(await self.list_open()) >= _LINKS_MAX:
            text = f"There are {_LINKS_MAX} unused links. Delete some: DELETE /admin/v1/console/invitations/ID."
            raise GatewayError(ErrorCode.CONFLICT, text)
        token, now_s = secrets.token_urlsafe(32), int(self._clock())
        link = Link(
            name=name,
            role=role,
            tenant=tenant,
            created_by=actor.name,
            created_at=now_s,
            expires_at=now_s + LINK_S,
        )
        added = FieldUpdate(HashKind.LINKS, token_id(token), None, msgspec.json.encode(link).decode())
        act = AuditEvent(actor, "invitation.create", CONSOLE, token_id(token), after=describe_link(link))
        await self._changes.make(act, [added])
        await execute(self._redis, self._redis.expire(self._records, LINK_S + 60), object)
        return token, token_id(token), link

    async def redeem(self, token: str) -> Link | None:
        """Returns the link of a token, and deletes it; None if it is unknown, used or expired.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one transaction, so that one of two processes gets it.
        """
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hget(self._records, token_id(token))
        pipeline.hdel(self._records, token_id(token))
        text, _ = await execute(self._redis, pipeline.execute(), tuple[str | None, int])
        link = msgspec.json.decode(text, type=Link) if text else None
        return link if link and self._clock() < link.expires_at else None

    async def list_open(self) -> dict[str, Link]:
        """Returns the links that can be used, by ID; deletes the others. Raises: GatewayError REDIS_UNAVAILABLE."""
        texts = await execute(self._redis, self._redis.hgetall(self._records), dict[str, str])
        links = {link_id: msgspec.json.decode(text, type=Link) for link_id, text in texts.items()}
        expired = [link_id for link_id, link in links.items() if self._clock() >= link.expires_at]
        if expired:
            await execute(self._redis, self._redis.hdel(self._records, *expired), int)
        return {link_id: link for link_id, link in links.items() if link_id not in expired}

    @retrying
    async def revoke(self, link_id: str, actor: Actor) -> Link:
        """Deletes a link. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        text = await execute(self._redis, self._redis.hget(self._records, link_id), str)
        if not text:
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no link '{link_id[:64]}'. It may have been used.")
        link = msgspec.json.decode(text, type=Link)
        act = AuditEvent(actor, "invitation.revoke", CONSOLE, link_id, before=describe_link(link))
        await self._changes.make(act, [FieldUpdate(HashKind.LINKS, link_id, text, None)])
        return link


def describe_link(link: Link) -> dict[str, object]:
    return {
        "name": link.name,
        "role": link.role.value,
        "tenant": link.tenant or None,
        "created_by": link.created_by,
        "created_at": link.created_at,
        "expires_at": link.expires_at,
    }
