"""Writes a CycloneDX 1.6 bill of materials of a lock file to standard output, without a network.

It lists the Python packages with versions, allowed hashes and dependencies. It does not list what wheels contain
(Valkey, OpenSSL) nor the base image.
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\]+))? \\")
_HASH = re.compile(r"    --hash=sha256:(?P<hash>[0-9a-f]{64})(?: \\)?")
_VIA = re.compile(r"    #(?: via)? +(?P<parent>[a-z0-9][a-z0-9-]*)(?: \(.*\))?")


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package of the lock. `parents` depend on it."""

    name: str
    version: str
    marker: str | None
    hashes: list[str]
    parents: list[str]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(text: str) -> list[Package]:
    """Reads a lock that `make lock` wrote. Raises: ValueError for an unknown line."""
    packages: list[Package] = []
    for line in text.splitlines():
        if pin := _PIN.fullmatch(line):
            packages.append(Package(pin["name"], pin["version"], pin["marker"], [], []))
        elif packages and (found := _HASH.fullmatch(line)):
            packages[-1].hashes.append(found["hash"])
        elif packages and (via := _VIA.fullmatch(line)):
            packages[-1].parents.append(via["parent"])
        elif line not in {"    # via", "    #   -c requirements-dev.lock"}:
            raise ValueError(f"not understood: {line}")
    if unhashed := [package.name for package in packages if not package.hashes]:
        raise ValueError(f"no hash: {', '.join(unhashed)}")
    return packages


def build(lock: str, project: Mapping[str, str], now: datetime) -> dict[str, object]:
    """Builds the document. Its serial number is derived from the lock, so the same lock has the same one."""
    packages = read_lock(lock)
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    refs = [(project["name"], root), *((package.name, package.purl) for package in packages)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root + lock)}",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": root,
            },
        },
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": ref, "dependsOn": [package.purl for package in packages if name in package.parents]}
            for name, ref in refs
        ],
    }


def _component(package: Package) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "hashes": [{"alg": "SHA-256", "content": each} for each in package.hashes],
        "purl": package.purl,
    }
    if package.marker:  # not installed on every platform
        component["properties"] = [{"name": "imagegate:marker", "value": package.marker}]
    return component


def main(lock: str) -> None:
    project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
    print(json.dumps(build(Path(lock).read_text("utf-8"), project, datetime.now(UTC)), indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
