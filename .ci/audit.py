"""Audits every locked dependency against the OSV database, by pip-audit.

Exit code 1 if a vulnerability is known and not ignored, if the locks cannot be read, or if the database does not
respond and `audit-exception.toml` does not allow that today.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

_LOCKS = ("deploy/requirements.lock", "requirements-dev.lock")
_OSV_URL = "https://api.osv.dev/v1/query"
_EXCEPTIONS = Path(__file__).with_name("audit-exception.toml")
_LONGEST = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Exemption:
    """A dated exception."""

    reason: str
    expires: date

    def is_valid(self) -> bool:
        return datetime.now(UTC).date() <= self.expires


@dataclass(frozen=True, slots=True)
class Exemptions:
    """The exceptions in `audit-exception.toml`: a build without an audit, and vulnerabilities by ID."""

    not_audited: Exemption | None
    ignored: Mapping[str, Exemption]


def read_exemptions(path: Path) -> Exemptions:
    """Reads the file, which may be absent. Raises: ValueError that names the invalid entry."""
    document = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    if unknown := set(document) - {"not_audited", "ignored"}:
        raise ValueError(f"unknown table {min(unknown)}")
    table, entries = document.get("not_audited"), document.get("ignored", [])
    ignored = {entry["id"]: _read(f"ignored {entry['id']}", entry, "id") for entry in entries}
    return Exemptions(_read("not_audited", table) if table is not None else None, ignored)


def _read(name: str, table: Mapping[str, Any], *more: str) -> Exemption:
    if set(table) != {"date", "expires", "reason", *more}:
        raise ValueError(f"{name}: needs date, expires and reason, and nothing else")
    begins, expires, reason = table["date"], table["expires"], table["reason"]
    if type(begins) is not date or type(expires) is not date:
        raise ValueError(f"{name}: date and expires must be dates, as in 2026-01-31")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"{name}: the reason is empty")
    if begins > datetime.now(UTC).date() or not begins <= expires <= begins + _LONGEST:
        raise ValueError(f"{name}: must not begin in the future, nor last longer than {_LONGEST.days} days")
    return Exemption(reason.strip(), expires)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--required", action="store_true", help="fail without an audit, whatever the exception file says"
    )
    parser.add_argument("--osv-url", default=_OSV_URL, help="another address of the database")
    parser.add_argument("--exceptions", type=Path, default=_EXCEPTIONS, help="the file of exceptions")
    parser.add_argument("locks", nargs="*", default=_LOCKS, help="requirement files with hashes")
    given = parser.parse_args()
    try:
        exemptions = read_exemptions(given.exceptions)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return _fail(f"{given.exceptions} is not valid: {error}")
    options = [part for lock in given.locks for part in ("--requirement", lock)]
    read = _pip_audit("--dry-run", *options)  # uses no network
    if read.returncode:
        return _fail(f"the locks cannot be audited: {_last_line(read)}")
    done = _pip_audit("--osv-url", given.osv_url, *options)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _without_audit(_last_line(done), None if given.required else exemptions.not_audited)
    return _report(packages, exemptions.ignored)


def _pip_audit(*options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", "osv", "--format", "json", "--desc", "off", "--aliases", "on"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
    return last[0].split(": ")[0]


def _without_audit(why: str, exemption: Exemption | None) -> int:
    print(f"NOT AUDITED: the database of vulnerabilities cannot be asked ({why})", file=sys.stderr)
    if exemption is None:
        return _fail("no exception allows this build to pass without an audit")
    if not exemption.is_valid():
        return _fail(f"the exception expired on {exemption.expires}: {exemption.reason}")
    print(f"NOT AUDITED: allowed until {exemption.expires}: {exemption.reason}", file=sys.stderr)
    return 0


def _report(packages: list[dict[str, Any]], ignored: Mapping[str, Exemption]) -> int:
    known = [(package, found) for package in packages for found in package.get("vulns", [])]
    red = [f"{package['name']}: {package['skip_reason']}" for package in packages if "vulns" not in package]
    if not packages:
        red.append("the locks name no package")
    for package, found in known:
        said = f"{package['name']} {package['version']}: {found['id']}"
        exemption = next((ignored[name] for name in (found["id"], *found["aliases"]) if name in ignored), None)
        if exemption and exemption.is_valid():
            print(f"IGNORED until {exemption.expires}: {said}: {exemption.reason}", file=sys.stderr)
        else:
            red.append(f"{said}, fixed in: {', '.join(found['fix_versions']) or 'none yet'}")
    for line in red:
        print(line, file=sys.stderr)
    print(f"audited: packages {len(packages)}, known vulnerabilities {len(known)}")
    return int(bool(red))


def _fail(message: str) -> int:
    print(f"audit: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
