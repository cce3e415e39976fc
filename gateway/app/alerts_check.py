"""Checks `[alerts]` without sending an event: connects to endpoints, and logs in to the mail server."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway.config.resolve import Config
from gateway.events.addresses import MAIL
from gateway.events.endpoints import Channel, Endpoint
from gateway.generation.transport import trusted_authorities

_CONNECT_S: Final = 5.0
_AT_ONCE: Final = 8
"""Limit on concurrent connections."""


class AlertFinding(NamedTuple):
    """A result of the check: its subject, "ok" or "warning", and the text."""

    subject: str
    result: str
    text: str


async def check_alerts(config: Config) -> list[AlertFinding]:
    """Tries the configured endpoints and the mail server. Alerts that cannot be sent stop no request."""
    alerts, free = config.alerts, asyncio.Semaphore(_AT_ONCE)
    authorities = trusted_authorities(config.settings.requests.ca_file)

    async def check(endpoint: Endpoint) -> AlertFinding:
        subject, proxy = f"alerts {endpoint.name}", alerts.proxies.find(endpoint.url)
        if endpoint.channel is Channel.EMAIL:
            return AlertFinding(subject, "ok", "by e-mail")
        if proxy:
            return AlertFinding(subject, "ok", f"through {proxy.name}")
        async with free:
            problem = await _connect(endpoint.url, authorities)
        return AlertFinding(subject, "warning", problem) if problem else AlertFinding(subject, "ok", "reachable")

    found = list(await asyncio.gather(*map(check, alerts.endpoints)))
    if alerts.mail:
        mail, place = replace(alerts.mail, context=authorities), f"{alerts.mail.host}:{alerts.mail.port}"
        problem = await mail.check()
        text = f"{place}: {problem}; check [alerts.smtp]" if problem else f"{place} accepts the gateway"
        found.append(AlertFinding("alerts.smtp", "warning" if problem else "ok", text))
    return [*found, *_misdirected(config)]


async def _connect(url: str, authorities: ssl.SSLContext) -> str:
    """Opens a connection and sends nothing on it but the TLS handshake. Returns: the problem, or an empty string."""
    parts = urlsplit(url)
    is_encrypted, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port or (443 if is_encrypted else 80)
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=authorities if is_encrypted else None)
        writer.transport.abort()
    except TimeoutError:
        reason = f"no connection within {_CONNECT_S:.0f} s"
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not trusted ({error.verify_message})"
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error)
    else:
        return ""
    return f"{host}:{port}: {reason}; check its URL and DNS, and whether this network needs a proxy (HTTPS_PROXY)"


def _misdirected(config: Config) -> Iterator[AlertFinding]:
    """Yields addresses that get nothing: of unknown tenants, and those that the rules refuse."""
    alerts, declared = config.alerts, {one.tenant.name for one in config.tenants}
    for endpoint in alerts.endpoints:
        if declared and endpoint.tenant and endpoint.tenant not in declared:
            text = f"no [[tenants]] entry is named '{endpoint.tenant}'; correct `tenant`, unless a command created it"
            yield AlertFinding(f"alerts {endpoint.name}", "warning", text)
    for tenant in (one.tenant for one in config.tenants):
        for number, address in enumerate(tenant.alert_to):
            subject = f"tenant {tenant.name}: alerts.to[{number}]"
            try:
                alerts.rules.check(address)
            except ValueError as error:
                yield AlertFinding(subject, "warning", str(error))
                continue
            if address.startswith(MAIL) and not alerts.mail:
                yield AlertFinding(subject, "warning", "e-mail needs a mail server; set [alerts.smtp] host and from")
