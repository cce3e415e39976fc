"""A gateway that holds all that its budget allows is not killed for its memory."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.config import load
from tests.deploy.files import DEPLOY, ROOT, read_yaml, secrets_named

SHIPPED: Final = ROOT / "config/imagegate.toml"
UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
"""Of Kubernetes. Those of compose and systemd are powers of two, without the i."""
TIMES: Final = 2
"""What the limit is of the budget, for each worker: the rest of a process, and what is held for a moment."""


def bytes_of(text: str, *, is_binary: bool = False) -> int:
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr] # a test that fails
    return int(number) * UNITS[f"{unit.upper().removesuffix('B')}i" if is_binary else unit]


def budget(path: Path, command: str, environ: Mapping[str, str] | None = None) -> int:
    """Of all workers of a command together."""
    known = dict.fromkeys(secrets_named(path), "0123456789abcdef-of-an-operator!")
    settings = load(str(path), {**known, **(environ or {})})
    workers = re.search(r"--workers[= ](\d+)", command)
    return settings.server.max_memory_bytes * (int(workers[1]) if workers else 1)


@pytest.mark.parametrize(
    ("service", "path"), [("gateway", SHIPPED), ("gateway-demo", DEPLOY / "compose/imagegate.demo.toml")]
)
def test_the_limit_of_compose(service: str, path: Path) -> None:
    described: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")["services"][service]
    command = " ".join(described.get("command", []))
    environ = {name: value for name, value in described["environment"].items() if name.startswith("IMAGEGATE_SERVER")}
    assert bytes_of(described["mem_limit"], is_binary=True) >= TIMES * budget(path, command, environ)


def test_the_limit_of_kubernetes() -> None:
    (container,) = read_yaml(DEPLOY / "kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    command = " ".join((*container.get("command", []), *container.get("args", [])))
    held = budget(DEPLOY / "kubernetes/imagegate.toml", command)
    assert bytes_of(container["resources"]["limits"]["memory"]) >= TIMES * held


def test_the_limit_of_the_systemd_unit() -> None:
    unit = dict(re.findall(r"(?m)^(\w+)=(.+)$", (DEPLOY / "systemd/imagegate.service").read_text("utf-8")))
    assert bytes_of(unit["MemoryMax"], is_binary=True) >= TIMES * budget(SHIPPED, unit["ExecStart"])
