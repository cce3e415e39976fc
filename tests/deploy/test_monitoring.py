import re
import shutil
from typing import Any

import promql_parser
import pytest
import typer.main

from gateway.api import minimax
from gateway.cli import app
from gateway.config import Settings
from gateway.domain.errors import ERROR_SPECS, Origin
from tests.deploy.files import DEPLOY, ROOT, read_yaml, run_tool
from tests.deploy.promql import LABELS_OF, OF_PROMETHEUS, labels_of, nodes_of, problems_of, selectors_of
from tests.support.monitoring import PANELS, RULES, VARIABLES, offered, queries, targets

RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
RECORDED_LABELS = {name: labels_of(expression) for name, expression in RECORDED.items()}
ENVIRONMENT = ("cluster", "namespace", "job")
"""Labels that the scrape gives to every series of a gateway."""
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum by (route) (rate(imagegate_requests_total[5m]))", None),
        ("rate(imagegate_requests_total[5m]", "unclosed left parenthesis"),
        ("imagegate_request_total", "there is no metric"),
        ('imagegate_requests_total{path="/"}', "has no label path"),
        ('imagegate_key_state{state="dead"}', "state is never dead"),
        ('imagegate_request_errors_total{code=~"internal|redis_gone"}', "code is never redis_gone"),
        ("sum by (tenant) (imagegate_queue_depth)", "added up"),
        ("sum by (le) (rate(imagegate_queue_wait_seconds_sum[5m]))", "grouped by le"),
    ],
)
def test_a_query_that_asks_for_what_is_not_there_is_found(query: str, problem: str | None) -> None:
    found = problems_of(query, {})
    assert (problem or "") in " ".join(found)
    assert bool(problem) == bool(found)


def test_every_query_of_the_dashboard_asks_for_metrics_labels_and_values_that_exist() -> None:
    assert [] == [problem for query in queries() for problem in problems_of(query, RECORDED_LABELS)]


def test_every_variable_of_the_dashboard_is_a_label_that_exists() -> None:
    for query, label in offered().values():
        assert [] == problems_of(query, RECORDED_LABELS)
        (selector,) = selectors_of(promql_parser.parse(query))
        assert label in LABELS_OF[str(selector.name)] | OF_PROMETHEUS


def environment_of(selector: promql_parser.VectorSelector) -> dict[str, str]:
    return {one.name: one.value for one in selector.matchers.matchers if one.name in ENVIRONMENT}


def test_every_panel_shows_one_environment() -> None:
    """A healthy staging must not hide a production that fails."""
    for variable in VARIABLES:
        if variable["name"] in ENVIRONMENT:
            assert not variable.get("includeAll")
            assert not variable.get("multi")
    asked = [target["expr"].replace("$__rate_interval", "5m").replace("$__range", "3h") for target in targets()]
    for query in asked:
        for selector in selectors_of(promql_parser.parse(query)):
            assert {name: f"${name}" for name in ENVIRONMENT} == environment_of(selector), query


def test_every_rule_keeps_environments_apart() -> None:
    for rule in RULES:
        for node in nodes_of(promql_parser.parse(rule["expr"])):
            if isinstance(node, promql_parser.AggregateExpr):
                assert node.modifier, rule
                assert set(ENVIRONMENT) <= set(node.modifier.labels), rule


def test_no_two_panels_of_the_dashboard_overlap_or_share_an_id() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len(PANELS) == len({panel["id"] for panel in PANELS})


def test_the_dashboard_shows_what_an_operator_asks_for_first() -> None:
    shown = {selector.name for query in queries() for selector in selectors_of(promql_parser.parse(query))}
    wanted = {
        *("requests_total", "request_errors_total", "images_total", "spend_usd_total", "settlements_total", "redis_up"),
        *("queue_wait_seconds_sum", "upstream_call_duration_seconds_sum", "overhead_seconds_sum"),
        *("account_capacity", "key_state", "queue_depth", "upstream_calls_total"),
    }
    assert {f"imagegate_{name}" for name in wanted} <= shown


