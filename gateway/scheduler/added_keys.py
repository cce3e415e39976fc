"""Keys that are added at run time, as Redis holds them: with encrypted secrets."""

from collections.abc import Callable
from dataclasses import asdict

import msgspec
import structlog

from gateway.domain.accounts import AccountLimits, ProviderKey, Secret
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.scheduler.encryption import DecryptionError, SecretBox

_LOG = structlog.get_logger("imagegate.pool")


class AddedKey(msgspec.Struct, frozen=True):
    """A field of the hash `added`."""

    sealed: str
    fingerprint: str
    limits: dict[str, int]
    added_at: int = 0
    added_by: str = ""


class AddedKeySecrets:
    """Encrypts and decrypts them with the configured encryption keys."""

    def __init__(self, secret_box: SecretBox | None, clock: Callable[[], float]) -> None:
        self._secret_box = secret_box
        self._clock = clock
        self._unreadable: set[str] = set()
        """Keys that this process cannot decrypt; each is logged once."""

    def seal(self, key: ProviderKey, limits: AccountLimits, actor: Actor) -> AddedKey:
        """Raises: GatewayError CONFLICT without an encryption key."""
        if self._secret_box is None:
            raise GatewayError(
                ErrorCode.CONFLICT, "Keys cannot be added: set [pool] encryption_keys, which encrypt their secrets."
            )
        sealed = self._secret_box.seal(key.secret.plaintext, f"{key.upstream}/{key.id}")
        return AddedKey(sealed, key.secret.fingerprint, asdict(limits), int(self._clock()), actor.name)

    def renew(self, name: str, added: AddedKey, secret: Secret) -> AddedKey | None:
        """Returns the key, sealed with the current encryption key; None if it is already."""
        if self._secret_box is None or self._secret_box.is_current(added.sealed):
            return None
        return msgspec.structs.replace(added, sealed=self._secret_box.seal(secret.plaintext, name))

    def open(self, name: str, added: AddedKey) -> Secret | None:
        """Decrypts the secret of "UPSTREAM/ACCOUNT/KEY"; None if this process cannot."""
        try:
            if self._secret_box is None:
                raise DecryptionError("no [pool] encryption_keys are set")  # noqa: TRY301
            secret = Secret(self._secret_box.open(added.sealed, name), added.fingerprint)
            self._unreadable.discard(name)
        except DecryptionError as error:
            if name not in self._unreadable:
                self._unreadable.add(name)
                upstream, _, member = name.partition("/")
                _LOG.error("pool_key_decryption_failed", upstream=upstream, key=member, detail=str(error))
            return None
        return secret
