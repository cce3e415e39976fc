"""`imagegate check`."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import Final

import typer

from gateway import __version__
from gateway.app import build_telemetry
from gateway.app.alerts_check import check_alerts
from gateway.app.backends import redis_id
from gateway.app.redis_check import try_redis
from gateway.app.redis_fitness import unfit
from gateway.app.storage import check_storage
from gateway.cli.key_findings import finding_of
from gateway.cli.output import ReportProgress, print_error, print_json, print_table, print_text, printable, progressing
from gateway.config import Settings, SettingsError, config_path, locate, misspelled_variables
from gateway.config.egress import unreadable_authorities
from gateway.config.resolve import Config, read_config
from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport, trusted_authorities
from gateway.generation.upstreams import UpstreamSet
from gateway.observability.logging import configure_logging
from gateway.providers.links import LinkTrust
from gateway.providers.protocol import KeyCheck
from gateway.redis.embedded import EmbeddedError
from gateway.redis.journal_file import JournalFile
from gateway.server.embedded import embedded_of
from gateway.server.exposure import find_exposures
from gateway.server.tls import Certificate

_AT_ONCE: Final = 8
"""Limit on concurrent key checks."""
_REGIONS: Final = {
    "minimax": "https://api.minimax.io worldwide, https://api.minimaxi.com in mainland China",
    "bfl": "https://api.bfl.ai worldwide, https://api.eu.bfl.ai and https://api.us.bfl.ai for one region",
    **dict.fromkeys(("302ai", "302ai-tasks"), "https://api.302.ai worldwide, https://api.302ai.cn in mainland China"),
}
"""Each provider's own hosts (reference/minimax.md 1.1, 5.2)."""


class Report:
    """The results of all checks, each printed when it is known; failures on standard error. JSON is printed at the end.

    Invariant: no text holds a secret.
    """

    def __init__(self, *, prints_json: bool) -> None:
        self.has_failed = False
        self.prints_json = prints_json
        self._results: list[dict[str, str]] = []

    def add(self, check: str, result: str, text: str, *, more: str = "") -> None:
        """Adds a result, "ok", "warning" or "failed"; `more` is for people only."""
        self._results.append({"check": check, "result": result, "detail": text})
        self.has_failed = self.has_failed or result == "failed"
        if self.prints_json:
            return
        if result == "failed":
            print_error(text)
        elif result == "warning":
            print_text(f"warning: {check}: {text}")
        else:
            print(printable(f"{check}: {text}"))
        if more:
            print_text(more, indent=2)
        sys.stdout.flush()

    def end(self) -> None:
        """Prints the JSON. Raises: Exit with code 1 if a check failed."""
        if self.prints_json:
            print_json({"ok": not self.has_failed, "checks": self._results})
        if self.has_failed:
            raise typer.Exit(1)


def run_check(config: str | None, *, asks_upstreams: bool, prints_json: bool) -> None:
    """Prints a report. Raises: Exit with code 1 if a check failed."""
    configure_logging("console", "error")  # the report tells what the log would warn of
    report, path = Report(prints_json=prints_json), config_path(config, os.environ)
    try:
        resolved = read_config(config, os.environ)
    except SettingsError as error:
        for text, _ in error.problems:
            report.add("configuration", "failed", text)
        report.end()
        return
    _describe(report, resolved, path)
    for check in (_check_tracing, _check_redis, _check_storage, _check_journal, _check_certificate, _check_alerts):
        try:
            check(report, resolved)
        except SettingsError as error:
            for text, _ in locate(error, os.environ, path).problems:
                report.add(check.__name__.removeprefix("_check_"), "failed", text)
    _warn(report, resolved, path)
    if asks_upstreams:
        _check_upstreams(report, resolved.settings, resolved.upstreams)
    report.end()


def _describe(report: Report, config: Config, path: str) -> None:
    settings, supply = config.settings, config.upstreams
    accounts = sum(len(pool.accounts) for pool in supply.pools)
    if not report.prints_json:
        print(path)  # alone, as it may be long
    counts = f"upstream keys {len(supply.keys)}, accounts {accounts}, models {len(settings.models)}"
    report.add("valid", "ok", counts)
    if settings.tenants:
        keys_declared = sum(len(tenant.keys) for tenant in settings.tenants)
        report.add("declared", "ok", f"tenants {len(settings.tenants)}, keys {keys_declared}")
    admins = ", ".join(key.name for key in config.admin_keys)
    report.add("admin API", "ok", f"enabled for {admins}" if admins else "disabled, no [admin] key is set")
    for endpoint in supply.endpoints.values():
        proxy = endpoint.proxies.find(endpoint.base_url)
        report.add(f"upstream {endpoint.name}", "ok", f"through {proxy.name}" if proxy else "direct, without a proxy")


