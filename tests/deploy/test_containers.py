import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import __version__
from gateway.app import create_app
from gateway.config import load
from gateway.config.resolve import resolve
from tests.deploy.files import DEPLOY, ROOT, read_whole, read_yaml, run_tool, seconds, secrets_named
from tests.support.harness import ADMIN_KEY, Simulator, serving

COMPOSE: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
JOURNAL = "journal:/var/lib/imagegate"
DEMO = DEPLOY / "compose/imagegate.demo.toml"
DEMO_SECRETS: dict[str, str] = SERVICES["gateway-demo"]["environment"]


def test_the_dockerfile_passes_its_linter() -> None:
    code, said = run_tool("hadolint", "--failure-threshold", "style", "deploy/Dockerfile")
    assert (0, "") == (code, said)


def test_the_image_is_built_of_files_that_are_there_and_not_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_nobody_and_installs_nothing_unpinned() -> None:
    *_, last = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert last == "10001:10001"
    installs = re.findall(r"pip install (.+)$", DOCKERFILE, re.MULTILINE)
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_the_journals_are_where_the_volumes_are() -> None:
    """By the image's environment, and by the unit's on a machine without containers."""
    (state_home,) = re.findall(r"\bXDG_STATE_HOME=(\S+)", DOCKERFILE)
    unit = (DEPLOY / "systemd/imagegate.service").read_text("utf-8")
    pods = (DEPLOY / "kubernetes/deployment.yaml").read_text("utf-8")
    assert [state_home] == re.findall(r"\bXDG_STATE_HOME=(\S+)", unit)
    environ = {"XDG_STATE_HOME": state_home, "AI302_API_KEY": "a-key", "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
    directory = resolve(load(str(ROOT / "config/imagegate.toml"), {}), environ).journal_dir
    assert directory is not None
    assert str(directory.parent) == JOURNAL.partition(":")[2]
    assert f"mountPath: {directory.parent}\n" in pods
    assert f"StateDirectory={directory.parent.name}\n" in unit


def test_every_file_means_the_image_of_this_version() -> None:
    files = ("docker-compose.yml", "deploy/Dockerfile")
    tags = [tag for name in files for tag in re.findall(r"imagegate:(\d[\w.]*)", (ROOT / name).read_text("utf-8"))]
    tags += [image["newTag"] for image in read_yaml(DEPLOY / "kubernetes/kustomization.yaml")["images"]]
    assert {__version__} == set(tags)


def test_the_compose_file_keeps_to_the_schema() -> None:
    code, said = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert code == 0, said


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_write_nowhere_but_in_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert {"core": 0} == service["ulimits"]
    for volume in service.get("volumes", []):
        source, _target, *mode = volume.split(":")
        assert source in COMPOSE["volumes"] or ((ROOT / source).exists() and mode == ["ro"])


def test_every_port_is_of_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith(("127.0.0.1:", "${IMAGEGATE_LISTEN:-127.0.0.1:")) for port in ports)


def test_a_profile_starts_one_gateway_and_all_that_it_needs() -> None:
    for profile, gateway in (("live", "gateway"), ("demo", "gateway-demo")):
        started = {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}
        assert {gateway} == started & {"gateway", "gateway-demo"}
        assert {*SERVICES[gateway]["depends_on"], "prometheus", "grafana"} <= started
        assert "gateway" in SERVICES[gateway]["networks"]["default"]["aliases"]


def test_redis_forgets_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction" in command


def test_the_live_gateway_reads_the_configuration_of_the_repository_with_its_redis() -> None:
    service = SERVICES["gateway"]
    assert ["./config:/etc/imagegate:ro", JOURNAL] == service["volumes"]
    example = (DEPLOY / "compose/env.example").read_text("utf-8")
    given = dict.fromkeys(re.findall(r"^(\w+)=", example, re.MULTILINE), "a-secret-of-an-operator")
    settings = read_whole(ROOT / "config/imagegate.toml", given | service["environment"])
    assert settings.redis.url == "redis://redis:6379/0"
    assert seconds(service["stop_grace_period"]) > settings.server.shutdown_timeout_s
    assert secrets_named(ROOT / "config/imagegate.toml") <= set(given)


def test_the_demo_needs_no_secret_that_the_compose_file_does_not_bring() -> None:
    assert secrets_named(DEMO) <= set(DEMO_SECRETS)
    settings = read_whole(DEMO, DEMO_SECRETS)
    assert seconds(SERVICES["gateway-demo"]["stop_grace_period"]) > settings.server.shutdown_timeout_s
    assert [f"./{DEMO.parent.relative_to(ROOT)}:/etc/imagegate:ro", JOURNAL] == SERVICES["gateway-demo"]["volumes"]
    assert DEMO_SECRETS["IMAGEGATE_CONFIG"] == f"/etc/imagegate/{DEMO.name}"


def test_the_request_of_the_readme_gets_a_picture_from_the_demo(redis_url: str, simulator: Simulator) -> None:
    environ = DEMO_SECRETS | {
        "IMAGEGATE_REDIS__URL": redis_url,
        "IMAGEGATE_REDIS__TIMEOUT_MS": "2000",
        "IMAGEGATE_UPSTREAMS__0__BASE_URL": simulator.url,
        "IMAGEGATE_UPSTREAMS__0__RESULT_HOSTS": f'["{simulator.url}"]',
    }
    told = (DEPLOY / "README.md").read_text("utf-8")
    key, body = re.findall(r"Bearer (\S+)'", told)[0], re.findall(r"--data '(.+)'", told)[0]
    app = create_app(resolve(load(str(DEMO), environ), environ))
    with serving(app) as url:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        answer = httpx.post(f"{url}/v1/images/generations", content=body, headers=headers, verify=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]


def test_the_readme_names_every_file_and_no_other() -> None:
    """A folder's name stands for what is in it."""
    told = (DEPLOY / "README.md").read_text("utf-8")
    assert len(told.splitlines()) <= 40
    named = set(re.findall(r"`([^ `]+/|[^ `]+\.(?:yml|yaml|toml|json|service|example|lock|cfg)|Dockerfile)`", told))
    there = [path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file()]
    known = {name for path in there for name in (str(path), path.name, *(f"{folder}/" for folder in path.parents))}
    assert named <= known | {"docker-compose.yml"}
    assert [path for path in there if path.name != "README.md" and not named & _names(path)] == []


def _names(path: Path) -> set[str]:
    return {str(path), *(f"{folder}/" for folder in path.parents)}
