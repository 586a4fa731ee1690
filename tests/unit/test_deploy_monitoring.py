"""The alerts and the dashboard name only metrics and labels that the daemon exposes, and promtool accepts them."""

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator.observe.metrics import PHASES, Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
ALERT_TESTS = sorted(PROMETHEUS.glob("alerts*_test.yml"))
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "replicator.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel.get("targets", [])]

TARGET_LABELS = frozenset({"job", "instance"})
EXPOSED: Mapping[str, frozenset[str]] = {
    **{name: labels | TARGET_LABELS for name, labels in Metrics().labels().items()},
    "up": TARGET_LABELS,
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool", "group_left", "group_right"}

NAME = re.compile(r"[a-zA-Z_:][\w:]*")
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def metrics_in(query: str) -> set[str]:
    """What is left of a query without its selectors, groupings, durations, functions and keywords: metrics."""
    bare = re.sub(r"\[[^]]*\]|offset \w+", "", GROUPING.sub("", SELECTOR.sub(r" \1 ", query)))
    names = {match[0] for match in NAME.finditer(bare) if not bare[match.end() :].lstrip().startswith("(")}
    return names - KEYWORDS


def problems(query: str) -> Iterator[str]:
    """Say what a query names that is not exposed."""
    names = metrics_in(query)
    yield from (f"no metric {name}" for name in sorted(names - EXPOSED.keys()))
    for name, matchers in SELECTOR.findall(query):
        for label, _, value in MATCHER.findall(matchers):
            if label not in EXPOSED.get(name, ()):
                yield f"no label {label} on {name}"
            elif label == "phase" and not set(value.split("|")) <= set(PHASES):
                yield f"no phase {value}"
    for grouping in GROUPING.findall(query):
        yield from (f"no label {label}" for label in re.findall(r"\w+", grouping) if label not in labels_of(names))


def labels_of(names: set[str]) -> set[str]:
    return {label for name in names for label in EXPOSED.get(name, ())}


def promtool(*arguments: str | Path) -> None:
    binary = shutil.which("promtool")
    assert binary, "promtool is not installed; on Debian: apt-get install prometheus"
    done = subprocess.run([binary, *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the checks themselves see what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, expected",
    [
        ("replicator_lag_bytes > 1", []),
        ("replicator_lag_byte > 1", ["no metric replicator_lag_byte"]),
        ("rate(replicator_changes[5m])", ["no metric replicator_changes"]),
        ("rate(replicater_changes_total[5m])", ["no metric replicater_changes_total"]),
        ('replicator_gate{gat="a"}', ["no label gat on replicator_gate"]),
        ('replicator_lag_bytes{instance=~"a", job="b"}', []),
        ("sum by (tabel) (rate(replicator_changes_total[1m]))", ["no label tabel"]),
        ("sum by (table, operation) (rate(replicator_changes_total[$__rate_interval]))", []),
        ('replicator_lag_bytes and on (instance) replicator_phase{phase=~"follow|sok"}', ["no phase follow|sok"]),
        ("replicator_lag_bytes unless replicator_lag_seconds offset 10m", []),
        ("histogram_quantile(0.5, sum by (le) (rate(replicator_apply_seconds_bucket[1m])))", []),
        ("sum(rate(replicator_apply_seconds[1m]))", ["no metric replicator_apply_seconds"]),
    ],
)
def test_problems(query: str, expected: list[str]) -> None:
    assert list(problems(query)) == expected


# --- Prometheus -------------------------------------------------------------------------------------------------------


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", PROMETHEUS / "alerts.yml")


def test_the_alerts_pass_their_own_tests() -> None:
    promtool("test", "rules", *ALERT_TESTS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_only_what_is_exposed(rule: dict[str, Any]) -> None:
    assert list(problems(rule["expr"])) == []
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert named <= labels_of(metrics_in(rule["expr"]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 100


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = [test for file in ALERT_TESTS for test in yaml.safe_load(file.read_text())["tests"]]
    expected = str([check["exp_samples"] for test in tests for check in test["promql_expr_test"]])
    assert {rule["alert"] for rule in RULES} == set(re.findall(r'alertname="(\w+)"', expected))


def test_there_is_an_alert_on_everything_that_must_not_go_unseen() -> None:
    named = set().union(*(metrics_in(rule["expr"]) for rule in RULES))
    needed = ["lag_bytes", "lag_seconds", "slot_retained_bytes", "divergent_rows", "quarantined_rows", "errors_total"]
    needed.append("verify_pass_completed_timestamp_seconds")
    assert named >= {f"replicator_{name}" for name in needed} | {"up"}


# --- Grafana ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title, target", TARGETS, ids=[f"{title} {target['refId']}" for title, target in TARGETS])
def test_a_query_of_the_dashboard_names_only_what_is_exposed(title: str, target: dict[str, Any]) -> None:
    assert list(problems(target["expr"])) == []
    named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert named <= labels_of(metrics_in(target["expr"]))


def test_the_dashboards_variables_and_annotations_name_only_what_is_exposed() -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        assert list(problems(annotation["expr"])) == []
    queries = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in EXPOSED[metric]


def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for number, (_, target) in enumerate(TARGETS)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


def test_the_dashboard_shows_every_metric() -> None:
    shown = set().union(*(metrics_in(target["expr"]) for _, target in TARGETS))
    histograms = ("replicator_apply_seconds", "replicator_loop_lag_seconds")
    assert Metrics().names() - shown == {f"{name}_{what}" for name in histograms for what in ("count", "sum")}


def test_every_query_uses_the_chosen_daemon_and_data_source() -> None:
    names = {item["name"] for item in DASHBOARD["templating"]["list"]}
    for title, target in TARGETS:
        assert set(re.findall(r"\$(?!__)(\w+)", target["expr"])) == {"instance"}, title
        assert target["datasource"]["uid"] == "${datasource}", title
    assert names == {"instance", "datasource"}


def test_the_panels_have_their_own_ids_and_places() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_every_panel_says_what_it_shows() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] != "row" and not panel["description"]] == []


def test_the_dashboards_data_source_is_the_provisioned_one() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    [source] = provisioned["datasources"]
    [variable] = [item for item in DASHBOARD["templating"]["list"] if item["name"] == "datasource"]
    assert (variable["query"], variable["current"]["value"]) == (source["type"], source["uid"])
    interval = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
