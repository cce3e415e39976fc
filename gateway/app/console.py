"""Builds the console: its sessions, its routes, and who may use them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

from starlette.routing import Route

from gateway.api.admin import AdminKey
from gateway.api.admin.console import ConsoleSection
from gateway.api.admin.members import MemberSection
from gateway.api.admin.usage import UsageSection
from gateway.api.auth_throttle import FailedAuthThrottle
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits
from gateway.api.console.access import ConsoleAccess
from gateway.api.console.grants import Grants
from gateway.api.console.identity_provider import Fetch, IdentityProvider
from gateway.api.console.oidc import OidcRoutes
from gateway.api.console.sign_in import SignInRoutes, SignInTerms
from gateway.api.console.static_files import StaticFiles
from gateway.api.console.tenant import FindPlace, MemberAuthenticator, PersonRoutes, PlaygroundAuthenticator
from gateway.api.images import ImageRoutes
from gateway.api.lead import LeadRoutes
from gateway.app.oidc import build_provider
from gateway.config.resolve import Config
from gateway.redis import Client
from gateway.tenants.api_keys import ApiKeyStore
from gateway.tenants.authentication import Authenticator
from gateway.tenants.names import TenantNames
from gateway.tenants.sessions import LinkStore, SessionStore
from gateway.tenants.store import TenantStore
from gateway.tenants.transactions import TenantTransactions


@dataclass(frozen=True, slots=True, repr=False)
class ConsoleParts:
    """Sessions and links, and what they are checked by."""

    access: ConsoleAccess
    grants: Grants
    links: LinkStore
    section: ConsoleSection
    members: MemberSection
    keys: ApiKeyStore
    names: TenantNames
    limits: BodyLimits
    terms: SignInTerms
    provider: IdentityProvider | None

    def routes(
        self,
        authenticator: TenantAuthenticator,
        throttle: FailedAuthThrottle,
        lead: LeadRoutes,
        usage: UsageSection,
        images: ImageRoutes,
        find_place: FindPlace,
    ) -> list[Route]:
        """Builds the console's routes from those of tenants' keys, with the same limits."""
        shared = {one.name: getattr(authenticator, one.name) for one in fields(authenticator) if one.name[0] != "_"}
        members = MemberAuthenticator(**shared, access=self.access, grants=self.grants)
        playground = PlaygroundAuthenticator(
            **shared, access=self.access, keys=self.keys, names=self.names, tenants=self.grants.tenants
        )
        by_key = authenticator.authenticator
        sign_in = SignInRoutes(self.access, self.links, by_key, throttle, self.names, self.limits, self.terms)
        oidc = OidcRoutes(self.provider, sign_in, self.grants, time.time).routes() if self.provider else []
        persons = PersonRoutes.build(members, playground, lead, usage, images, time.time, find_place)
        return [*sign_in.routes(), *oidc, *persons.routes(), *StaticFiles().routes()]


def build_console(
    config: Config,
    redis: Client,
    authenticator: Authenticator,
    transactions: TenantTransactions,
    tenants: TenantStore,
    keys: ApiKeyStore,
    names: TenantNames,
    limits: BodyLimits,
    fetch: Fetch,
) -> ConsoleParts | None:
    """Returns None if the console is switched off. `fetch` asks the identity provider."""
    terms = config.settings.console
    if not terms.enabled:
        return None
    admin_keys: Sequence[AdminKey] = config.admin_keys if terms.admin_key_sign_in else ()
    idle_s, lifetime_s = 60 * terms.session_idle_minutes, 3600 * terms.session_hours
    sessions = SessionStore(redis, transactions, time.time, idle_s, lifetime_s)
    links = LinkStore(redis, transactions, time.time)
    oidc = config.oidc
    grants = Grants(admin_keys, authenticator, tenants, oidc.proof if oidc else "")
    button = {"label": oidc.label, "url": f"{oidc.base}/console/oidc/start"} if oidc else None
    return ConsoleParts(
        ConsoleAccess(sessions, grants.is_in_force),
        grants,
        links,
        ConsoleSection(links, sessions, tenants, names, limits),
        MemberSection(
            *(links, sessions, keys, limits, partial(transactions.make, edits=())),
            *(config.alerts.console_url or "", config.settings.admin.port),
        ),
        keys,
        names,
        limits,
        SignInTerms(terms.organisation, config.calendar.name, admin_keys, button),
        build_provider(oidc, fetch) if oidc else None,
    )
