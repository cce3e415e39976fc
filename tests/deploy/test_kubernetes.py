import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from gateway.cli import app
from tests.deploy.files import DEPLOY, ROOT, read_whole, read_yaml, run_tool, secrets_named

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = read_yaml(FOLDER / "kustomization.yaml")
COMPONENTS: dict[str, dict[str, Any]] = {
    path.parent.name: read_yaml(path) for path in FOLDER.glob("*/kustomization.yaml")
}
PATHS = [
    *KUSTOMIZATION["resources"],
    *(f"{name}/{path}" for name, component in COMPONENTS.items() for path in component["resources"]),
]
RESOURCES: dict[str, dict[str, Any]] = {path: read_yaml(FOLDER / path) for path in PATHS}
LABELS = {"app.kubernetes.io/name": "imagegate"}
NOT_IN_KUBERNETES = {"monitoring/servicemonitor.yaml"}
"""Of the Prometheus operator, whose schema no package brings."""

POD: dict[str, Any] = RESOURCES["deployment.yaml"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]
EXPORT: dict[str, Any] = RESOURCES["export/cronjob.yaml"]["spec"]["jobTemplate"]["spec"]["template"]
EXPORT_LABELS = {"app.kubernetes.io/name": "imagegate-export"}
SERVICE: dict[str, Any] = RESOURCES["service.yaml"]
SECRETS: dict[str, str] = dict.fromkeys(
    read_yaml(FOLDER / "secret.example.yaml")["stringData"], "0123456789abcdef-of-an-operator!"
)
PORTS: dict[str, int] = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_keep_to_the_schemas_of_kubernetes(version: str) -> None:
    """The oldest that they are for, and the newest."""
    names = [name for name in (*RESOURCES, "secret.example.yaml") if name not in NOT_IN_KUBERNETES]
    code, said = run_tool("kubernetes-validate", "--strict", "-k", version, *(FOLDER / name for name in names))
    assert (code, len(names)) == (0, said.count("passed")), said


def test_every_manifest_but_the_example_of_a_secret_is_of_the_kustomization_or_a_component() -> None:
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert there - {"secret.example.yaml"} == set(RESOURCES)
    assert {"resources", "components", "configMapGenerator", "images"} < set(KUSTOMIZATION)
    assert [CONTAINER["image"]] == [image["name"] for image in KUSTOMIZATION["images"]]


def test_every_component_can_be_chosen() -> None:
    offered = re.findall(r"(?m)^  (?:# )?- ([a-z]+) # ", (FOLDER / "kustomization.yaml").read_text("utf-8"))
    assert set(offered) == set(COMPONENTS)
    assert set(KUSTOMIZATION["components"]) < set(COMPONENTS)


@pytest.fixture
def kubectl() -> str:
    found = shutil.which("kubectl")
    if not found:
        pytest.skip("kubectl is not on this machine: the manifests are read one by one")
    return found


