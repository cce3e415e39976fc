"""`imagegate check`."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from gateway import __version__
from gateway.app.backends import find_problems, redis_id
from gateway.app.telemetry import build_telemetry
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
from gateway.server.embedded import embedded_of
from gateway.server.errors import StartError
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
_BARE: Final = "the host refuses without the provider's own error code: check the secret and base_url"
_FINDINGS: Final[Mapping[ErrorCode, tuple[str, str]]] = MappingProxyType(
    {
        ErrorCode.KEY_INVALID: ("invalid key", "correct the secret, or base_url if the key is of another region"),
        ErrorCode.ACCOUNT_UNVERIFIED: ("not verified", "verify the owner of the account at the provider"),
        ErrorCode.KEY_LIMIT_REACHED: ("limit reached", "raise the key's limit at the provider"),
        ErrorCode.IP_DENIED: ("address refused", "let the provider accept this machine's address"),
        ErrorCode.INSUFFICIENT_BALANCE: ("no balance", "top the account up at the provider"),
        ErrorCode.QUOTA_EXHAUSTED_PLAN: ("plan used up", "wait until its window ends, or buy more"),
        ErrorCode.QUOTA_EXHAUSTED_DAILY: ("plan used up", "wait until its window ends, or buy more"),
        ErrorCode.ACCOUNT_RATE_LIMITED: ("busy", "ask again in a minute"),
        ErrorCode.BARE_UNAUTHORIZED: ("refused", _BARE),
        ErrorCode.BARE_PAYMENT_REQUIRED: ("refused", _BARE),
        ErrorCode.BARE_FORBIDDEN: ("refused", _BARE),
        ErrorCode.BARE_RATE_LIMITED: ("busy", "ask again in a minute"),
        ErrorCode.BARE_REFUSAL: ("wrong host", "base_url leads to something that is not this provider"),
        ErrorCode.CONNECT_FAILED: ("unreachable", "check base_url, name resolution and the firewall"),
        ErrorCode.NOT_SENT: ("unreachable", "check base_url"),
        ErrorCode.READ_TIMEOUT: ("no answer", "the host takes the connection and says nothing; ask again later"),
        ErrorCode.CONNECTION_LOST: ("no answer", "the host breaks the connection; is https meant?"),
        ErrorCode.UPSTREAM_UNSUPPORTED: ("wrong host", "base_url leads to something that has no such page"),
        ErrorCode.INVALID_RESPONSE: ("wrong host", "base_url leads to something that is not this provider"),
        ErrorCode.RESPONSE_TOO_LARGE: ("wrong host", "base_url leads to something that is not this provider"),
        ErrorCode.UNEXPECTED_RESPONSE: ("wrong host", "base_url leads to something that is not this provider"),
    }
)
"""Finding and remedy by error code."""


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
        print("  result_hosts does not name its own address, where its links may point")
    for same in supply.shared_keys():
        print(f"warning: the same secret stands in several accounts ({same[0].secret.fingerprint}):")
        print("  " + ", ".join(f"{key.upstream}/{key.id}" for key in same))
        print("  each account is taken to have limits of its own: the provider's are exceeded")
    if asks_upstreams:
        _check_upstreams(settings, supply)


def _upstreams_with_refused_links(supply: UpstreamSet) -> list[str]:
    """Upstreams at a plain-HTTP address whose result links the gateway would refuse to follow."""
    endpoints = (endpoint for endpoint in supply.endpoints.values() if endpoint.base_url.startswith("http://"))
    return [entry.name for entry in endpoints if entry.links.trust(entry.base_url) is LinkTrust.NONE]


def _check_certificate(settings: Settings) -> str:
    """A line of the report. Raises: SettingsError."""
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
        return f"warning: no journal, requests.journal_dir cannot be written:\n  {error}"
    return "journal: can be written"


def _openness(config: Config) -> str:
    names = ", ".join(key.name for key in config.admin_keys)
    return f"open to {names}" if names else "closed, no [admin] key is set"


def _check_redis(config: Config) -> str:
    """A line of the report. Raises: SettingsError."""
    embedded = embedded_of(config.settings)
    if embedded is None:
        try:
            problems = asyncio.run(find_problems(config))
        except GatewayError as error:
            remedy = "is it running there? is TLS meant (rediss://)?"
            raise SettingsError(f"redis.url: redis does not answer ({error.detail}); {remedy}") from error
        if problems:
            raise SettingsError(f"redis.url: {'; '.join(problems)}")
        return "answers"
    try:
        embedded.prepare()
    except EmbeddedError as error:
        raise SettingsError(f"redis: {error}") from error
    return "embedded, starts with the gateway"


def _check_upstreams(settings: Settings, supply: UpstreamSet) -> None:
    """Prints a line per key and per remedy. Raises: StartError if a key cannot be used."""
    with progressing("asking", "keys") as report:
        probes = asyncio.run(_probe(supply, report))
    found = list(zip(supply.keys, probes, strict=True))
    print_table(
        ("UPSTREAM", "ACCOUNT", "KEY", "FINGERPRINT", "FOUND"),
        [(key.upstream, key.account, key.name, key.secret.fingerprint, _finding(probe)) for key, probe in found],
        empty="There are no keys.",
    )
    for remedy in dict.fromkeys(_remedy(probe) for probe in probes if probe.error_code):
        print_text(remedy)
    for line in _wrong_regions(settings, found):
        print_text(line)
    failed = sum(probe.error_code is not None for probe in probes)
    if failed:
        raise StartError(f"{failed} of {len(probes)} upstream keys cannot be used")


async def _probe(supply: UpstreamSet, report: ReportProgress) -> list[KeyCheck]:
    """Results in the order of the keys."""
    async with AiohttpTransport() as transport:
        pages, turns = (
            KeyChecker(transport, lambda: supply.endpoints, f"imagegate/{__version__}"),
            asyncio.Semaphore(_AT_ONCE),
        )
        done = 0

        async def probe(key: ProviderKey) -> KeyCheck:
            nonlocal done
            async with turns:
                found = await pages.probe(key)
            done += 1
            report(done, len(supply.keys))
            return found

        return await asyncio.gather(*(probe(key) for key in supply.keys))


def _finding(probe: KeyCheck) -> str:
    if probe.error_code is None:
        return "ok" if probe.proves_balance else "ok, balance not told"
    name = probe.error_code.value.replace("_", " ")
    return _FINDINGS.get(probe.error_code, (name, ""))[0]


def _remedy(probe: KeyCheck) -> str:
    assert probe.error_code is not None  # only a failure has a remedy
    remedy = _FINDINGS.get(probe.error_code, ("", f"the upstream says: {probe.detail}"))[1]
    return f"{_finding(probe)}: {remedy}"


def _wrong_regions(settings: Settings, found: Sequence[tuple[ProviderKey, KeyCheck]]) -> list[str]:
    """Hosts that know none of several keys: one wrong URL is likelier than several wrong keys."""
    lines: list[str] = []
    for upstream in settings.upstreams:
        error_codes = [probe.error_code for key, probe in found if key.upstream == upstream.name]
        if len(error_codes) > 1 and set(error_codes) == {ErrorCode.KEY_INVALID}:
            lines.append(
                f"{upstream.name}: none of its keys is known at {upstream.base_url}: base_url is probably of the wrong "
                f"region. There are: {_REGIONS[upstream.provider]}."
            )
    return lines
