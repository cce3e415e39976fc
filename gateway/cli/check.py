"""`imagegate check`."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from gateway import __version__
from gateway.app import build_telemetry
from gateway.app.backends import find_problems, redis_id
from gateway.cli.output import ReportProgress, print_table, print_text, progressing
from gateway.config import Settings, SettingsError, config_path, load
from gateway.config.resolve import Config, resolve
from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamSet
from gateway.providers.links import LinkTrust
from gateway.providers.protocol import KeyCheck
from gateway.redis.embedded import EmbeddedError
from gateway.redis.journal_file import JournalFile
from gateway.server import StartError
from gateway.server.embedded import embedded_of
from gateway.server.exposure import find_exposures
from gateway.server.tls import Certificate

_AT_ONCE: Final = 8
_REGIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "minimax": "https://api.minimax.io worldwide, https://api.minimaxi.com in mainland China",
        "302ai": "https://api.302.ai worldwide, https://api.302ai.cn in mainland China",
    }
)
"""Each provider's own hosts (reference/minimax.md 1.1, 5.2)."""
_BARE: Final = "the host refuses without the provider's error code: check the secret and base_url"
_FINDINGS: Final[Mapping[ErrorCode, tuple[str, str]]] = MappingProxyType(
    {
        ErrorCode.KEY_INVALID: ("invalid key", "correct the secret, or base_url if the key belongs to another region"),
        ErrorCode.ACCOUNT_UNVERIFIED: ("not verified", "verify the account's owner at the provider"),
        ErrorCode.KEY_LIMIT_REACHED: ("limit reached", "raise the key's limit at the provider"),
        ErrorCode.IP_DENIED: ("address refused", "allow this machine's address at the provider"),
        ErrorCode.INSUFFICIENT_BALANCE: ("no balance", "top up the account at the provider"),
        ErrorCode.QUOTA_EXHAUSTED_PLAN: ("plan used up", "wait until the window ends, or upgrade the plan"),
        ErrorCode.QUOTA_EXHAUSTED_DAILY: ("plan used up", "wait until the window ends, or upgrade the plan"),
        ErrorCode.ACCOUNT_RATE_LIMITED: ("busy", "retry in a minute"),
        ErrorCode.BARE_UNAUTHORIZED: ("refused", _BARE),
        ErrorCode.BARE_PAYMENT_REQUIRED: ("refused", _BARE),
        ErrorCode.BARE_FORBIDDEN: ("refused", _BARE),
        ErrorCode.BARE_RATE_LIMITED: ("busy", "retry in a minute"),
        ErrorCode.BARE_REFUSAL: ("wrong host", "base_url is not this provider's API"),
        ErrorCode.CONNECT_FAILED: ("unreachable", "check base_url, name resolution and the firewall"),
        ErrorCode.NOT_SENT: ("unreachable", "check base_url"),
        ErrorCode.READ_TIMEOUT: ("no response", "the host accepts the connection but does not respond; retry later"),
        ErrorCode.CONNECTION_LOST: (
            "no response",
            "the host closes the connection; check whether base_url needs https",
        ),
        ErrorCode.UPSTREAM_UNSUPPORTED: ("wrong host", "base_url has no such endpoint"),
        ErrorCode.INVALID_RESPONSE: ("wrong host", "base_url is not this provider's API"),
        ErrorCode.RESPONSE_TOO_LARGE: ("wrong host", "base_url is not this provider's API"),
        ErrorCode.UNEXPECTED_RESPONSE: ("wrong host", "base_url is not this provider's API"),
    }
)
"""Result and fix by error code."""


