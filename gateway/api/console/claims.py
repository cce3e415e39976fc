"""What an identity provider is trusted for: its terms, and the roles that the claims of an ID token grant.

A value of the configured claim must equal the value of a rule exactly. Without a match there is no role.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.domain.roles import ConsoleRole

_LABEL_CHARS: Final = 100


class Problem(Enum):
    """Why a person is not signed in, as the page's address names it."""

    COOKIE = "cookie"
    STATE = "state"
    DENIED = "denied"
    CODE = "code"
    TOKEN = "token"  # noqa: S105 - no secret
    CLAIM = "claim"
    GROUPS = "groups"
    ROLE = "role"
    TENANT = "tenant"
    PROVIDER = "provider"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"


class SignInError(Exception):
    """A refused sign-in. The message is for the log: it names claims, never their values, and no secret."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Grants a role to all people whose claim has a value."""

    value: str
    """Compared exactly, with case."""
    role: ConsoleRole
    tenant: str = ""
    """Name of the tenant of a lead or a member."""


@dataclass(frozen=True, slots=True)
class OidcTerms:
    """The client that the gateway is at an identity provider, and the roles that it grants."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    """Empty for a public client."""
    scopes: tuple[str, ...]
    claim: str
    rules: tuple[RoleRule, ...]
    base: str
    """Scheme and host under which browsers open the console."""
    label: str

    @property
    def redirect_uri(self) -> str:
        return f"{self.base}/console/oidc/callback"

    @property
    def proof(self) -> str:
        """Changes with everything that a role depends on, so that sessions of former terms end."""
        terms = (
            self.issuer,
            self.client_id,
            self.claim,
            [(rule.value, rule.role.value, rule.tenant) for rule in self.rules],
        )
        return hashlib.sha256(repr(terms).encode()).hexdigest()[:32]


def find_roles(claims: Mapping[str, object], path: str, rules: Sequence[RoleRule]) -> list[RoleRule]:
    """Returns the rules that a person may choose from, by the claim at `path`, such as `realm_access.roles`.

    One if a role without a tenant matches: admin beats finance, which beats viewer. Otherwise one a tenant, in the
    order of the rules; lead beats member. Raises: SignInError.
    """
    values = _values(claims, path)
    if path == "email" and claims.get("email_verified") is not True:
        raise SignInError(Problem.CLAIM, "the claim 'email' grants a role only if 'email_verified' is true")
    if values is None:
        # Entra ID leaves out more than 200 groups: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
        if "_claim_names" in claims or "hasgroups" in claims:
            raise SignInError(Problem.GROUPS, f"the claim '{path}' was left out because it has too many values")
        raise SignInError(Problem.CLAIM, f"the claim '{path}' is missing, or is no text or list of texts")
    order = list(ConsoleRole)
    matched = sorted((rule for rule in rules if rule.value in values), key=lambda rule: order.index(rule.role))
    if not matched:
        raise SignInError(Problem.ROLE, f"no value of the claim '{path}' has a role")
    if not matched[0].role.has_tenant:
        return matched[:1]
    best = {rule.tenant: rule for rule in reversed(matched)}
    return [best.pop(rule.tenant) for rule in rules if rule in matched and rule.tenant in best]


def find_label(claims: Mapping[str, object]) -> str:
    """Returns the name to show: an e-mail address only if it is verified, as others may have had it.

    A name with an @ would pass for an address.
    """
    email, name = claims.get("email"), claims.get("name")
    if isinstance(email, str) and email and claims.get("email_verified") is True:
        return _printable(email)
    return _printable(name) if isinstance(name, str) and "@" not in name else ""


def _printable(text: str) -> str:
    return "".join(one for one in text if one.isprintable())[:_LABEL_CHARS].strip()


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
