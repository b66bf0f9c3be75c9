"""deploy/prometheus and deploy/grafana: names exist, promtool finds nothing, and a real Prometheus answers."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.routing import APIRoute

from eyespot.errors import REFUSALS
from eyespot.settings import Settings
from eyespot.telemetry import STEPS, Metrics
from eyespot.web.app import create_app
from tests.requests import IMAGE, predict
from tests.services import Service, free_port, which
from tests.serving import ROOT, Served, serve_fake, until

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "eyespot.json").read_text())
PANELS = {f"{panel['title']} {one['refId']}": one["expr"] for panel in DASHBOARD["panels"] for one in panel["targets"]}
EXPRESSIONS = {**{name: rule["expr"] for name, rule in ALERTS.items()}, **PANELS}
OF_OTHERS = {"up", "container_memory_working_set_bytes", "container_spec_memory_limit_bytes"}
VALUES = {
    "code": REFUSALS,
    "step": STEPS,
    "result": ("hit", "miss", "joined", "written", "lost"),
    "route": [route.path for route in create_app(Settings()).routes if isinstance(route, APIRoute)],
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_metric_and_value_that_is_named_exists(name: str) -> None:
    metrics = [metric.name for metric in Metrics().registry.collect()]
    known = {f"{metric}{end}" for metric in metrics for end in ("", "_total", "_count", "_sum", "_bucket")}
    named = set(re.findall(r"\b(?:eyespot|process|container)_\w+|\bup\b", EXPRESSIONS[name]))
    assert named
    assert named - OF_OTHERS <= known
    for label, given in re.findall(r'(\w+)!?[=~]+"([^"]*)"', EXPRESSIONS[name]):
        for one in given.split("|") if label in VALUES else ():
            assert any(re.fullmatch(one, value) for value in VALUES[label]), one


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_leads_to_a_section_of_the_manual(name: str) -> None:
    document, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    headings = re.findall("^## (.+)$", (ROOT / document).read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_panels_do_not_overlap() -> None:
    areas = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(area["x"] + x, area["y"] + y) for area in areas for x in range(area["w"]) for y in range(area["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(areas)


def promtool(*words: str, told: str | None = None) -> str:
    done = subprocess.run(["promtool", *words], cwd=PROMETHEUS, input=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "config", "prometheus.yml")
    with serve_fake(cache_url="memory://") as served, served.client() as client:
        predict(served)
        assert promtool("check", "metrics", told=client.get("/metrics").text) == ""


@pytest.mark.needs("make test-all")
@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts.test.yml")
    tests = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    seen = {(one["alertname"], bool(one.get("exp_alerts"))) for test in tests for one in test["alert_rule_test"]}
    assert seen == {(alert, fires) for alert in ALERTS for fires in (True, False)}


class PrometheusServer(Service):
    """Prometheus with the configuration of this repository, of one server, at a quick pace."""

    hello = (b"GET /-/ready HTTP/1.0\r\n\r\n", b"HTTP/1.0 200")

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder, free_port())
        folder.mkdir()
        (folder / "alerts.yml").write_text((PROMETHEUS / "alerts.yml").read_text())
        config = (PROMETHEUS / "prometheus.yml").read_text()
        assert "localhost:8000" in config
        assert "15s" in config
        (folder / "prometheus.yml").write_text(config.replace("localhost:8000", target).replace("15s", "200ms"))

    def command(self) -> list[str]:
        prometheus = which("prometheus")
        assert prometheus
        files = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        return [prometheus, *files, f"--web.listen-address=127.0.0.1:{self.port}"]

    def get(self, path: str, **query: str) -> Any:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, verify=False) as client:
            reply = client.get(f"/api/v1/{path}", params=query).json()
        assert reply["status"] == "success", reply
        return reply["data"]

    def states(self) -> Counter[str]:
        """How many alerts are in each state; one that could not be evaluated is an error."""
        rules = self.get("rules")["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules  # not evaluated yet
        return Counter(rule["state"] for rule in rules if rule["health"] == "ok")

    def values(self, expression: str) -> list[float]:
        return [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve_fake(cache_url="memory://", audit_url="sqlite", data_dir=tmp_path) as served:
        yield served


def of_all_kinds(served: Served) -> None:
    """Requests that give every panel something to draw."""
    assert served.recognizer
    with served.client() as client:
        predict(served)
        predict(served, b"no image")
        client.post("/predict/batch", files=[("file", ("x", IMAGE))])
        served.recognizer.pool.draining = True
        assert client.get("/readyz").status_code == 503
        served.recognizer.pool.draining = False


@pytest.mark.needs("make test-all")
@pytest.mark.needs("prometheus")
def test_a_real_prometheus_answers_every_expression(served: Served, tmp_path: Path) -> None:
    prometheus = PrometheusServer(tmp_path / "prometheus", served.url.removeprefix("http://"))
    prometheus.start()
    try:
        for expression in PANELS.values():
            expression = (
                expression.replace("$__rate_interval", "1m").replace("$job", "eyespot").replace("$instance", ".*")
            )

            def drawn(expression: str = expression) -> bool:
                of_all_kinds(served)
                return bool(prometheus.values(expression))

            until(drawn)
        for rule in ALERTS.values():
            for selector in re.findall(r"(?:eyespot|up|process)\w*\{[^}]*\}", rule["expr"]):
                assert prometheus.values(selector), selector
        # Only the alert for which `of_all_kinds` has given a reason.
        until(lambda: prometheus.states() == {"inactive": len(ALERTS) - 1, "pending": 1})
        assert [alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]] == ["EyespotNotReady"]
    finally:
        prometheus.close()