def run_check(config: str | None, *, asks_upstreams: bool) -> None:
    """Prints a report. Raises: SettingsError, StartError if upstream keys cannot be used."""
    settings = load(config, os.environ)
    path = config_path(config, os.environ)
    try:
        resolved = resolve(settings, os.environ)
        build_telemetry(settings)
        certificate = _check_certificate(settings)
        redis = _check_redis(resolved)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    supply = resolved.upstreams
    accounts = sum(len(pool.accounts) for pool in supply.pools)
    print(path)
    print(f"valid: upstream keys {len(supply.keys)}, accounts {accounts}, models {len(settings.models)}")
    if settings.tenants:
        keys_declared = sum(len(tenant.keys) for tenant in settings.tenants)
        print(f"declared: tenants {len(settings.tenants)}, keys {keys_declared}")
    print(f"admin API: {_openness(resolved)}")
    print(f"redis: {redis}")
    print(_check_journal(resolved))
    if certificate:
        print(certificate)
    for exposure in find_exposures(settings, path, has_admin_key=bool(resolved.admin_keys)):
        print_text(f"warning: {exposure.where}: {exposure.what}; {exposure.remedy}")
    for upstream in _upstreams_with_refused_links(supply):
        print(f"warning: upstream {upstream}:")
        print("  result_hosts does not include its own address, which its URLs may have")
    for same in supply.shared_keys():
        print(f"warning: several accounts have the same secret ({same[0].secret.fingerprint}):")
        print("  " + ", ".join(f"{key.upstream}/{key.id}" for key in same))
        print("  each account is assumed to have its own limits; the provider's are exceeded")
    if asks_upstreams:
        _check_upstreams(settings, supply)


def _upstreams_with_refused_links(supply: UpstreamSet) -> list[str]:
    """Upstreams at a plain-HTTP address whose result links the gateway would refuse to follow."""
    endpoints = (endpoint for endpoint in supply.endpoints.values() if endpoint.base_url.startswith("http://"))
    return [entry.name for entry in endpoints if entry.links.trust(entry.base_url) is LinkTrust.NONE]


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


def _openness(config: Config) -> str:
    names = ", ".join(key.name for key in config.admin_keys)
    return f"enabled for {names}" if names else "disabled, no [admin] key is set"


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
        probes = asyncio.run(_probe(supply, report))
    results = list(zip(supply.keys, probes, strict=True))
    print_table(
        ("UPSTREAM", "ACCOUNT", "KEY", "FINGERPRINT", "RESULT"),
        [(key.upstream, key.account, key.name, key.secret.fingerprint, _finding(probe)) for key, probe in results],
        empty="No keys.",
    )
    for remedy in dict.fromkeys(_remedy(probe) for probe in probes if probe.error_code):
        print_text(remedy)
    for line in _wrong_regions(settings, results):
        print_text(line)
    failed = sum(probe.error_code is not None for probe in probes)
    if failed:
        raise StartError(f"{failed} of {len(probes)} upstream keys do not work")


async def _probe(supply: UpstreamSet, report: ReportProgress) -> list[KeyCheck]:
    """Returns results in the order of the keys."""
    async with AiohttpTransport() as transport:
        pages, turns = (
            KeyChecker(transport, lambda: supply.endpoints, f"imagegate/{__version__}"),
            asyncio.Semaphore(_AT_ONCE),
        )
        done = 0

        async def probe(key: ProviderKey) -> KeyCheck:
            nonlocal done
            async with turns:
                result = await pages.probe(key)
            done += 1
            report(done, len(supply.keys))
            return result

        return await asyncio.gather(*(probe(key) for key in supply.keys))


def _finding(probe: KeyCheck) -> str:
    if probe.error_code is None:
        return "ok" if probe.proves_balance else "ok, balance unknown"
    name = probe.error_code.value.replace("_", " ")
    return _FINDINGS.get(probe.error_code, (name, ""))[0]


def _remedy(probe: KeyCheck) -> str:
    assert probe.error_code is not None  # only failures have a remedy
    remedy = _FINDINGS.get(probe.error_code, ("", f"the upstream says: {probe.detail}"))[1]
    return f"{_finding(probe)}: {remedy}"


def _wrong_regions(settings: Settings, results: Sequence[tuple[ProviderKey, KeyCheck]]) -> list[str]:
    """Reports hosts that reject all of several keys: a wrong URL is likelier than several wrong keys."""
    lines: list[str] = []
    for upstream in settings.upstreams:
        error_codes = [probe.error_code for key, probe in results if key.upstream == upstream.name]
        if len(error_codes) > 1 and set(error_codes) == {ErrorCode.KEY_INVALID}:
            lines.append(
                f"{upstream.name}: {upstream.base_url} rejects all of its keys. base_url probably belongs to another "
                f"region. Known regions: {_REGIONS[upstream.provider]}."
            )
    return lines
