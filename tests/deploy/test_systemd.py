import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.settings import load
from tests.deploy.files import DEPLOY, ROOT, seconds

UNIT = (DEPLOY / "systemd/imagegate.service").read_text("utf-8")


def test_the_unit_is_given_the_time_to_drain() -> None:
    (stop,) = re.findall(r"^TimeoutStopSec=(.+)$", UNIT, re.MULTILINE)
    assert seconds(stop) > load(str(ROOT / "config/imagegate.toml"), {}).server.drain_timeout_s


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_systemd_takes_the_unit_and_finds_it_well_confined(tmp_path: Path) -> None:
    """With a program and a file of secrets that are here: it looks whether they are."""
    environment = tmp_path / "imagegate.env"
    environment.touch()
    unit = tmp_path / "imagegate.service"
    unit.write_text(
        UNIT.replace("/opt/imagegate/bin/imagegate", "/bin/true").replace(
            "/etc/imagegate/imagegate.env", str(environment)
        )
    )
    verified = _analyze("verify", str(unit))
    assert (0, "") == (verified.returncode, _about(unit, verified.stderr))
    judged = _analyze("security", "--offline=yes", "--threshold=20", str(unit))
    assert judged.returncode == 0, judged.stdout + judged.stderr


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`--threshold` is of an exposure in tenths: 20 is its "OK" at 2.0."""
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _about(unit: Path, said: str) -> str:
    """It tells of the machine's other units too."""
    return "\n".join(line for line in said.splitlines() if unit.name in line)
