"""`imagegate check`."""

import asyncio
import os
from typing import Final

from gateway import __version__
from gateway.app import build_telemetry
from gateway.app.backends import find_problems, redis_id
from gateway.app.storage import check_storage
from gateway.cli.output import ReportProgress, print_table, print_text, progressing
from gateway.config import Settings, SettingsError, config_path, load, locate
from gateway.config.egress import unreadable_authorities
from gateway.config.resolve import Config, resolve
from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport, trusted_authorities
from gateway.generation.upstreams import UpstreamSet
from gateway.observability.logging import configure_logging
from gateway.providers.links import LinkTrust
from gateway.providers.protocol import KeyCheck
from gateway.redis.embedded import EmbeddedError
from gateway.redis.journal_file import JournalFile
from gateway.server import StartError
from gateway.server.embedded import embedded_of
from gateway.server.exposure import find_exposures
from gateway.server.tls import Certificate

_AT_ONCE: Final = 8
"""Limit on concurrent key checks."""
_REGIONS: Final = {
    "minimax": "https://api.minimax.io worldwide, https://api.minimaxi.com in mainland China",
    "302ai": "https://api.302.ai worldwide, https://api.302ai.cn in mainland China",
}
"""Each provider's own hosts (reference/minimax.md 1.1, 5.2)."""
_REFUSED: Final = ("cannot tell", "no page gives the provider's own verdict on the key: check the secret and base_url")
_USED_UP: Final = ("plan used up", "wait until the window ends, or upgrade the plan")
_BUSY: Final = ("busy", "retry in a minute")
_WRONG_HOST: Final = ("wrong host", "base_url is probably not this provider's API")
_FINDINGS: Final = {
    ErrorCode.KEY_INVALID: ("invalid key", "correct the secret, or base_url if the key belongs to another region"),
    ErrorCode.ACCOUNT_UNVERIFIED: ("not verified", "verify the account's owner at the provider"),
    ErrorCode.KEY_LIMIT_REACHED: ("limit reached", "raise the key's limit at the provider"),
    ErrorCode.IP_DENIED: ("address refused", "allow this machine's address at the provider"),
    ErrorCode.INSUFFICIENT_BALANCE: ("no balance", "top up the account at the provider"),
    ErrorCode.QUOTA_EXHAUSTED_PLAN: _USED_UP,
    ErrorCode.QUOTA_EXHAUSTED_DAILY: _USED_UP,
    ErrorCode.ACCOUNT_RATE_LIMITED: _BUSY,
    ErrorCode.BARE_UNAUTHORIZED: _REFUSED,
    ErrorCode.BARE_PAYMENT_REQUIRED: _REFUSED,
    ErrorCode.BARE_FORBIDDEN: _REFUSED,
    ErrorCode.BARE_RATE_LIMITED: _BUSY,
    ErrorCode.BARE_REFUSAL: _WRONG_HOST,
    ErrorCode.CONNECT_FAILED: ("unreachable", ""),
    ErrorCode.NOT_SENT: ("unreachable", ""),
    ErrorCode.READ_TIMEOUT: ("no response", "the host accepts the connection but does not respond; retry later"),
    ErrorCode.CONNECTION_LOST: ("no response", "the host closes the connection; check whether base_url needs https"),
    ErrorCode.UPSTREAM_UNSUPPORTED: ("wrong host", "base_url has no such endpoint"),
    ErrorCode.INVALID_RESPONSE: _WRONG_HOST,
    ErrorCode.RESPONSE_TOO_LARGE: _WRONG_HOST,
    ErrorCode.UNEXPECTED_RESPONSE: _WRONG_HOST,
}
"""Result and fix by error code."""
_EXPLAINED: Final = frozenset(
    {
        ErrorCode.CONNECT_FAILED,
        ErrorCode.NOT_SENT,
        ErrorCode.READ_TIMEOUT,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.BARE_UNAUTHORIZED,
        ErrorCode.BARE_PAYMENT_REQUIRED,
        ErrorCode.BARE_FORBIDDEN,
        ErrorCode.BARE_REFUSAL,
        ErrorCode.UPSTREAM_UNSUPPORTED,
        ErrorCode.INVALID_RESPONSE,
        ErrorCode.UNEXPECTED_RESPONSE,
    }
)
"""Errors of the way to the provider, whose details say what was requested and what responded."""


