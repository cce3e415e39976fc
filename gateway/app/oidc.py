"""Builds the console's sign-in by an identity provider, and checks that the provider responds."""

import time
from importlib.util import find_spec

from gateway.api.console.claims import OidcTerms, SignInError
from gateway.api.console.identity_provider import Fetch, IdentityProvider
from gateway.config import SettingsError
from gateway.config.resolve import Config
from gateway.generation.fetches import Fetcher
from gateway.generation.transport import AiohttpTransport, trusted_authorities


def build_provider(terms: OidcTerms, fetch: Fetch) -> IdentityProvider:
    """Raises: SettingsError if the extra that checks tokens is not installed."""
    require_extra()
    return IdentityProvider(terms, fetch, time.monotonic)


def require_extra() -> None:
    """Raises: SettingsError. The package is imported at the first sign-in, as it takes 140 ms."""
    if find_spec("joserfc") is None:
        raise SettingsError(
            "console.oidc: needs the package joserfc, which is not installed: "
            'pip install "imagegate[console]", or remove the table'
        )


async def check_provider(config: Config, terms: OidcTerms) -> str:
    """Reads the provider's endpoints and keys. Returns: what it found. Raises: SettingsError."""
    async with AiohttpTransport(trusted_authorities(config.settings.requests.ca_file)) as transport:
        try:
            found = await IdentityProvider(
                terms, Fetcher(transport, config.alerts.proxies).fetch, time.monotonic
            ).discover()
        except SignInError as error:
            raise SettingsError(f"console.oidc.issuer: {terms.issuer}: {error}") from error
    return f"{terms.issuer} responds, signing keys {len(found.keys)}"
