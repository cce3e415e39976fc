"""Upstream secrets at rest: Redis keeps them sealed, and nobody who reads Redis alone can use them.

A sealed text is `v1.KEYID.TEXT`: the version, which encryption key sealed it, and in base64url a nonce of 96 random
bits and what AES-256-GCM makes of the secret (NIST SP 800-38D). The name that the secret belongs to is sealed with it,
so that a text which somebody moves to another name does not open.
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
"""Keeps what is derived here apart from whatever else the same configured secret may be used for."""
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
"""Enough to tell a handful of keys apart; says nothing of the key, which other bytes of the derivation make."""
_NONCE_BYTES: Final = 12
_SEALED: Final = re.compile(rf"{_VERSION}\.([0-9a-f]{{{2 * _ID_BYTES}}})\.([A-Za-z0-9_-]+=*)", re.ASCII)


class DecryptionError(Exception):
    """A sealed secret does not open; the message says why, and holds nothing of it."""


class SecretBox:
    """Seals with the first of the configured encryption keys and opens with all of them."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        """At least one. What they are must not be guessable: whoever composes this checks their length."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 7 MB that few need

        derived = [_derive(secret) for secret in secrets]
        self._sealing_id = derived[0][0]
        self._ciphers = {key_id: AESGCM(key) for key_id, key in derived}

    def seal(self, secret: str, name: str) -> str:
        """`name` is whose it is: "UPSTREAM/ACCOUNT/KEY"."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._ciphers[self._sealing_id].encrypt(nonce, secret.encode(), name.encode())
        return f"{_VERSION}.{self._sealing_id}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, name: str) -> str:
        """Raises: VaultError naming the encryption key that is missing, or for what was changed or moved."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

        found = _SEALED.fullmatch(sealed)
        if found is None:
            raise DecryptionError(f"the secret of {name} is not sealed in a form that is known here")
        cipher = self._ciphers.get(found[1])
        if cipher is None:
            raise DecryptionError(
                f"the secret of {name} is sealed with the encryption key {found[1]}, which [pool] encryption_keys lacks"
            )
        try:
            content = base64.b64decode(found[2], altchars=b"-_", validate=True)
            return cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], name.encode()).decode()
        except (binascii.Error, InvalidTag, ValueError) as error:
            raise DecryptionError(f"the sealed secret of {name} was changed, or belongs to another name") from error

    def is_current(self, sealed: str) -> bool:
        """Whether the first key sealed it: otherwise it is to be opened and sealed anew before that key goes."""
        found = _SEALED.fullmatch(sealed)
        return found is not None and found[1] == self._sealing_id


def _derive(secret: Secret) -> tuple[str, bytes]:
    """An id to tell it by, and an AES key."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 - as above

    derivation = HKDF(SHA256(), _ID_BYTES + _KEY_BYTES, salt=None, info=_INFO)
    derived = derivation.derive(secret.reveal().encode())
    return derived[:_ID_BYTES].hex(), derived[_ID_BYTES:]
