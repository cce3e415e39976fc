import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from gateway.config import load
from tests.deploy.files import DEPLOY, ROOT, seconds
from tests.support.harness import Simulator, new_key
from tests.support.processes import start_gateway, write_configuration

PR_SET_MDWE, PR_GET_MDWE = 65, 66
"""Linux 6.3: no memory becomes executable that was or is writable, as by MemoryDenyWriteExecute=."""
DENY_WRITE_EXECUTE = f"""
import ctypes, os, sys
assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
UNIT = (DEPLOY / "systemd/imagegate.service").read_text("utf-8")


def test_the_unit_is_given_the_time_to_drain() -> None:
    (stop,) = re.findall(r"^TimeoutStopSec=(.+)$", UNIT, re.MULTILINE)
    assert seconds(stop) > load(str(ROOT / "config/imagegate.toml"), {}).server.shutdown_timeout_s


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


def test_the_unit_lets_no_secret_out_of_memory_and_bounds_it() -> None:
    settings = dict(re.findall(r"^(\w+)=(.+)$", UNIT, re.MULTILINE))
    assert ("0", "0") == (settings["LimitCORE"], settings["MemorySwapMax"])
    assert re.fullmatch(r"\d+G", settings["MemoryMax"])
    assert "link-local" in settings["IPAddressDeny"].split()


def _can_deny_write_execute() -> bool:
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0)


@pytest.mark.slow
@pytest.mark.skipif(not _can_deny_write_execute(), reason="needs Linux 6.3")
def test_the_gateway_serves_where_no_memory_is_both_writable_and_executable(
    tmp_path: Path, simulator: Simulator
) -> None:
    """Workers, the embedded Redis, and an image."""
    assert "\nMemoryDenyWriteExecute=yes\n" in UNIT
    more = '[pool]\nencryption_keys = [{ env = "POOL_KEY" }]\n'
    configuration = write_configuration(tmp_path, "embedded", simulator.url, more=more)
    data = tempfile.mkdtemp()  # short: it holds a socket
    secrets = {"HOME": data, "POOL_KEY": "pool-key" * 4}
    launcher = [sys.executable, "-c", DENY_WRITE_EXECUTE]
    started, url = start_gateway(configuration, "--workers", "2", secrets=secrets, launcher=launcher)
    try:
        headers = {"authorization": f"Bearer {new_key(url)}"}
        body = {"model": "image-01", "prompt": "a lighthouse", "response_format": "b64_json"}
        answer = httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60, verify=False)
        assert answer.status_code == 200, answer.text
    finally:
        started.terminate()
        started.wait(60)
        shutil.rmtree(data)


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`--threshold` is of an exposure in tenths: 20 is its "OK" at 2.0."""
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _about(unit: Path, said: str) -> str:
    """It tells of the machine's other units too."""
    return "\n".join(line for line in said.splitlines() if unit.name in line)
