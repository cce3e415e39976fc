"""Events of this gateway's own process: a refused configuration, and a TLS certificate that expires."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from gateway.api.pool_gauges import PoolGauges
from gateway.domain.errors import GatewayError
from gateway.domain.events import EventType
from gateway.events.outbox import Outbox
from gateway.observability.metrics import Metrics

_CHECK_S: Final = 3600.0
_DAY_S: Final = 86_400
_DAYS: Final = frozenset({30, 14, *range(8)})
"""Days before the expiry of a certificate on which an event is sent."""
_MESSAGE_MAX_CHARS: Final = 2000


@dataclass(frozen=True, slots=True)
class ProcessEvents:
    """Appends these events. All processes use the same event name, so each event is sent once."""

    outbox: Outbox
    metrics: Metrics
    gauges: PoolGauges

    async def note_reload(self, refusal: str) -> None:
        """Records whether the last configuration change was refused. `refusal` is the reason; empty if accepted."""
        self.metrics.config_reload_refused.set(int(bool(refusal)))
        if refusal:
            name = f"{refusal} {int(time.time()) // _DAY_S}"
            await self._append(EventType.RELOAD_REFUSED, {"message": refusal[:_MESSAGE_MAX_CHARS]}, name)

    async def watch_certificate(self, host: str, certificate: Path) -> None:
        """Checks the certificate of a PEM file every hour; runs until cancelled."""
        while True:
            await self.check_certificate(host, certificate)
            await asyncio.sleep(_CHECK_S)

    async def check_certificate(self, host: str, certificate: Path) -> None:
        ends, now_s = await asyncio.to_thread(_expiry, certificate), time.time()
        days = max(0, int((ends.timestamp() - now_s) // _DAY_S)) if ends else -1
        if ends:
            self.gauges.certificate_end_s = ends.timestamp()
        if ends and days in _DAYS:
            data = {"host": host, "expires_at": int(ends.timestamp()), "days": days}
            await self._append(EventType.CERTIFICATE_EXPIRING, data, f"{ends.isoformat()} {int(now_s) // _DAY_S}")

    async def _append(self, kind: EventType, data: dict[str, object], name: str) -> None:
        with suppress(GatewayError):  # Redis is unavailable: the log and the metrics show the problem
            await self.outbox.append(kind, data, name=f"{kind.value} {name}")


def _expiry(certificate: Path) -> datetime | None:
    """Returns None for a file that is no certificate: a reload of it is refused, and the old one stays in force."""
    from cryptography import x509  # noqa: PLC0415 - memory that only TLS needs

    with suppress(OSError, ValueError):
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return None
