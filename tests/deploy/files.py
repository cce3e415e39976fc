"""What deploy/ holds, and the tools that it is held against."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.config import Settings, load
from gateway.config.resolve import resolve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def run_tool(name: str, *arguments: str | Path) -> tuple[int, str]:
    """A development tool that comes as a package: its exit code and what it printed."""
    tool = Path(sys.executable).parent / name
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def read_whole(path: Path, environ: Mapping[str, str]) -> Settings:
    """Reads a configuration and its secrets as the gateway does. Raises: SettingsError."""
    return resolve(load(str(path), environ), environ).settings


def secrets_named(path: Path) -> set[str]:
    """The environment variables that a configuration takes its secrets from."""
    return set(_variables(tomllib.loads(path.read_text("utf-8"))))


def _variables(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [str(inner)] if key == "env" else _variables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _variables(inner)


def seconds(text: str) -> float:
    """A span of time as compose and systemd write it: 30s, 6m, 6min, 1m30s."""
    units = {"s": 1, "m": 60, "min": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(min|[smh])", text))
