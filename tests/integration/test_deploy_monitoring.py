"""A real Prometheus with the shipped configuration scrapes the endpoints: every query of the dashboard finds data."""

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from replicator.demo.embedded import free_port
from replicator.observe.http import HttpServer
from replicator.observe.metrics import Metrics
from tests.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "replicator.json").read_text())
SECONDS = 60
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*"}


def targets() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]


class Prometheus:
    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self._base}/{path}?{urlencode(parameters)}", timeout=10) as response:  # noqa: S310
            return json.load(response)["data"]

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.get("query", query=expression)["result"]
        return result

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}


steps = itertools.count(1)


def fill(metrics: Metrics, step: int) -> None:
    """Give every metric a value; counters, positions and the histogram move with each step."""
    for name, metric in vars(metrics).items():
        if isinstance(metric, (Counter, Gauge, Histogram)):
            labels = metrics.labels().get(f"replicator_{name}", frozenset())
            child = metric.labels(**dict.fromkeys(labels, "x")) if labels else metric
            if isinstance(child, Gauge):
                child.set(step)
            else:
                child.observe(0.02) if isinstance(child, Histogram) else child.inc(100)
    metrics.phase_is("follow")
    metrics.verify_pass_completed_timestamp_seconds.set(time.time())


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    assert binary, "prometheus is not installed; on Debian: apt-get install prometheus"
    folder = tmp_path_factory.mktemp("prometheus")
    metrics, port = Metrics(), free_port()
    server = HttpServer("127.0.0.1:0", metrics.registry, dict, lambda: None, lambda: None)
    server.start()
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [server.address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = [binary, *options, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command) as process:
        try:
            api = Prometheus(port)
            wait_until(lambda: _scraped(api, metrics, next(steps)))
            yield api
        finally:
            process.terminate()
            server.stop()


def _scraped(api: Prometheus, metrics: Metrics, step: int) -> bool:
    fill(metrics, step)
    try:
        return bool(api.query("count_over_time(replicator_ready[1m]) > 6"))
    except URLError:
        return False


@pytest.mark.parametrize("expression", targets())
def test_a_query_of_the_dashboard_finds_data(prometheus: Prometheus, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    values = [sample["value"][1] for sample in prometheus.query(expression)]
    assert values
    assert set(values) != {"NaN"}


def test_the_shipped_alerts_are_judged(prometheus: Prometheus) -> None:
    wait_until(lambda: {"ReplicatorDivergence", "ReplicatorQuarantine"} <= prometheus.firing())
