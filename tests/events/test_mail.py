"""E-mail through real SMTP servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from gateway.domain.accounts import make_secret
from gateway.domain.events import EventType
from gateway.events.endpoints import Channel
from gateway.events.mail import MailServer
from gateway.generation.transport import AiohttpTransport
from tests.support.admissions import connected
from tests.support.certificates import Files, certify
from tests.support.receiving import declared, sending

pytestmark = pytest.mark.anyio
WORD = "a-password-of-mail"


class Mailbox:
    """Stores the messages that a server accepts."""

    def __init__(self, refusal: str = "") -> None:
        self.messages: list[EmailMessage] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.were_encrypted: list[bool] = []
        self._refusal = refusal

    async def handle_DATA(self, _: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd
        if self._refusal:
            return self._refusal
        self.were_encrypted.append(session.ssl is not None)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"

    def log_in(self, _: SMTP, __: Any, ___: Any, ____: Any, given: LoginPassword) -> AuthResult:
        self.logins.append((given.login, given.password))
        return AuthResult(success=given.password == WORD.encode(), handled=False)


@asynccontextmanager
async def mail_server(mailbox: Mailbox, files: Files | None = None, **terms: Any) -> AsyncIterator[int]:
    """A server that requires STARTTLS if it has a certificate."""
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.certificate, files.key)
        terms |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.get_running_loop()
    started = await loop.create_server(lambda: SMTP(mailbox, loop=loop, **terms), "127.0.0.1", 0)
    try:
        yield started.sockets[0].getsockname()[1]
    finally:
        started.close()


def server(port: int, **terms: Any) -> MailServer:
    return MailServer("127.0.0.1", port, "Gateway <imagegate@example.com>", **terms)


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "imagegate@example.com", "jo@example.com", "x"
    made.set_content("x")
    return made


async def test_an_alert_says_what_is_used_by_whom_and_when_it_resets(redis_url: str, tmp_path: Path) -> None:
    files, mailbox = certify(tmp_path), Mailbox()
    async with mail_server(mailbox, files, authenticator=mailbox.log_in, auth_required=True) as port:
        mail = server(port, username="gate", password=make_secret(WORD), context=files.trusted)
        async with connected(redis_url) as redis, AiohttpTransport() as transport:
            one = sending(redis, transport, [declared("jo", "mailto:jo@example.com", channel=Channel.EMAIL)], mail=mail)
            data = {
                "tenant": "acme",
                "quota": "usd_per_month",
                "percent": 80,
                "used": "40.00",
                "limit": "50.00",
                "window": "2026-11",
                "resets_at": 1_796_083_200,
            }
            await one.outbox.append(EventType.QUOTA_THRESHOLD, data, "acme", at_s=1_795_000_000)
            await one.sender.queue_events()
            await one.sender.deliver_due("jo")
            [delivered] = await one.latest("jo")
            assert ("delivered", 250, 1) == (delivered.result, delivered.status, one.count("delivered", "email"))
    [received] = mailbox.messages
    assert ([(b"gate", WORD.encode())], [True]) == (mailbox.logins, mailbox.were_encrypted)
    assert "[imagegate] acme has used 80 % of usd_per_month" == received["Subject"]
    assert ("jo@example.com", "Gateway <imagegate@example.com>") == (received["To"], received["From"])
    assert f"<{delivered.event_id}.jo@example.com>" == received["Message-ID"]
    expected = f"""\
acme has used 80 % of usd_per_month.

tenant: acme
used: 40.00 USD
limit: 50.00 USD
window: 2026-11
resets: 2026-12-01T00:00:00Z

API keys that spent most this month:
  KEY1 shop: 12.50 USD
  KEY2: 3.00 USD

Console: https://console.example.com

quota.threshold_crossed, {delivered.event_id}, 2026-11-18T11:06:40Z
"""
    assert expected == received.get_content().replace("\r", "")


async def test_a_server_without_starttls_gets_nothing_unless_it_is_told(tmp_path: Path) -> None:
    mailbox = Mailbox()
    async with mail_server(mailbox) as port:
        refused = await server(port, context=certify(tmp_path).trusted).send(message())
        assert (None, True) == (refused.status, "STARTTLS" in refused.error)
        assert [] == mailbox.messages
        assert 250 == (await server(port, starttls=False).send(message())).status
    assert [False] == mailbox.were_encrypted


async def test_a_certificate_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    mailbox = Mailbox()
    async with mail_server(mailbox, certify(tmp_path)) as port:
        refused = await server(port).send(message())
    assert (None, []) == (refused.status, mailbox.messages)
    assert "certificate" in refused.error.lower()


async def test_what_the_server_refuses_is_the_reason(tmp_path: Path) -> None:
    mailbox = Mailbox("554 no mail from gateways")
    async with mail_server(mailbox) as port:
        refused = await server(port, starttls=False).send(message())
        assert (554, "the mail server refused: no mail from gateways") == (refused.status, refused.error)
    closed = await server(port, starttls=False).send(message())
    assert (None, True) == (closed.status, bool(closed.error))
    files = certify(tmp_path)
    async with mail_server(mailbox, files, authenticator=mailbox.log_in, auth_required=True) as port:
        mail = server(port, username="gate", password=make_secret("wrong"), context=files.trusted)
        refused = await mail.send(message())
    assert 535 == refused.status
    assert "wrong" not in refused.error
