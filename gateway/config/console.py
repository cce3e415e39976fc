"""`[console]`: the web page for operators and teams, and signing in by an identity provider."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from gateway.api.console.claims import OidcTerms, RoleRule
from gateway.api.public_url import is_protected
from gateway.config.problems import Problems
from gateway.config.secrets import read_secret
from gateway.config.upstreams import HttpUrl, Name, SecretSource, SettingsError, Table
from gateway.domain.roles import ConsoleRole

_OPENID: Final = "openid"
_Scope = Annotated[
    str, Meta(pattern=r"^[!#-\[\]-~]{1,200}\Z", description="a scope: printable ASCII without spaces and quotes")
]
_ClaimPath = Annotated[
    str, Meta(pattern=r"^[!-~]{1,200}\Z", description='the name of a claim, or a path, as "realm_access.roles"')
]


class OidcRole(Table, frozen=True, kw_only=True):
    """The role of all people whose claim has a value."""

    value: Annotated[str, Meta(min_length=1, max_length=256)]
    role: Literal["admin", "finance", "viewer", "lead", "member"]
    tenant: Name | None = None


class Oidc(Table, frozen=True, kw_only=True):
    """The organisation's identity provider; a sign-in by it needs a role."""

    issuer: HttpUrl
    client_id: Annotated[str, Meta(pattern=r"^[ -~]{1,255}\Z", description="1 to 255 printable ASCII characters")]
    client_secret: SecretSource | None = None
    scopes: tuple[_Scope, ...] = (_OPENID, "profile", "email")
    claim: _ClaimPath = "groups"
    redirect_base: HttpUrl | None = None
    label: Annotated[str, Meta(min_length=1, max_length=60)] = "Sign in with your organisation"
    roles: Annotated[tuple[OidcRole, ...], Meta(min_length=1, max_length=1000)]


class Console(Table, frozen=True, kw_only=True):
    """The console, on the port of the admin API."""

    enabled: bool = True
    organisation: Annotated[str, Meta(max_length=100)] = ""
    session_idle_minutes: Annotated[int, Meta(ge=1, le=1440)] = 30
    session_hours: Annotated[int, Meta(ge=1, le=168)] = 12
    admin_key_sign_in: bool = True
    oidc: Oidc | None = None


def resolve_oidc(
    oidc: Oidc | None, public_url: str | None, environ: Mapping[str, str], problems: Problems
) -> OidcTerms | None:
    """Reads the secret, and checks what types cannot. `public_url` is the default of `redirect_base`."""
    if oidc is None:
        return None
    secret = None
    for text in _mistakes(oidc, public_url):
        with problems.collecting():
            raise SettingsError(f"console.oidc.{text}")
    with problems.collecting():
        secret = read_secret(oidc.client_secret, environ, "console.oidc.client_secret") if oidc.client_secret else None
    return OidcTerms(
        oidc.issuer,
        oidc.client_id,
        secret.plaintext if secret else "",
        oidc.scopes,
        oidc.claim,
        tuple(RoleRule(rule.value, ConsoleRole(rule.role), rule.tenant or "") for rule in oidc.roles),
        (oidc.redirect_base or public_url or "").rstrip("/"),
        oidc.label,
    )


def _mistakes(oidc: Oidc, public_url: str | None) -> Iterator[str]:
    """Yields each mistake behind the setting that has it."""
    if not is_protected(oidc.issuer):
        yield "issuer: must be https, or http on this machine, as http://localhost:8080/realms/test"
    base = oidc.redirect_base or public_url
    example = "the address under which browsers open the console, as https://imagegate.example.com"
    if base is None:
        yield f"redirect_base: is not set, nor is server.public_url; set it to {example}"
    elif urlsplit(base).path.strip("/"):
        yield f"redirect_base: '{base}' has a path; set it to {example}"
    elif not is_protected(base):
        yield f"redirect_base: '{base}' must be https, or http on this machine: browsers keep no session elsewhere"
    if _OPENID not in oidc.scopes:
        yield f'scopes: must include "{_OPENID}", or the provider issues no ID token'
    seen: set[tuple[str, str | None]] = set()
    for number, rule in enumerate(oidc.roles):
        has_tenant = ConsoleRole(rule.role).has_tenant
        if has_tenant and not rule.tenant:
            yield f"roles[{number}].tenant: a {rule.role} belongs to a tenant; name it"
        if rule.tenant and not has_tenant:
            yield f"roles[{number}].tenant: the role '{rule.role}' sees all tenants; remove it, or use lead or member"
        if (rule.value, rule.tenant) in seen:
            place = f" for the tenant '{rule.tenant}'" if rule.tenant else ""
            yield f"roles[{number}].value: '{rule.value}' has another role{place} already; keep one"
        seen.add((rule.value, rule.tenant))
