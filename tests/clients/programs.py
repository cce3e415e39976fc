"""Client programs from the package registries: installed into `.cache/clients`, and run unchanged.

A program is a script that uses a package as its users do. It runs in a process of its own with only that package's
directory on its path, performs several acts, and writes what came of each.
"""

import fcntl
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from tests.support.harness import STARTED_WITH, Gateway

CACHE: Final = Path(__file__).parents[2] / ".cache" / "clients"
SCRIPTS: Final = Path(__file__).parent / "scripts"
INSTALL_TIMEOUT_S: Final = 240.0
RUN_TIMEOUT_S: Final = 120.0
_NPM: Final = ("npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
_UV: Final = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", ".")
_PASSED_ON: Final = ("PATH", "LANG", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Packages:
    """Exact versions of packages that share a directory."""

    name: str
    requirements: tuple[str, ...]
    """As pip takes them, or as npm does if they have an `@`."""
    node: int = 0
    """The oldest Node that runs them; 0 for Python packages."""


@dataclass(frozen=True)
class Program:
    """A script, the packages that it uses, and the outcome of each of its acts."""

    name: str
    packages: Packages
    script: str
    outcomes: Mapping[str, str]
    """By act: format and size of the pictures, such as `png 1024x1024`, or the name of an exception."""
    images: int
    """Images charged for all acts."""
    arguments: tuple[str, ...] = ()


def install(packages: Packages) -> Path:
    """Returns the directory of the packages, installed once. Skips the test if they cannot be had."""
    if packages.node and (found := _node_version()) < packages.node:
        pytest.skip(f"{packages.name} needs Node {packages.node}, here is {found or 'none'}")
    folder, wanted = CACHE / packages.name, "\n".join(packages.requirements)
    with _locked(packages.name):
        done = folder / "installed"
        if not done.is_file() or done.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _run_installer(packages, folder)
            done.write_text(wanted)
    return folder


@functools.cache
def _node_version() -> int:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return 0
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.removeprefix("v").partition(".")[0])


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Several processes run tests."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run_installer(packages: Packages, folder: Path) -> None:
    if packages.node:
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [*(_NPM if packages.node else _UV), *packages.requirements]
    began = time.monotonic()
    print(f"\ninstalling {packages.name} ...", file=sys.stderr, flush=True)
    try:
        subprocess.run(
            command, cwd=folder, env=STARTED_WITH, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{packages.name} could not be installed within {INSTALL_TIMEOUT_S:.0f} s")
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no output"]
        pytest.skip(f"{packages.name} could not be installed: {lines[-1][:200]}")
    print(f"installed {packages.name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def run(program: Program, installed: Path, gateway: Gateway, folder: Path) -> dict[str, str]:
    """Returns the outcome of each act."""
    Image.effect_noise((1024, 1024), 40).convert("RGBA").save(folder / "portrait.png")
    environ = {name: value for name, value in STARTED_WITH.items() if name in _PASSED_ON} | {
        "HOME": str(folder),
        "PYTHONPATH": str(installed),
        "OPENAI_API_KEY": gateway.api_key,
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_BASE": gateway.base_url,
        "GATEWAY_URL": gateway.url,
        "FOLDER": str(folder),
    }
    if program.packages.node:
        # Node finds packages beside the script.
        for script in SCRIPTS.glob("*.mjs"):
            shutil.copy(script, installed)
        command = ["node", str(installed / program.script)]
    else:
        command = [sys._base_executable, str(SCRIPTS / program.script)]  # type: ignore[attr-defined] # not the suite's packages
    done = subprocess.run(
        [*command, *program.arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert 0 == done.returncode, (done.stdout + done.stderr)[-4000:]
    lines = (folder / "outcomes").read_text().splitlines()
    return {act: _describe(outcome, folder) for act, outcome in map(json.loads, lines)}


def _describe(outcome: str | list[str], folder: Path) -> str:
    if isinstance(outcome, str):
        return outcome
    return ", ".join(_describe_picture(folder / name) for name in outcome)


def _describe_picture(path: Path) -> str:
    with Image.open(path) as picture:
        picture.load()
        return f"{(picture.format or '').lower()} {picture.width}x{picture.height}"
