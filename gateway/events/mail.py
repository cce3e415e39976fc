"""Sends e-mail through the SMTP server of the configuration."""

import asyncio
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Final

import aiosmtplib

from gateway.domain.accounts import Secret
from gateway.events.channels import Attempt, NotSent

_TIMEOUT_S: Final = 20.0
"""Of each reply of the server."""
_TOTAL_S: Final = 60.0
IMPLICIT_TLS_PORT: Final = 465
_ACCEPTED: Final = 250


@dataclass(frozen=True, slots=True)
class MailServer:
    """An SMTP server. Port 465 speaks TLS from the beginning; others must offer STARTTLS, if `starttls`."""

    host: str
    port: int
    sender: str
    username: str | None = None
    password: Secret | None = None
    starttls: bool = True
    context: ssl.SSLContext | None = None
    """Trust in the server's certificate; None trusts this machine's authorities."""

    async def send(self, message: EmailMessage) -> Attempt:
        """Returns status 250 if the server accepted the message, else its code or the reason."""
        is_implicit = self.port == IMPLICIT_TLS_PORT
        try:
            async with asyncio.timeout(_TOTAL_S):
                await aiosmtplib.send(
                    message,
                    hostname=self.host,
                    port=self.port,
                    username=self.username,
                    password=self.password.plaintext if self.password else None,
                    use_tls=is_implicit,
                    start_tls=self.starttls and not is_implicit,
                    tls_context=self.context or ssl.create_default_context(),
                    timeout=_TIMEOUT_S,
                )
        except aiosmtplib.SMTPResponseException as error:
            return NotSent(f"the mail server refused: {error.message}"[:200], error.code)
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            return NotSent(f"the mail server refused the address: {refused.message}"[:200], refused.code)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return NotSent(f"{type(error).__name__}: {error}"[:200])
        return NotSent("", _ACCEPTED)
