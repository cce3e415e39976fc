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
    if find_spec("joserfc") is None:
        raise SettingsError(
            "console.oidc: needs the package joserfc, which is not installed: "
            'pip install "imagegate[console]", or remove the table'
        )
    return IdentityProvider(terms, fetch, time.monotonic)


async def check_provider(config: Config) -> str:
    """Reads the provider's endpoints and keys. Returns: what it found. Raises: SettingsError."""
    assert config.oidc is not None
    async with AiohttpTransport(trusted_authorities(config.settings.requests.ca_file)) as transport:
        provider = build_provider(config.oidc, Fetcher(transport, config.alerts.proxies).fetch)
        try:
            found = await provider.discover()
        except SignInError as error:
            raise SettingsError(f"console.oidc.issuer: {config.oidc.issuer}: {error}") from error
    return f"{config.oidc.issuer} responds; signing keys {len(found.keys)}"
