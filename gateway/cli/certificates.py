"""The gateway's own certificate: read at the start, and again when its files change, without a restart."""

import asyncio
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from gateway.cli.watch import Watch
from gateway.settings import SettingsError, Tls

_LOG = structlog.get_logger("imagegate.tls")
_REMEDY: Final = "mend the files; they are read again when they change"
_SOON_DAYS: Final = 14
"""Renewal usually comes a month before the end: with so little left it has failed."""


class Certificate:
    """Two PEM files. Connections that are open keep what they began with."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._good: tuple[bytes, bytes] | None = None
        """What was right when it was read last: a new process begins with it where the files are wrong by then."""
        self.context: ssl.SSLContext | None = None
        """Of new connections. Replaced whole: while files are loaded into one that is in use, its handshakes fail."""
        self._watches: tuple[Watch, ...] = ()
        self._untold = ""
        """Uvicorn asks for the context before the program of a new process has set up its log."""

    def build_context(self, *_uvicorn: object) -> ssl.SSLContext:
        """Raises: SettingsError."""
        self._watches = (Watch(self._tls.certificate), Watch(self._tls.key))
        try:
            self.context = self.read()
        except SettingsError as error:
            if self._good is None:
                raise
            self._untold = str(error)
            self.context = _context_of(*self._good)
        return self.context

    def read(self) -> ssl.SSLContext:
        """A context of the files as they are now. Raises: SettingsError."""
        good = self._read_file("certificate", self._tls.certificate), self._read_file("key", self._tls.key)
        context = _make_context()
        self._load_into(context)
        self._good = good
        return context

    def refresh(self) -> None:
        """Let a process that is about to start begin with the files as they are, if they are right."""
        with suppress(SettingsError):
            self.read()

    def tell_end(self) -> None:
        """Log that it ends soon. Raises: SettingsError."""
        if warning := self.warning():
            _LOG.warning(
                "certificate_ends", detail=warning, remedy="renew it; changed files are taken over by themselves"
            )

    def _read_file(self, name: str, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"server.tls.{name}: {path} cannot be read ({error.strerror})") from error

    async def keep(self) -> None:
        """To be called about once a second."""
        await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take over changed files; new connections get them. Wrong ones are logged once, and the old stay in force."""
        if self._untold:
            _LOG.error("certificate_not_reloaded", detail=self._untold, remedy=_REMEDY)
            self._untold = ""
        changed = [watch.has_changed() for watch in self._watches]  # all are asked: each counts its own looks
        if self.context is None or not any(changed):
            return
        for watch in self._watches:
            watch.note()
        try:
            self.context = self.read()
        except SettingsError as error:
            _LOG.error("certificate_not_reloaded", detail=str(error), remedy=_REMEDY)
        else:
            _LOG.info("certificate_reloaded", ends=self.end().isoformat())

    def end(self) -> datetime:
        """When it expires. Raises: SettingsError."""
        from cryptography import x509  # noqa: PLC0415 - memory that nobody needs without TLS

        try:
            return x509.load_pem_x509_certificate(Path(self._tls.certificate).read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as error:
            raise SettingsError(f"server.tls.certificate: {self._tls.certificate} is no PEM certificate") from error

    def warning(self) -> str:
        """What is to be said of its end; empty when that is far. Raises: SettingsError."""
        end, now = self.end(), datetime.now(UTC)
        if (end - now).days >= _SOON_DAYS:
            return ""
        return f"the certificate {'expired' if end < now else 'expires'} at {end.isoformat(timespec='minutes')}"

    def _load_into(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._tls.certificate, self._tls.key, _refuse_passphrase)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                f"server.tls: {self._tls.certificate} and {self._tls.key} cannot be used ({_reason(error)}); "
                "give PEM files of one certificate and its own key, without a passphrase"
            ) from error


def _make_context() -> ssl.SSLContext:
    """TLS 1.2 or newer with authenticated ciphers (AEAD) only; those of TLS 1.3 all are. No renegotiation."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _context_of(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Python takes certificates from files alone."""
    context = _make_context()
    with TemporaryDirectory() as folder:  # of this user alone
        for name, content in (("tls.crt", certificate), ("tls.key", key)):
            (Path(folder) / name).write_bytes(content)
        context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key", _refuse_passphrase)
    return context


def _refuse_passphrase() -> str:
    """OpenSSL would ask for it at the terminal, and wait."""
    return ""


def _reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or "unreadable").lower().replace("_", " ")
