"""What the container files say, without a container; tests/test_container.py builds and runs it."""

import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
import yaml

import eyespot
from eyespot import errors
from eyespot.settings import Settings, variable
from eyespot.vision import weights
from eyespot.web.gate.body_limit import STALLED_SECONDS
from tests.services import which
from tests.serving import ROOT, Served

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
HEALTH_CHECK = ROOT / "deploy" / "healthcheck.py"
BALANCER = ROOT / "deploy" / "haproxy.cfg"


@pytest.fixture
def service() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE)["services"]["eyespot"])


def ask(port: int | str, **options: str) -> subprocess.CompletedProcess[str]:
    variables = {"EYESPOT_PORT": str(port), **options}
    return subprocess.run(
        [sys.executable, "-IS", HEALTH_CHECK], env=variables, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])
def test_the_health_check_is_content_with_a_ready_server(fake: Served, host: str) -> None:
    done = ask(fake.port, EYESPOT_HOST=host)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_health_check_knows_what_kubernetes_says() -> None:
    assert "127.0.0.2:8000" in ask("tcp://10.0.0.1:80", EYESPOT_HOST="127.0.0.2").stderr


def test_the_health_check_says_what_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = ask(port)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_the_health_check_is_not_content_while_draining() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = subprocess.Popen(
            [sys.executable, "-IS", HEALTH_CHECK], env={"EYESPOT_PORT": str(port)}, stderr=subprocess.PIPE, text=True
        )
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1000).startswith(b"GET /readyz?verbose HTTP/1.1\r\n")
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nnot now")
        _, told = check.communicate(timeout=30)
    assert check.returncode == 1
    assert "503" in told
    assert "not now" in told


def test_the_health_check_imports_next_to_nothing(fake: Served) -> None:
    done = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", HEALTH_CHECK],
        env={"EYESPOT_PORT": str(fake.port)},
        capture_output=True,
        text=True,
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "socket" in imported
    assert not imported & {"email", "http", "ssl", "asyncio", "json", "numpy"}


def test_the_container_knows_its_version_and_the_settings() -> None:
    assert f'image.version="{eyespot.__version__}"' in DOCKERFILE
    known = {variable(name) for name in Settings.model_fields}
    for text in (DOCKERFILE, COMPOSE):
        assert set(re.findall(r"EYESPOT_[A-Z_]+", text)) <= known


def test_the_base_is_pinned() -> None:
    bases = re.findall(r"^FROM (?:--platform=\S+ )?(\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON}", "scratch", "dependencies", "runtime"}
    assert re.search(r"^ARG PYTHON=\S+:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)


def test_the_weights_come_from_where_torchvision_takes_them() -> None:
    from torchvision.models import get_weight

    source = weights.read_manifest(ROOT / "weights" / "manifest.toml")["resnet18"].source
    assert source
    assert f"${{WEIGHTS_URL:={get_weight(source.removeprefix('torchvision:')).url}}}" in DOCKERFILE


def test_compose_gives_a_stop_the_time_that_it_may_take(service: dict[str, Any]) -> None:
    drain = service["environment"]["EYESPOT_DRAIN_SECONDS"]
    deadline = service["environment"]["EYESPOT_DEADLINE_SECONDS"]
    assert int(service["stop_grace_period"].removesuffix("s")) > drain + deadline + 5


def test_compose_hardens_and_limits_the_service(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (service["cpus"], service["mem_limit"]) == ("${CPUS:-2}", "${MEMORY:-1408m}")
    assert service["pids_limit"] > 0
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["volumes"] == ["data:/data"]


@pytest.fixture
def replicas() -> dict[str, dict[str, Any]]:
    """The services of the profile `replicas`."""
    services = yaml.safe_load(COMPOSE)["services"].items()
    return {name: service for name, service in services if service.get("profiles") == ["replicas"]}


def test_compose_starts_the_one_service_unless_replicas_are_asked_for(replicas: dict[str, dict[str, Any]]) -> None:
    assert set(yaml.safe_load(COMPOSE)["services"]) - set(replicas) == {"eyespot"}
    assert set(replicas) == {"redis", "postgres", "replica-1", "replica-2", "balancer"}


def test_the_balancer_brings_everything_it_needs_and_not_the_one_service(replicas: dict[str, dict[str, Any]]) -> None:
    wanted, started = ["balancer"], set()
    while wanted:
        name = wanted.pop()
        started.add(name)
        needed = replicas[name].get("depends_on", {})
        assert {condition["condition"] for condition in needed.values()} <= {"service_healthy"}
        wanted += needed
    assert started == set(replicas)
    assert [name for name, service in replicas.items() if "ports" in service] == ["balancer"]


def test_every_service_beside_the_replicas_is_limited_hardened_and_asked_for_its_health(
    replicas: dict[str, dict[str, Any]],
) -> None:
    for name, service in replicas.items():
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"]["interval"], name
        assert not set(service) & {"privileged", "cap_add", "network_mode", "pid", "devices"}, name


def test_a_replica_is_the_one_service_with_shared_memory_and_no_port(
    service: dict[str, Any], replicas: dict[str, dict[str, Any]]
) -> None:
    for name in ("replica-1", "replica-2"):
        replica = replicas[name]
        same = set(service) - {"build", "ports", "environment", "volumes"}
        assert {key: replica[key] for key in same} == {key: service[key] for key in same}
        assert service["environment"].items() <= replica["environment"].items()
        assert replica["environment"]["EYESPOT_CACHE_URL"] == "redis://redis:6379/0"
        password = replicas["postgres"]["environment"]["POSTGRES_PASSWORD"]
        assert replica["environment"]["EYESPOT_AUDIT_URL"] == f"postgresql://eyespot:{password}@postgres/eyespot"
        assert replica["networks"] == ["inside"]
    assert replicas["replica-1"]["build"] == service["build"]
    assert "build" not in replicas["replica-2"]
    assert replicas["replica-1"]["volumes"] != replicas["replica-2"]["volumes"]


@pytest.mark.needs("haproxy")
def test_the_balancers_configuration_is_valid(replicas: dict[str, dict[str, Any]]) -> None:
    addresses = {"LISTEN": ":8000", "REPLICA_1": "127.0.0.1:8001", "REPLICA_2": "127.0.0.1:8002"}
    assert set(replicas["balancer"]["environment"]) == set(addresses)
    haproxy = which("haproxy")
    assert haproxy
    done = subprocess.run(
        [haproxy, "-c", "-f", BALANCER], env={**os.environ, **addresses}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_the_balancer_waits_longer_than_a_replica_may_take(service: dict[str, Any]) -> None:
    timeouts = {name: int(value) for name, value in re.findall(r"timeout (\S+) +(\d+)s", BALANCER.read_text())}
    assert timeouts["server"] > service["environment"]["EYESPOT_DEADLINE_SECONDS"] + 5
    assert min(timeouts["server"], timeouts["client"]) > STALLED_SECONDS


def test_what_the_balancer_answers_itself_is_a_problem() -> None:
    bodies = re.findall(r"http-error status (\d+) .* lf-string '(.*)'$", BALANCER.read_text(), re.MULTILINE)
    assert {status for status, _ in bodies} == {"400", "502", "503", "504"}
    known = {kind.code: kind for kind in errors.Refusal.__subclasses__()}
    for status, body in bodies:
        problem = json.loads(body)
        assert problem["status"] == int(status)
        assert problem["type"] == f"urn:eyespot:problem:{problem['code']}"
        assert problem["title"] == known[problem["code"]].title
