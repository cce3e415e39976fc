"""The gateway's own TLS certificate: read at startup, and renewed without a restart when its files change."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from gateway.config import SettingsError, Tls
from gateway.server.file_watcher import FileWatcher

_LOG = structlog.get_logger("imagegate.tls")
_REMEDY: Final = "correct the files; they are read again when they change"
_SOON_DAYS: Final = 14
"""Renewal usually happens 30 days before expiry: with less than this left it has failed."""


class Certificate:
    """Two PEM files. Open connections keep the certificate that they began with."""

    def __init__(self, tls: Tls) -> None:
        """Raises: SettingsError."""
        self._tls = tls
        self.context: ssl.SSLContext | None = None
        """For new connections. Replaced whole: handshakes fail while files are loaded into a context in use."""
        self._watchers: tuple[FileWatcher, ...] = ()
        self._valid = b"", b""
        """Last valid content. A new process begins with it if the files are invalid by then."""
        self.read()

    def load(self) -> None:
        """Sets the context of this process, whose changes `poll` then follows."""
        self._watchers = (FileWatcher(self._tls.certificate), FileWatcher(self._tls.key))
        try:
            self.context = self.read()
        except SettingsError as error:
            _LOG.error("certificate_reload_rejected", detail=str(error), hint=_REMEDY)
            with TemporaryDirectory() as folder:  # only this user can read it; Python loads certificates from files
                paths = [f"{folder}/tls.crt", f"{folder}/tls.key"]
                for path, content in zip(paths, self._valid, strict=True):
                    Path(path).write_bytes(content)
                self.context = _build_context(*paths)

    def read(self) -> ssl.SSLContext:
        """A context of the files' present content. Raises: SettingsError."""
        content = self._read_file("certificate", self._tls.certificate), self._read_file("key", self._tls.key)
        try:
            context = _build_context(self._tls.certificate, self._tls.key)
        except OSError as error:
            reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "unreadable"
            raise SettingsError(
                f"server.tls: cannot load {self._tls.certificate} and {self._tls.key} "
                f"({reason.lower().replace('_', ' ')}); "
                "use PEM files of a certificate and its key, without a passphrase"
            ) from error
        self._valid = content
        return context

    def poll(self) -> None:
        """Loads changed files for new connections. Call it about once a second.

        Invalid ones are logged once, and the old stay in force.
        """
        changed = [watcher.has_changed() for watcher in self._watchers]  # every watcher counts its own polls
        if not any(changed):
            return
        for watcher in self._watchers:
            watcher.mark_read()
        try:
            self.context = self.read()
        except SettingsError as error:
            _LOG.error("certificate_reload_rejected", detail=str(error), hint=_REMEDY)
        else:
            _LOG.info("certificate_reloaded", ends=self.expires_at().isoformat())

    def expires_at(self) -> datetime:
        """Raises: SettingsError."""
        from cryptography import x509  # noqa: PLC0415 - memory that only TLS needs

        try:
            return x509.load_pem_x509_certificate(Path(self._tls.certificate).read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as error:
            raise SettingsError(f"server.tls.certificate: {self._tls.certificate} is not a PEM certificate") from error

    def expiry_warning(self) -> str:
        """Empty unless the certificate has expired or expires soon. Raises: SettingsError."""
        end, now = self.expires_at(), datetime.now(UTC)
        if (end - now).days >= _SOON_DAYS:
            return ""
        return f"the certificate {'expired' if end < now else 'expires'} at {end.isoformat(timespec='minutes')}"

    def _read_file(self, name: str, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"server.tls.{name}: {path} cannot be read ({error.strerror})") from error


def _build_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with authenticated ciphers (AEAD) only, as all of TLS 1.3 are. No renegotiation.

    Raises: OSError. Without the empty passphrase, OpenSSL would ask for one at the terminal and wait.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key, lambda: "")
    return context