def run_check(config: str | None, *, asks_upstreams: bool) -> None:
    """Prints a report. Raises: SettingsError, StartError if upstream keys cannot be used."""
    configure_logging("console", "error")  # the report tells what the log would warn of
    settings = load(config, os.environ)
    path = config_path(config, os.environ)
    try:
        resolved = resolve(settings, os.environ)
        build_telemetry(settings)
        certificate = _check_certificate(settings)
        redis = _check_redis(resolved)
        storage = asyncio.run(check_storage(resolved))
    except SettingsError as error:
        raise locate(str(error), os.environ, path) from error
    supply = resolved.upstreams
    admins = ", ".join(key.name for key in resolved.admin_keys)
    accounts = sum(len(pool.accounts) for pool in supply.pools)
    print(path)
    print(f"valid: upstream keys {len(supply.keys)}, accounts {accounts}, models {len(settings.models)}")
    if settings.tenants:
        keys_declared = sum(len(tenant.keys) for tenant in settings.tenants)
        print(f"declared: tenants {len(settings.tenants)}, keys {keys_declared}")
    print(f"admin API: {f'enabled for {admins}' if admins else 'disabled, no [admin] key is set'}")
    print(f"redis: {redis}")
    print(f"storage: {storage}")
    print(_check_journal(resolved))
    if certificate:
        print(certificate)
    for name, authorities in unreadable_authorities(os.environ):
        print_text(f"warning: {name}: {authorities} cannot be read; its certificate authorities are not trusted")
    for exposure in find_exposures(settings, path, has_admin_key=bool(resolved.admin_keys)):
        print_text(f"warning: {exposure.where}: {exposure.what}; {exposure.remedy}")
    for upstream in supply.endpoints.values():
        if upstream.base_url.startswith("http://") and upstream.links.trust(upstream.base_url) is LinkTrust.NONE:
            print(f"warning: upstream {upstream.name}:")
            print("  result_hosts does not include its own address, which its URLs may have")
    for same in supply.shared_keys():
        print(f"warning: several accounts have the same secret ({same[0].secret.fingerprint}):")
        print("  " + ", ".join(f"{key.upstream}/{key.id}" for key in same))
        print("  each account is assumed to have its own limits; the provider's are exceeded")
    if asks_upstreams:
        _check_upstreams(settings, supply)


def _check_certificate(settings: Settings) -> str:
    """Returns a line of the report. Raises: SettingsError."""
    if settings.server.tls is None:
        return ""
    certificate = Certificate(settings.server.tls)
    if warning := certificate.expiry_warning():
        return f"warning: server.tls: {warning}"
    return f"certificate: until {certificate.expires_at().isoformat(timespec='minutes')}"


def _check_journal(config: Config) -> str:
    if config.journal_dir is None:
        return f"warning: no journal:\n  {config.journal_problem}" if config.journal_problem else "journal: off"
    try:
        JournalFile.create(config.journal_dir, redis_id(config)).remove()
    except OSError as error:
        return f"warning: no journal, requests.journal_dir is not writable:\n  {error}"
    return "journal: writable"


def _check_redis(config: Config) -> str:
    """Returns a line of the report. Raises: SettingsError."""
    embedded = embedded_of(config.settings)
    if embedded is None:
        try:
            problems = asyncio.run(find_problems(config))
        except GatewayError as error:
            remedy = "check that it is running, and whether it needs TLS (rediss://)"
            raise SettingsError(f"redis.url: redis does not respond ({error.detail}); {remedy}") from error
        if problems:
            raise SettingsError(f"redis.url: {'; '.join(problems)}")
        return "reachable"
    try:
        embedded.prepare()
    except EmbeddedError as error:
        raise SettingsError(f"redis: {error}") from error
    return "embedded, starts with the gateway"


def _check_upstreams(settings: Settings, supply: UpstreamSet) -> None:
    """Prints a line per key and per remedy. Raises: StartError if a key cannot be used."""
    with progressing("checking", "keys") as report:
        probes = asyncio.run(_probe(settings, supply, report))
    findings = [_finding(probe) for probe in probes]
    print_table(
        ("UPSTREAM", "ACCOUNT", "KEY", "FINGERPRINT", "RESULT"),
        [
            (key.upstream, key.account, key.name, key.secret.fingerprint, result)
            for key, (result, _) in zip(supply.keys, findings, strict=True)
        ],
        empty="No keys.",
    )
    for result, remedy in dict.fromkeys(findings):
        if remedy:
            print_text(f"{result}: {remedy}")
    for upstream in settings.upstreams:
        pairs = zip(supply.keys, probes, strict=True)
        error_codes = [probe.error_code for key, probe in pairs if key.upstream == upstream.name]
        # A wrong URL is likelier than several wrong keys.
        if len(error_codes) > 1 and set(error_codes) == {ErrorCode.KEY_INVALID}:
            print_text(
                f"{upstream.name}: {upstream.base_url} rejects all of its keys. base_url probably belongs to another "
                f"region. Known regions: {_REGIONS[upstream.provider]}."
            )
    if failed := sum(probe.error_code is not None for probe in probes):
        raise StartError(f"{failed} of {len(probes)} upstream keys do not work")


async def _probe(settings: Settings, supply: UpstreamSet, report: ReportProgress) -> list[KeyCheck]:
    """Returns results in the order of the keys."""
    async with AiohttpTransport(trusted_authorities(settings.requests.ca_file)) as transport:
        checker = KeyChecker(transport, lambda: supply.endpoints, f"imagegate/{__version__}")
        free, done = asyncio.Semaphore(_AT_ONCE), 0

        async def probe(key: ProviderKey) -> KeyCheck:
            nonlocal done
            async with free:
                result = await checker.probe(key)
            done += 1
            report(done, len(supply.keys))
            return result

        return await asyncio.gather(*(probe(key) for key in supply.keys))


def _finding(probe: KeyCheck) -> tuple[str, str]:
    """Returns the result and its fix, which is empty if the key works."""
    if probe.error_code is None:
        return "ok" if probe.proves_balance else "ok, balance unknown", ""
    unknown = (probe.error_code.value.replace("_", " "), f"the upstream says: {probe.detail}")
    result, remedy = _FINDINGS.get(probe.error_code, unknown)
    return result, "; ".join(filter(None, (probe.detail, remedy))) if probe.error_code in _EXPLAINED else remedy