def test_every_rule_asks_for_metrics_labels_and_values_that_exist() -> None:
    assert [] == [problem for rule in RULES for problem in problems_of(rule["expr"], RECORDED_LABELS)]


def test_the_error_budget_counts_every_error_that_is_a_5xx_and_no_other() -> None:
    assert 'origin!="caller"' in RECORDED["imagegate:failed_requests:rate2m"]
    counted = {error_code for error_code, row in ERROR_SPECS.items() if row.origin is not Origin.CALLER}
    assert {error_code for error_code, row in ERROR_SPECS.items() if row.status >= 500} == counted


def test_the_error_budget_is_of_the_routes_that_make_images() -> None:
    (selector,) = selectors_of(promql_parser.parse(RECORDED["imagegate:image_requests:rate2m"]))
    routes = {matcher.name: matcher.value for matcher in selector.matchers.matchers}["route"]
    assert {"/v1/images/generations", "/v1/images/edits", *minimax.PATHS} == set(routes.split("|"))
    assert all(routes in query for query in queries() if "route=~" in query)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    runbook = alert["annotations"]["runbook"]
    assert all(_is_command(command) for command in re.findall(r"`imagegate ([a-z -]+)`", runbook))
    assert all(
        _is_setting(*path) for path in re.findall(r"\b(server|requests|pool|billing|ledger)\.([a-z_]+)", runbook)
    )
    assert all(_is_seen(quoted) for quoted in re.findall(r'"([^"]+)"', runbook))


def _is_command(words: str) -> bool:
    """A command of the command line, with its options."""
    command: Any = typer.main.get_command(app)
    for word in words.split():
        if word.startswith("--"):
            return any(word in option.opts for option in command.params)
        command = command.commands.get(word)
        if command is None:
            return False
    return True


def _is_setting(table: str, name: str) -> bool:
    return name in Settings.__annotations__[table].__struct_fields__


def _is_seen(text: str) -> bool:
    """The title of a panel, or an event of the log."""
    sources = (path.read_text("utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    return text in {panel["title"] for panel in PANELS} or any(f'"{text}"' in source for source in sources)


def test_every_alert_is_tried_on_numbers() -> None:
    expected = (ROOT / "tests/deploy/alerts.test.yml").read_text("utf-8")
    tried = re.findall(r'alertname="(\w+)"', expected)
    assert list(ALERTS) == list(dict.fromkeys(tried))


@pytest.mark.slow
def test_alerts_fire_on_the_numbers_that_they_are_for() -> None:
    """By Prometheus itself."""
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip(
            "promtool is in no Python package, and not installed here; .ci/run gets it from Debian's prometheus"
        )
    for arguments in (
        ("check", "config", "deploy/prometheus/prometheus.yml"),
        ("test", "rules", "tests/deploy/alerts.test.yml"),
    ):
        code, said = run_tool(promtool, *arguments)
        assert code == 0, said


def test_the_adapter_serves_the_metric_that_the_autoscaler_asks_for() -> None:
    (rule,) = read_yaml(DEPLOY / "prometheus/adapter.yml")["rules"]["external"]
    (asked,) = [
        metric["external"]["metric"]["name"]
        for metric in read_yaml(DEPLOY / "kubernetes/autoscaling/hpa.yaml")["spec"]["metrics"]
        if metric["type"] == "External"
    ]
    assert asked == rule["seriesQuery"]
    query = rule["metricsQuery"].replace("<<.Series>>", asked).replace("<<.LabelMatchers>>", 'job="imagegate"')
    assert [] == problems_of(query, {})


def test_grafana_finds_the_dashboard_and_its_data() -> None:
    (provider,) = read_yaml(DEPLOY / "grafana/provisioning/dashboards/imagegate.yml")["providers"]
    (source,) = read_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    mounted = f"./deploy/grafana/imagegate.json:{provider['options']['path']}/imagegate.json:ro"
    assert mounted in services["grafana"]["volumes"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f"127.0.0.1:{port}:{port}" in services[host]["ports"]
    assert {"${datasource}"} == {panel["datasource"]["uid"] for panel in PANELS}
