"""Authentication and roles of the admin API."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.domain.accounts import Secret
from gateway.domain.errors import ErrorCode, GatewayError


class Role(Enum):
    """Permission of an admin key."""

    ADMIN = "admin"
    READ = "read"
    """Read-only."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """A named admin key. The audit records the name."""

    name: str
    secret: Secret
    role: Role = Role.ADMIN


class AdminAuthenticator:
    """Authenticates admin keys. Without any key the API is disabled."""

    def __init__(self, keys: Iterable[AdminKey]) -> None:
        self._keys = tuple(keys)

    def check(self, authorization: str, method: str) -> str:
        """Returns the name of the key that was sent. Compares against every key to keep the timing constant.

        Raises: GatewayError ADMIN_API_DISABLED, ADMIN_UNAUTHORIZED, ADMIN_READ_ONLY.
        """
        if not self._keys:
            raise GatewayError(ErrorCode.ADMIN_API_DISABLED)
        scheme, _, credential = authorization.partition(" ")
        sent = credential.strip().encode()
        matching = [key for key in self._keys if hmac.compare_digest(sent, key.secret.plaintext.encode())]
        if scheme.lower() != "bearer" or not matching:
            raise GatewayError(
                ErrorCode.ADMIN_UNAUTHORIZED, "A valid admin key is required: 'Authorization: Bearer ADMIN_KEY'."
            )
        if matching[0].role is Role.READ and method != "GET":
            raise GatewayError(ErrorCode.ADMIN_READ_ONLY, f"Admin key '{matching[0].name}' is read-only.")
        return matching[0].name
