"""The manifests, as Kustomize renders them: valid for old and new clusters, and in line with the code and the manual.

No cluster is here: what a replica does when it is stopped is tested in test_server.py and test_replicas.py, and how the
container bears the security context by deploy/rehearse.sh.
"""

import json
import re
import subprocess
from base64 import b64decode
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from eyespot.settings import Settings, load, variable
from eyespot.telemetry import Metrics
from eyespot.web.app import create_app
from tests.serving import ROOT

MANIFESTS = ROOT / "deploy" / "kubernetes"
MANUAL = (ROOT / "openapi.md").read_text()
SECTION = MANUAL.partition("\n## Run it on Kubernetes\n")[2].partition("\n## ")[0]
OVERLAYS = ["small", "production", "kserve"]
# Fields of an InferenceService's predictor beside those of a pod: ComponentExtensionSpec of
# pkg/apis/serving/v1beta1/component.go in kserve/kserve. Its CRD is in no package.
KSERVE = {"minReplicas": int, "maxReplicas": int, "scaleTarget": int, "scaleMetric": str, "deploymentStrategy": dict}
TOOLS = ROOT / ".venv" / "openapi"

pytestmark = pytest.mark.needs("kubectl")
Manifest = dict[str, Any]


@cache
def routes() -> list[APIRoute]:
    return [route for route in create_app(Settings()).routes if isinstance(route, APIRoute)]


@cache
def render(overlay: str) -> dict[str, Manifest]:
    """The objects of an overlay by their kinds, of which each is there once."""
    command = ["kubectl", "kustomize", MANIFESTS / overlay]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # nor a warning of what is deprecated
    objects = list(yaml.safe_load_all(done.stdout))
    assert len({one["kind"] for one in objects}) == len(objects)
    return {one["kind"]: one for one in objects}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    return render(request.param)


def pod(objects: dict[str, Manifest]) -> Manifest:
    """The pod's metadata and spec."""
    if service := objects.get("InferenceService"):
        predictor = service["spec"]["predictor"]
        return {"metadata": {}, "spec": {name: value for name, value in predictor.items() if name not in KSERVE}}
    return dict(objects["Deployment"]["spec"]["template"])


def container(objects: dict[str, Manifest]) -> Manifest:
    (only,) = pod(objects)["spec"]["containers"]
    return dict(only)


def variables(objects: dict[str, Manifest]) -> dict[str, str | None]:
    """The container's environment; None where a Secret has the value."""
    return {entry["name"]: entry.get("value") for entry in container(objects)["env"]}


def mebibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))


def complaints(manifests: list[Manifest], version: str) -> str:
    """What is wrong with fields that this version's API does not know, lacks, or has with another type."""
    command = [TOOLS / "bin" / "kubernetes-validate", "--strict", "--quiet", "--kubernetes-version", version, "-"]
    done = subprocess.run(command, input=yaml.safe_dump_all(manifests), capture_output=True, text=True)
    assert bool(done.returncode) is bool(done.stdout), done.stderr
    return done.stdout


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
def test_every_object_is_valid_in_old_and_new_clusters(overlay: dict[str, Manifest], version: str) -> None:
    manifests = [one for kind, one in overlay.items() if kind not in ("InferenceService", "ServiceMonitor")]
    if service := overlay.get("InferenceService"):
        predictor = service["spec"]["predictor"]
        assert all(isinstance(predictor[name], KSERVE[name]) for name in KSERVE)
        strategy = {"strategy": predictor["deploymentStrategy"], "selector": {}, "template": pod(overlay)}
        manifests.append({"apiVersion": "apps/v1", "kind": "Deployment", "spec": strategy})
    assert complaints(manifests, version) == ""


