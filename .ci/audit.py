"""Asks OSV's database of vulnerabilities about every locked dependency, through pip-audit.

Exit code 1 where one is known, and with `--required` also where the database does not answer: a machine without
internet could otherwise check nothing at all.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

_LOCKS = ("deploy/requirements.lock", "requirements-dev.lock")
_OSV_URL = "https://api.osv.dev/v1/query"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail when the database does not answer")
    parser.add_argument("--osv-url", default=_OSV_URL, help="another address of the database")
    parser.add_argument("locks", nargs="*", default=_LOCKS, help="requirement files with hashes")
    given = parser.parse_args()
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", "osv", "--osv-url", given.osv_url, "--format", "json", "--desc", "off"]
    command += [part for lock in given.locks for part in ("--requirement", lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        print(
            f"NOT AUDITED: the database of vulnerabilities does not answer ({last[0].split(':')[0]})", file=sys.stderr
        )
        return int(given.required)
    known = [(package, found) for package in packages for found in package["vulns"]]
    for package, found in known:
        better = ", ".join(found["fix_versions"]) or "none yet"
        print(f"{package['name']} {package['version']}: {found['id']}, fixed in: {better}", file=sys.stderr)
    print(f"audited: packages {len(packages)}, known vulnerabilities {len(known)}")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
