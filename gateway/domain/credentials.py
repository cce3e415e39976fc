"""The form of a tenant's key: `sk-ig-`, a public id of 10 characters, a secret part of 32, all of base 62.

190 secret bits, so that a plain hash of a key can be published: nobody guesses what it is the hash of. Together 48
characters, so that a line with the key fits a terminal.
"""

import hashlib
import string
from typing import Final

KEY_PREFIX: Final = "sk-ig-"
KEY_ALPHABET: Final = string.ascii_letters + string.digits
ID_CHARS: Final = 10
SECRET_CHARS: Final = 32


def key_id(secret: str) -> str | None:
    """The public id inside a well-formed key."""
    body = secret.removeprefix(KEY_PREFIX)
    is_key = secret.startswith(KEY_PREFIX) and len(body) == ID_CHARS + SECRET_CHARS
    return body[:ID_CHARS] if is_key and body.isascii() and body.isalnum() else None


def digest(secret: str) -> str:
    """The SHA-256 of a key in hexadecimal: all that a configuration holds of it."""
    return hashlib.sha256(secret.encode()).hexdigest()
