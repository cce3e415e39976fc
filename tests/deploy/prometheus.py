"""A real Prometheus that scrapes a gateway each second and evaluates the rules of deploy/."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.files import DEPLOY, read_yaml
from tests.support.harness import wait_until

BINARY = shutil.which("prometheus")
_ADDRESS = re.compile(r'msg="Listening on" address=(\S+)')


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP interface."""

    url: str

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer; an error of Prometheus fails with its own words."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, verify=False).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant vector, now or then, each with its `metric` and its `value`."""
        moment = {} if at is None else {"time": at}
        found: list[dict[str, Any]] = self.ask("query", query=expression, **moment)["result"]
        return found

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """The series over a time, each with its `metric` and its `values`."""
        asked = self.ask("query_range", query=expression, start=start, end=end, step=step_s)
        found: list[dict[str, Any]] = asked["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its `health`, and an alert with its `state`."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing: `labels` and `state`."""
        found: list[dict[str, Any]] = self.ask("alerts")["alerts"]
        return found

    def values_of(self, label: str, metric: str) -> list[str]:
        """What Grafana's `label_values(metric, label)` comes to."""
        found: list[str] = self.ask(f"label/{label}/values", **{"match[]": metric})
        return found


@contextmanager
def prometheus(binary: str, folder: Path, *targets: str) -> Iterator[Prometheus]:
    """Started on a free port, with its data in `folder`; killed at the end. `targets`: host and port of gateways."""
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(_adapted(targets)), "utf-8")
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    command = [binary, f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    log = folder / "prometheus.log"
    with log.open("w") as written:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stderr=written)
    try:
        wait_until(lambda: process.poll() is not None or bool(_ADDRESS.search(log.read_text())), "Prometheus starts")
        address = _ADDRESS.search(log.read_text())
        assert address, log.read_text()[-2000:]
        started = Prometheus(f"http://{address[1]}")
        wait_until(lambda: _is_ready(started), "Prometheus is ready")
        yield started
    finally:
        process.kill()
        process.wait()


def _adapted(targets: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of deploy/, faster, and with addresses in the place of a name that only containers know."""
    configuration: dict[str, Any] = read_yaml(DEPLOY / "prometheus/prometheus.yml")
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    return configuration


def _is_ready(started: Prometheus) -> bool:
    return httpx.get(f"{started.url}/-/ready", verify=False).status_code == 200
