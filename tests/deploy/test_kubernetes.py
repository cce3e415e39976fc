from typing import Any

import pytest

from tests.deploy.files import DEPLOY, read_whole, read_yaml, run_tool, secrets_named

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = read_yaml(FOLDER / "kustomization.yaml")
RESOURCES: dict[str, dict[str, Any]] = {name: read_yaml(FOLDER / name) for name in KUSTOMIZATION["resources"]}
LABELS = {"app.kubernetes.io/name": "imagegate"}
NOT_IN_KUBERNETES = {"servicemonitor.yaml"}
"""Of the Prometheus operator, whose schema no package brings."""

POD: dict[str, Any] = RESOURCES["deployment.yaml"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]
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


def test_the_kustomization_applies_every_manifest_but_the_example_of_a_secret() -> None:
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert there == set(RESOURCES)
    assert {"resources", "configMapGenerator", "images", "namespace", "kind", "apiVersion"} == set(KUSTOMIZATION)
    assert [CONTAINER["image"]] == [image["name"] for image in KUSTOMIZATION["images"]]


def test_everything_selects_the_pods_and_nothing_else() -> None:
    spec = {name: resource["spec"] for name, resource in RESOURCES.items()}
    assert POD["metadata"]["labels"] == LABELS
    assert SERVICE["metadata"]["labels"] == LABELS
    assert spec["service.yaml"]["selector"] == LABELS
    for name in ("deployment.yaml", "pdb.yaml", "servicemonitor.yaml"):
        assert spec[name]["selector"] == {"matchLabels": LABELS}
    assert spec["networkpolicy.yaml"]["podSelector"] == {"matchLabels": LABELS}
    assert spec["hpa.yaml"]["scaleTargetRef"]["name"] == RESOURCES["deployment.yaml"]["metadata"]["name"]


def test_ports_are_called_the_same_everywhere() -> None:
    service = {port["name"]: port["targetPort"] for port in SERVICE["spec"]["ports"]}
    assert service == {name: name for name in PORTS}
    monitor = RESOURCES["servicemonitor.yaml"]["spec"]["endpoints"]
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


def test_the_autoscaler_alone_says_how_many_pods_there_are() -> None:
    assert "replicas" not in RESOURCES["deployment.yaml"]["spec"]
    assert RESOURCES["hpa.yaml"]["spec"]["minReplicas"] >= 2


def test_the_service_monitor_has_the_form_that_the_operator_takes() -> None:
    monitor = RESOURCES["servicemonitor.yaml"]
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert {"selector", "endpoints"} == set(monitor["spec"])
    for endpoint in monitor["spec"]["endpoints"]:
        assert {"port", "path", "interval", "scrapeTimeout"} == set(endpoint)
