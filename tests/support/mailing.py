"""Real SMTP servers that store what they accept."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.support.certificates import Files

WORD: Final = "a-password-of-mail"


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