@pytest.mark.needs("make test-all")
def test_a_field_that_the_api_does_not_know_would_be_seen() -> None:
    good = render("small")["Deployment"]
    bad = deepcopy(good)
    bad["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
    assert "terminationGracePeriod" in complaints([good, bad, good], "1.37.0")


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize(("more", "fine"), [({}, True), ({"intervall": "1m"}, False), ({"interval": "often"}, False)])
def test_the_service_monitor_is_what_the_prometheus_operator_reads(
    tmp_path: Path, more: dict[str, str], fine: bool
) -> None:
    monitor = deepcopy(render("production")["ServiceMonitor"])
    monitor["spec"]["endpoints"][0].update(more)
    found = operator_complaints(tmp_path, monitor)
    assert (found == "") is fine, found
    assert all(value in found for value in more)


@pytest.mark.needs("make test-all")
def test_the_command_of_the_manual_makes_a_rule_of_the_alerts(tmp_path: Path) -> None:
    (command,) = re.findall(r"^\(printf 'apiVersion.*\n.*\| kubectl apply -f -$", SECTION, re.MULTILINE)
    command = command.replace("kubectl apply -f -", "cat")
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    rule = yaml.safe_load(done.stdout)
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert operator_complaints(tmp_path, rule) == ""


def operator_complaints(folder: Path, manifest: Manifest) -> str:
    """TypeScript refuses fields that are not in its type, and the model the values that its schema does not allow."""
    kind = manifest["kind"]
    module = f"@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/{kind}"
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    (folder / "manifest.mts").write_text(
        f'import {{ {kind}, type I{kind} }} from "{module}";\n'
        f"const manifest: I{kind} = {json.dumps(manifest)};\n"
        f"new {kind}(manifest).validate();\n"
    )
    options = "--strict --skipLibCheck --noEmitOnError --module nodenext --target es2022"
    compiler = f"{TOOLS}/node_modules/.bin/tsc {options} manifest.mts"
    done = subprocess.run(f"{compiler} && node manifest.mjs", shell=True, cwd=folder, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert bool(done.returncode) is bool(told)
    return told


def test_every_setting_exists_and_has_a_possible_value(
    overlay: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variables(overlay).pop("PROTOCOL", "v2") == "v2"  # for KServe
    for name, value in variables(overlay).items():
        if name != "PROTOCOL":
            monkeypatch.setenv(name, value or Settings.model_fields[name.removeprefix("EYESPOT_").lower()].default)
    load()


def test_a_variable_has_a_value_or_a_secret_and_not_both(overlay: dict[str, Manifest]) -> None:
    assert [entry for entry in container(overlay)["env"] if ("value" in entry) == ("valueFrom" in entry)] == []


def test_the_probes_ask_for_routes_at_the_port_that_the_image_listens_on(overlay: dict[str, Manifest]) -> None:
    server = container(overlay)
    (port,) = server["ports"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert port["containerPort"] == Settings.model_fields["port"].default
    assert f"\nEXPOSE {port['containerPort']}\n" in dockerfile
    asked = {name: server[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    assert {probe["path"] for probe in asked.values()} <= {route.path for route in routes()}
    assert asked["readinessProbe"]["path"] == "/readyz"
    # What a database that is away must not do is restart every replica.
    assert {asked[name]["path"] for name in ("startupProbe", "livenessProbe")} == {"/livez"}


@pytest.mark.parametrize("name", ["small", "production"])
def test_everything_points_at_the_replicas_and_their_port(name: str) -> None:
    objects = render(name)
    labels, port = pod(objects)["metadata"]["labels"], container(objects)["ports"][0]["name"]
    deployment, service = objects["Deployment"]["spec"], objects["Service"]
    selectors = [
        deployment["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"],
        objects["NetworkPolicy"]["spec"]["podSelector"],
        *(spread["labelSelector"] for spread in pod(objects)["spec"]["topologySpreadConstraints"]),
    ]
    assert [selector["matchLabels"] for selector in selectors] == [labels] * 5
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == port
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert objects["NetworkPolicy"]["spec"]["ingress"] == [{"ports": [{"port": port}]}]
    if monitor := objects.get("ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
        target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert target["name"] == objects["Deployment"]["metadata"]["name"]


def test_a_stop_gets_the_time_that_it_may_take(overlay: dict[str, Manifest]) -> None:
    drain, deadline = (int(variables(overlay)[f"EYESPOT_{name}_SECONDS"] or 0) for name in ("DRAIN", "DEADLINE"))
    assert pod(overlay)["spec"]["terminationGracePeriodSeconds"] > drain + deadline + 5


def test_the_pods_meet_the_restricted_standard_and_have_no_token(overlay: dict[str, Manifest]) -> None:
    spec, server = pod(overlay)["spec"], container(overlay)
    (user,) = re.findall(r"^USER (\d+):\1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int(user))
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **ids}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert {next(key for key in volume if key != "name") for volume in spec["volumes"]} <= {"emptyDir", "secret"}
    assert "/data" in [mount["mountPath"] for mount in server["volumeMounts"]]


def test_there_is_the_memory_that_the_manual_asks_for(overlay: dict[str, Manifest]) -> None:
    (sums,) = re.findall(r"^\| \*\*sum\*\* \| \| \*\*([\d,]+)\*\* \| \*\*([\d,]+)\*\* \|$", MANUAL, re.MULTILINE)
    usual, least = (int(megabytes.replace(",", "")) for megabytes in sums)
    size = container(overlay)["resources"]
    assert size["requests"] == size["limits"]
    is_small = "EYESPOT_WORKERS" in variables(overlay)
    assert size["limits"]["cpu"] == ("1" if is_small else "2")
    assert mebibytes(size["limits"]["memory"]) * 1.048576 >= (least if is_small else usual)


def test_the_small_overlay_has_the_settings_of_the_manual_and_needs_nothing_from_the_cluster() -> None:
    (settings,) = re.findall(r"^```ini\n(EYESPOT_WORKERS=1\n.*?)```", MANUAL, re.MULTILINE | re.DOTALL)
    objects = render("small")
    assert dict(line.split("=", 1) for line in settings.splitlines()).items() <= variables(objects).items()
    assert set(objects) == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert "egress" not in objects["NetworkPolicy"]["spec"]
    assert container(objects)["image"] == "eyespot"


def test_the_command_of_the_manual_makes_the_secret_that_production_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = re.findall(r"^kubectl create secret (?:.*\\\n)*.*$", SECTION, re.MULTILINE)
    (tmp_path / "keys.txt").write_text("camera:click-clack\n")
    command = f"{command} --dry-run=client --output=yaml"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    secret = yaml.safe_load(done.stdout)
    objects = render("production")
    sources = {entry["name"]: entry.get("valueFrom") for entry in container(objects)["env"]}
    used = {name: source["secretKeyRef"] for name, source in sources.items() if source}
    for name, reference in used.items():
        assert reference["name"] == secret["metadata"]["name"]
        monkeypatch.setenv(name, b64decode(secret["data"][reference["key"]]).decode())
    assert set(used) == {variable("audit_url"), variable("cache_url")}
    load()
    volume = next(volume["secret"] for volume in pod(objects)["spec"]["volumes"] if "secret" in volume)
    mount = next(mount for mount in container(objects)["volumeMounts"] if mount["name"] == "keys")
    (item,) = volume["items"]
    assert volume["secretName"] == secret["metadata"]["name"]
    assert item["key"] in secret["data"]
    assert variables(objects)["EYESPOT_API_KEYS"] == f"@{mount['mountPath']}/{item['path']}"


def test_production_reaches_dns_redis_and_postgresql_and_nothing_else() -> None:
    egress = render("production")["NetworkPolicy"]["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[53, 53], [6379], [5432]]
    assert all("podSelector" in place for rule in egress for place in rule["to"])


def test_kserve_runs_the_same_pod_and_speaks_its_second_protocol() -> None:
    service, base = render("kserve"), render("base")
    differs = {"name", "image", "env", "ports"}
    assert container(service)["name"] == "kserve-container"
    assert {**container(service), **dict.fromkeys(differs)} == {**container(base), **dict.fromkeys(differs)}
    assert variables(service) == {"PROTOCOL": "v2", **variables(base)}
    spread = {"topologySpreadConstraints", "containers"}
    assert pod(service)["spec"].keys() | spread == pod(base)["spec"].keys()
    assert all(value == pod(base)["spec"][name] for name, value in pod(service)["spec"].items() if name not in spread)
    pods = {"matchLabels": {"serving.kserve.io/inferenceservice": service["InferenceService"]["metadata"]["name"]}}
    for kind, selector in {"NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector"}.items():
        assert service[kind]["spec"] == {**base[kind]["spec"], selector: pods}
    (path,) = re.findall(r"http://eyespot-predictor\.NAMESPACE(/\S+)`", SECTION)
    assert [route for route in routes() if route.path_regex.match(path)]
    # KServe refuses to scale by CPU unless both are named so: validateAutoScalingCompExtension.
    mode = {"deploymentMode": "Standard", "autoscalerClass": "hpa"}
    assert service["InferenceService"]["metadata"]["annotations"] == {
        f"serving.kserve.io/{name}": value for name, value in mode.items()
    }


def adapter_rule() -> dict[str, Any]:
    (rule,) = yaml.safe_load((MANIFESTS / "production" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    return dict(rule)


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes_of_ours() -> None:
    metrics = render("production")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (name,) = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
    assert name == adapter_rule()["name"]["as"]
    known = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    named = set(re.findall(r"eyespot_\w+", adapter_rule()["seriesQuery"] + adapter_rule()["metricsQuery"]))
    assert named == {"eyespot_step_duration_seconds_sum", "eyespot_step_duration_seconds_count"} <= known


@pytest.mark.needs("promtool")
def test_the_adapters_rule_is_the_mean_wait_of_a_pods_images_and_zero_without_any(tmp_path: Path) -> None:
    pods = {"LabelMatchers": 'namespace="n",pod=~"busy|idle"', "GroupBy": "pod"}
    query = re.sub(r"<<\.(\w+)>>", lambda name: pods[name[1]], adapter_rule()["metricsQuery"])
    # Every 15 s: 30 images that waited 15 s together; other steps and other namespaces do not count.
    places = {'"queue",namespace="n",pod="busy"': (15, 30), '"queue",namespace="n",pod="idle"': (0, 0)}
    places |= {'"infer",namespace="n",pod="busy"': (99, 30), '"queue",namespace="o",pod="busy"': (99, 30)}
    series = [
        {"series": f"eyespot_step_duration_seconds_{end}{{step={labels}}}", "values": f"0+{step}x8"}
        for labels, steps in places.items()
        for end, step in zip(("sum", "count"), steps, strict=True)
    ]
    expected = [{"labels": f'{{pod="{name}"}}', "value": value} for name, value in {"busy": 0.5, "idle": 0}.items()]
    asked = {"expr": query, "eval_time": "2m", "exp_samples": expected}
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": [asked]}]})
    )
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