def _warn(report: Report, config: Config, path: str) -> None:
    """Reports what is unsafe, or probably not meant."""
    settings, supply = config.settings, config.upstreams
    for name, meant in misspelled_variables(settings, os.environ):
        report.add(name, "warning", f"this variable sets nothing; did you mean {meant}?")
    for name, authorities in unreadable_authorities(os.environ):
        report.add(name, "warning", f"{authorities} cannot be read; its certificate authorities are not trusted")
    for exposure in find_exposures(settings, path, has_admin_key=bool(config.admin_keys)):
        report.add(exposure.where, "warning", f"{exposure.what}; {exposure.remedy}")
    for upstream in supply.endpoints.values():
        if upstream.base_url.startswith("http://") and upstream.links.trust(upstream.base_url) is LinkTrust.NONE:
            text = "result_hosts does not include its own address, which its URLs may have"
            report.add(f"upstream {upstream.name}", "warning", text)
    for same in supply.shared_keys():
        text = f"several accounts have the same secret ({same[0].secret.fingerprint})"
        names = ", ".join(f"{key.upstream}/{key.id}" for key in same)
        problem = "each account is assumed to have its own limits; the provider's are exceeded"
        report.add("upstreams", "warning", text, more=f"{names}: {problem}")


def _check_tracing(report: Report, config: Config) -> None:
    build_telemetry(config.settings)
    if config.settings.tracing.otlp_endpoint:
        report.add("tracing", "ok", config.settings.tracing.otlp_endpoint)


def _check_certificate(report: Report, config: Config) -> None:
    """Raises: SettingsError for files that cannot be used, also if they have expired."""
    if config.settings.server.tls is None:
        return
    certificate, remedy = Certificate(config.settings.server.tls), "renew it: changed files are read automatically"
    if (warning := certificate.expiry_warning()) and certificate.expires_at() < datetime.now(UTC):
        raise SettingsError(f"server.tls.certificate: {warning}; {remedy}")
    if warning:
        report.add("server.tls", "warning", f"{warning}; {remedy}")
    else:
        report.add("certificate", "ok", f"until {certificate.expires_at().isoformat(timespec='minutes')}")


def _check_journal(report: Report, config: Config) -> None:
    if config.journal_dir is None:
        if config.journal_problem:
            report.add("no journal", "warning", config.journal_problem)
        else:
            report.add("journal", "ok", "off")
        return
    try:
        JournalFile.create(config.journal_dir, redis_id(config)).remove()
    except OSError as error:
        report.add(
            "no journal", "warning", f"requests.journal_dir is not writable ({error.strerror}: {error.filename})"
        )
    else:
        report.add("journal", "ok", "writable")


def _check_redis(report: Report, config: Config) -> None:
    """Raises: SettingsError."""
    if embedded := embedded_of(config.settings):
        try:
            embedded.prepare()
        except EmbeddedError as error:
            raise SettingsError(f"redis: {error}") from error
        report.add("redis", "ok", "embedded, starts with the gateway")
        return
    found = asyncio.run(try_redis(config))
    for warning in found.warnings:
        report.add("redis", "warning", warning)
    if found.problems:
        raise unfit(found.problems)
    report.add("redis", "ok", "reachable; writes, reads and runs the scripts")


def _check_storage(report: Report, config: Config) -> None:
    """Raises: SettingsError."""
    report.add("storage", "ok", asyncio.run(check_storage(config)))


def _check_alerts(report: Report, config: Config) -> None:
    for finding in asyncio.run(check_alerts(config)):
        report.add(*finding)


def _check_upstreams(report: Report, settings: Settings, supply: UpstreamSet) -> None:
    """Prints a line per key and per remedy."""
    with progressing("checking", "keys") as progress:
        probes = asyncio.run(_probe(settings, supply, progress))
    findings = [finding_of(probe) for probe in probes]
    if report.prints_json:
        for key, probe, (result, remedy) in zip(supply.keys, probes, findings, strict=True):
            detail = f"{result}: {remedy}" if remedy else result
            report.add(f"key {key.upstream}/{key.id}", "failed" if probe.error_code else "ok", detail)
        return
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
            endpoint = supply.endpoints[upstream.name]
            known = _REGIONS.get(upstream.provider) or endpoint.provider.base_url or "not known"
            print_text(
                f"{upstream.name}: {endpoint.base_url} rejects all of its keys. base_url probably belongs to another "
                f"region. Known regions: {known}."
            )
    if failed := sum(probe.error_code is not None for probe in probes):
        report.add("keys", "failed", f"{failed} of {len(probes)} upstream keys do not work")


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
