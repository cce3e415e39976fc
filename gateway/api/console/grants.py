"""What a sign-in is worth now: its credential may have been replaced, and its tenant disabled, since."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.api.admin import AdminKey, Role
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import ConsoleRole
from gateway.domain.tenants import LEAD, ApiKey, Principal
from gateway.tenants.authentication import Authenticator
from gateway.tenants.sessions import Grant
from gateway.tenants.store import TenantStore


@dataclass(frozen=True, slots=True, repr=False)
class Grants:
    """Checks sign-ins on every request."""

    admin_keys: Sequence[AdminKey]
    """Keys that may sign in."""
    authenticator: Authenticator
    tenants: TenantStore
    oidc_proof: str = ""
    """Digest of the identity provider's terms; empty without one."""

    async def is_in_force(self, grant: Grant) -> bool:
        """Raises: GatewayError REDIS_UNAVAILABLE."""
        match grant.method:
            case "admin_key":
                now = (grant_of(key) for key in self.admin_keys)
                return grant in now
            case "oidc" if grant.proof != self.oidc_proof:
                return False
        return not grant.role.has_tenant or await self.find(grant) is not None

    async def find(self, grant: Grant) -> Principal | None:
        """Returns as whom a lead or a member acts; None if the sign-in is not valid any more.

        Someone who signed in without a key acts as a key without ID, which buys nothing.
        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        is_lead = grant.role is ConsoleRole.LEAD
        if grant.method == "tenant_key":
            principal = await self.authenticator.find_proved(grant.credential, grant.proof)
            return principal if principal and (principal.key.role == LEAD) == is_lead else None
        try:
            tenant = await self.tenants.get(grant.tenant)
        except GatewayError as error:
            if error.error_code is not ErrorCode.NOT_FOUND:
                raise
            return None
        key = ApiKey("", tenant.name, grant.label, 0, role=LEAD if is_lead else "")
        return None if tenant.is_disabled else Principal(tenant, key)


def grant_of(key: AdminKey) -> Grant:
    role = ConsoleRole.ADMIN if key.role is Role.ADMIN else ConsoleRole.VIEWER
    credential, proof = key.name, key.secret.fingerprint
    return Grant(subject=key.name, label=key.name, role=role, method="admin_key", credential=credential, proof=proof)
