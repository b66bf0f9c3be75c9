"""What the container files say, without a container; tests/test_container.py builds and runs it."""

import re
import socket
import subprocess
import sys
from typing import Any

import pytest
import yaml

import eyespot
from eyespot.settings import Settings, variable
from eyespot.vision import weights
from tests.serving import ROOT, Served

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
HEALTH_CHECK = ROOT / "deploy" / "healthcheck.py"


@pytest.fixture
def service() -> dict[str, Any]:
    (service,) = yaml.safe_load(COMPOSE)["services"].values()
    return dict(service)


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
    assert (service["cpus"], service["mem_limit"]) == ("${CPUS:-2}", "${MEMORY:-1g}")
    assert service["pids_limit"] > 0
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["volumes"] == ["data:/data"]