def build(kubectl: str, folder: Path, *components: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl apply -k` would apply with these components, by kind and name."""
    shutil.copytree(FOLDER, folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(KUSTOMIZATION | {"components": list(components)}))
    code, said = run_tool(kubectl, "kustomize", folder)
    assert code == 0, said
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(said)}


def test_two_pods_run_without_an_autoscaler_which_alone_decides_otherwise(kubectl: str, tmp_path: Path) -> None:
    fixed, scaled = build(kubectl, tmp_path / "a"), build(kubectl, tmp_path / "b", *COMPONENTS)
    deployment = ("Deployment", "imagegate")
    assert fixed[deployment]["spec"]["replicas"] == 2
    assert "replicas" not in scaled[deployment]["spec"]
    assert scaled["HorizontalPodAutoscaler", "imagegate"]["spec"]["minReplicas"] >= 2
    added = {kind for kind, _ in set(scaled) - set(fixed)}
    expected = {"HorizontalPodAutoscaler", "ServiceMonitor", "CronJob", "PersistentVolumeClaim", "StatefulSet"}
    assert added == expected | {"Service", "NetworkPolicy"}


def selected(selector: dict[str, Any]) -> list[dict[str, str]]:
    """The labels that a selector of one expression takes."""
    (expression,) = selector["matchExpressions"]
    assert expression["operator"] == "In"
    return [{expression["key"]: value} for value in expression["values"]]


def test_everything_selects_the_pods_and_nothing_else() -> None:
    spec = {name: resource["spec"] for name, resource in RESOURCES.items()}
    assert POD["metadata"]["labels"] == LABELS
    assert SERVICE["metadata"]["labels"] == LABELS
    assert spec["service.yaml"]["selector"] == LABELS
    for name in ("deployment.yaml", "pdb.yaml", "monitoring/servicemonitor.yaml"):
        assert spec[name]["selector"] == {"matchLabels": LABELS}
    assert selected(spec["networkpolicy.yaml"]["podSelector"]) == [LABELS, EXPORT_LABELS]
    assert EXPORT["metadata"]["labels"] == EXPORT_LABELS != LABELS  # no Service leads to it
    assert spec["autoscaling/hpa.yaml"]["scaleTargetRef"]["name"] == RESOURCES["deployment.yaml"]["metadata"]["name"]


def test_ports_are_called_the_same_everywhere() -> None:
    service = {port["name"]: port["targetPort"] for port in SERVICE["spec"]["ports"]}
    assert service == {name: name for name in PORTS}
    monitor = RESOURCES["monitoring/servicemonitor.yaml"]["spec"]["endpoints"]
    assert [("metrics", "/metrics")] == [(endpoint["port"], endpoint["path"]) for endpoint in monitor]
    rules = RESOURCES["networkpolicy.yaml"]["spec"]["ingress"]
    assert set(PORTS) == {port["port"] for rule in rules for port in rule["ports"]}


def test_the_configuration_can_be_used_with_the_secret_and_listens_where_the_pod_says() -> None:
    settings = read_whole(FOLDER / "imagegate.toml", SECRETS)
    assert {"http": settings.server.port, "metrics": settings.metrics.port} == PORTS
    assert (settings.server.host, settings.metrics.host) == ("0.0.0.0", "0.0.0.0")


def test_the_secret_holds_what_the_configuration_names_and_no_more() -> None:
    assert secrets_named(FOLDER / "imagegate.toml") == set(SECRETS)
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": "imagegate"}}]


def test_the_configuration_is_mounted_where_the_image_looks_for_it() -> None:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert generator == {"name": "imagegate", "files": ["imagegate.toml"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert f"IMAGEGATE_CONFIG={mounts['config']}/imagegate.toml" in (DEPLOY / "Dockerfile").read_text("utf-8")
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == generator["name"]
    assert set(volumes) == set(mounts)


def test_a_pod_is_given_the_time_to_drain() -> None:
    settings = read_whole(FOLDER / "imagegate.toml", SECRETS)
    _sleep, pause_s = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert POD["spec"]["terminationGracePeriodSeconds"] > int(pause_s) + settings.server.shutdown_timeout_s


def test_a_pod_is_restarted_for_healthz_alone_and_asked_for_readyz_alone() -> None:
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_a_pod_has_no_rights() -> None:
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_redis_keeps_what_it_is_told_and_is_reached_by_the_gateway_alone() -> None:
    template = RESOURCES["redis/redis.yaml"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    flags = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert (flags["--appendonly"], flags["--maxmemory-policy"]) == ("yes", "noeviction")
    assert flags["--dir"] in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["image"] == read_yaml(ROOT / "docker-compose.yml")["services"]["redis"]["image"]
    url = read_whole(FOLDER / "imagegate.toml", SECRETS).redis.url
    (port,) = RESOURCES["redis/service.yaml"]["spec"]["ports"]
    host = RESOURCES["redis/service.yaml"]["metadata"]["name"]
    assert url == f"redis://{host}:{port['port']}/0"
    labels = template["metadata"]["labels"]
    assert labels == RESOURCES["redis/service.yaml"]["spec"]["selector"]
    policy = RESOURCES["redis/networkpolicy.yaml"]["spec"]
    assert policy["podSelector"] == {"matchLabels": labels}
    ((source,),) = (rule["from"] for rule in policy["ingress"])
    assert source == {"podSelector": RESOURCES["networkpolicy.yaml"]["spec"]["podSelector"]}
    outgoing = [peer for rule in RESOURCES["networkpolicy.yaml"]["spec"]["egress"] for peer in rule["to"]]
    assert {"podSelector": {"matchLabels": labels}} in outgoing


def test_teams_of_labelled_namespaces_reach_the_http_port_and_no_other() -> None:
    rules = RESOURCES["networkpolicy.yaml"]["spec"]["ingress"]
    team = {"namespaceSelector": {"matchLabels": {"imagegate-client": "true"}}}
    assert [["http"]] == [[port["port"] for port in rule["ports"]] for rule in rules if team in rule["from"]]


def test_an_export_runs_beside_a_gateway_of_its_own_with_no_more_rights() -> None:
    (sidecar,), (export,) = EXPORT["spec"]["initContainers"], EXPORT["spec"]["containers"]
    assert sidecar["restartPolicy"] == "Always"
    shared = ("image", "args", "envFrom", "securityContext")
    assert {name: CONTAINER[name] for name in shared} == {name: sidecar[name] for name in shared}
    assert {key: POD["spec"][key] for key in ("securityContext", "automountServiceAccountToken")} == {
        key: EXPORT["spec"][key] for key in ("securityContext", "automountServiceAccountToken")
    }
    assert export["securityContext"] == CONTAINER["securityContext"]
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": PORTS["http"]}
    settings = read_whole(FOLDER / "imagegate.toml", SECRETS)
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 8081)
    assert EXPORT["spec"]["terminationGracePeriodSeconds"] > settings.server.shutdown_timeout_s


def test_an_export_is_a_command_that_exists() -> None:
    (line,) = re.findall(r"imagegate ([^\n]+)", EXPORT["spec"]["containers"][0]["args"][0])
    options = re.findall(r"--[a-z]+", line)
    command: Any = typer.main.get_command(app)
    for word in line.split(" --")[0].split():
        command = command.commands[word]
    assert set(options) <= {option for parameter in command.params for option in parameter.opts}
    assert "--format" in options


def test_the_ingress_waits_longer_than_the_gateway_and_sends_nothing_twice() -> None:
    annotations = RESOURCES["ingress.yaml"]["metadata"]["annotations"]
    told = {name.rpartition("/")[2]: value for name, value in annotations.items()}
    requests = read_whole(FOLDER / "imagegate.toml", SECRETS).requests
    for timeout in ("proxy-read-timeout", "proxy-send-timeout"):
        assert int(told[timeout]) > requests.deadline_s
    assert (told["proxy-next-upstream"], told["proxy-buffering"]) == ("off", "off")


def test_the_service_monitor_has_the_form_that_the_operator_takes() -> None:
    monitor = RESOURCES["monitoring/servicemonitor.yaml"]
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert {"selector", "endpoints"} == set(monitor["spec"])
    for endpoint in monitor["spec"]["endpoints"]:
        assert {"port", "path", "interval", "scrapeTimeout"} == set(endpoint)
