"""The roles that the claims of an ID token grant.

A value of the configured claim must equal the value of a rule exactly. Without a match there is no role.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.roles import ConsoleRole


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Grants a role to everybody whose claim has a value."""

    value: str
    """Compared exactly, with case."""
    role: ConsoleRole
    tenant: str = ""
    """ID of the tenant of a lead or a member."""


class NoRoleError(Exception):
    """No role for these claims. The message names claims, never their values."""


def find_roles(claims: Mapping[str, object], path: str, rules: Sequence[RoleRule]) -> list[RoleRule]:
    """Returns every rule that matches the claim at `path`, such as `realm_access.roles`; only admin's if one does.

    Raises: NoRoleError if the provider left the claim out, with its own reason if it had too many groups to name them.
    """
    values = _values(claims, path)
    if values is None:
        # Entra ID leaves out more than 200 groups: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
        if "_claim_names" in claims or "hasgroups" in claims:
            raise NoRoleError(f"the claim '{path}' was left out because it has too many values")
        raise NoRoleError(f"the claim '{path}' is missing or is no text or list of texts")
    matched = [rule for rule in rules if rule.value in values]
    if not matched:
        raise NoRoleError(f"no value of the claim '{path}' has a role")
    return [rule for rule in matched if rule.role is ConsoleRole.ADMIN] or matched


def _values(claims: Mapping[str, object], path: str) -> list[str] | None:
    """Returns the texts of a claim; None if it is missing or of another type.

    The whole path may be the name of one claim: names that are URLs have dots.
    """
    found: object = claims
    for name in [path] if path in claims else path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and all(isinstance(value, str) for value in found):
        return found
    return None
