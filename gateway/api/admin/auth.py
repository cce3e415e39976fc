"""Who may use the admin API, and for what."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.domain.accounts import Secret
from gateway.domain.errors import ErrorCode, GatewayError


class Role(Enum):
    """What an admin key opens."""

    ADMIN = "admin"
    READ = "read"
    """Looks and changes nothing."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """One administrator's key; the audit names it."""

    name: str
    secret: Secret
    role: Role = Role.ADMIN


class AdminAuthenticator:
    """The admin keys. Without any the API is closed."""

    def __init__(self, keys: Iterable[AdminKey]) -> None:
        self._keys = tuple(keys)

    def check(self, authorization: str, method: str) -> str:
        """The name of the key that was sent. Every key is compared, so that the time tells nothing.

        Raises: GatewayError ADMIN_API_DISABLED, ADMIN_UNAUTHORIZED, ADMIN_READ_ONLY.
        """
        if not self._keys:
            raise GatewayError(ErrorCode.ADMIN_API_DISABLED)
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode()
        found = [key for key in self._keys if hmac.compare_digest(sent, key.secret.reveal().encode())]
        if scheme.lower() != "bearer" or not found:
            raise GatewayError(
                ErrorCode.ADMIN_UNAUTHORIZED, "A valid admin key is required: 'Authorization: Bearer ADMIN_KEY'."
            )
        if found[0].role is Role.READ and method != "GET":
            raise GatewayError(
                ErrorCode.ADMIN_READ_ONLY, f"The admin key '{found[0].name}' may read and not change anything."
            )
        return found[0].name
