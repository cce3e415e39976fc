"""Encryption of provider keys at rest: Redis holds only ciphertext, useless without the encryption key.

A sealed text is `v1.KEYID.TEXT`: version, encryption key ID, and in base64url a random 96-bit nonce and the
AES-256-GCM ciphertext (NIST SP 800-38D). The secret's name is authenticated data, so a text moved to another name
does not decrypt.
"""

import base64
import binascii
import os
import re
from collections.abc import Sequence
from typing import Final

from gateway.domain.accounts import Secret

_VERSION: Final = "v1"
_INFO: Final = b"imagegate pool vault v1"
"""HKDF context: separates these keys from other uses of the same configured secret."""
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
"""Enough to distinguish a few keys. Reveals nothing, because the encryption key uses other bytes of the derivation."""
_NONCE_BYTES: Final = 12
_SEALED: Final = re.compile(rf"{_VERSION}\.([0-9a-f]{{{2 * _ID_BYTES}}})\.([A-Za-z0-9_-]+=*)", re.ASCII)


class DecryptionError(Exception):
    """A sealed secret does not decrypt. The message states the reason and never includes the secret."""


class SecretBox:
    """Encrypts with the first configured encryption key, and decrypts with any of them."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        """Needs at least one secret. The caller checks that they are long enough to resist guessing."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 7 MB that few need

        derived = [_derive(secret) for secret in secrets]
        self._sealing_id = derived[0][0]
        self._ciphers = {key_id: AESGCM(key) for key_id, key in derived}

    def seal(self, secret: str, name: str) -> str:
        """Encrypts a secret. `name` is its owner: "UPSTREAM/ACCOUNT/KEY"."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._ciphers[self._sealing_id].encrypt(nonce, secret.encode(), name.encode())
        return f"{_VERSION}.{self._sealing_id}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, name: str) -> str:
        """Decrypts a secret.

        Raises: DecryptionError if the encryption key is missing, or the text was changed or moved.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - loaded only if keys are encrypted

        found = _SEALED.fullmatch(sealed)
        if found is None:
            raise DecryptionError(f"the secret of {name} has an unknown format")
        cipher = self._ciphers.get(found[1])
        if cipher is None:
            raise DecryptionError(
                f"the secret of {name} is sealed with the encryption key {found[1]}, which [pool] encryption_keys lacks"
            )
        try:
            content = base64.b64decode(found[2], altchars=b"-_", validate=True)
            return cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], name.encode()).decode()
        except (binascii.Error, InvalidTag, ValueError) as error:
            raise DecryptionError(f"the sealed secret of {name} was changed or moved from another name") from error

    def is_current(self, sealed: str) -> bool:
        """Returns True if the first key sealed it. Otherwise seal it again before its key is removed."""
        found = _SEALED.fullmatch(sealed)
        return found is not None and found[1] == self._sealing_id


def _derive(secret: Secret) -> tuple[str, bytes]:
    """Derives a key ID and an AES key."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - loaded only if keys are encrypted
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 - loaded only if keys are encrypted

    derivation = HKDF(SHA256(), _ID_BYTES + _KEY_BYTES, salt=None, info=_INFO)
    derived = derivation.derive(secret.plaintext.encode())
    return derived[:_ID_BYTES].hex(), derived[_ID_BYTES:]
