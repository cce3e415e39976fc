"""Releases that Redis did not accept, journaled for their image and cost totals."""

import msgspec

from gateway.redis.journal import Journal
from gateway.redis.journal_file import Entry
from gateway.scheduler import CallReport, Lease
from gateway.scheduler.scripts import Scripts

RELEASE = "release"
"""Journal kind."""


class _Release(msgspec.Struct, frozen=True):
    """Arguments of lua/release.lua."""

    upstream: str
    lease: str
    decision: str


class Releases:
    """Journals releases until Redis accepts them. The lease itself expires."""

    def __init__(self, scripts: Scripts, journal: Journal) -> None:
        self._scripts = scripts
        self._journal = journal

    async def journal(self, lease: Lease, report: CallReport) -> None:
        """Journals a success for the account's daily totals. A replay is too late to affect health."""
        if not report.images:
            return
        key = lease.key
        decision = {
            "account": key.account,
            "key": key.name,
            "fingerprint": key.secret.fingerprint,
            "model": lease.model,
            "images": report.images,
            "usd_micros": report.usd_micros,
        }
        release = _Release(key.upstream, lease.id, msgspec.json.encode(decision).decode())
        await self._journal.note([Entry(RELEASE, lease.id, msgspec.Raw(msgspec.json.encode(release)))])

    async def replay(self, body: msgspec.Raw) -> None:
        """Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""
        release = msgspec.json.decode(body, type=_Release)
        await self._scripts.run("release", release.upstream, [release.lease, release.decision])
