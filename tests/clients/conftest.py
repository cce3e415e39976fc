"""Runs client programs against a gateway with the simulator behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.programs import Program, install, run
from tests.support.harness import Gateway, Simulator, wait_until


@pytest.fixture
def check(
    gateway: Gateway, simulator: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[[Program], None]:
    """Runs a program; its outcomes, the provider's invoice and the ledger must be as the program states."""

    def check(program: Program) -> None:
        with capfd.disabled():  # an installation shows its progress
            installed = install(program.packages)
        found = run(program, installed, gateway, tmp_path)

        assert program.outcomes == found
        assert program.images == simulator.images_billed()
        wait_until(lambda: program.images == _images_recorded(gateway), "the ledger has every image", 10.0)

    return check


def _images_recorded(gateway: Gateway) -> int:
    """In the ledger: delivered, or of unknown outcome."""
    total = gateway.admin("GET", "/usage?by=tenant").json()["total"]
    recorded: int = total["images"] + total["unconfirmed"]
    return recorded
