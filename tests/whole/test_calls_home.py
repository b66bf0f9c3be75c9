"""No library calls home: export, start and recognition look up and connect to nothing but loopback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import makers
from tests.recorder import recorder_in
from tests.serving import environment, serve_process

PROBES = {
    "a look-up": "import socket; socket.getaddrinfo('example.com', 80)",
    "a connect": "import socket; socket.create_connection(('192.0.2.1', 80))",
    "from a fork": "import os, socket\nif not os.fork(): socket.getaddrinfo('example.com', 80)\nelse: os.wait()",
    "from a child": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import socket; socket.gethostbyname(\"x\")'])",
}


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings with which a Python process, and all that it starts, writes down whom it calls in `record`."""
    return recorder_in(tmp_path, monkeypatch)


def recorded(recorder: dict[str, str], script: str) -> list[str]:
    """What a Python process, and all that it starts, looked up or connected to outside this machine."""
    subprocess.run([sys.executable, "-c", script], env=environment(**recorder), timeout=300)
    return Path(recorder["RECORD"]).read_text().splitlines()


@pytest.mark.parametrize("name", PROBES)
def test_the_recorder_sees(recorder: dict[str, str], name: str) -> None:
    assert len(recorded(recorder, PROBES[name])) == 1


@pytest.mark.needs("make test-all")
def test_openvino_without_the_remedy_calls_home(recorder: dict[str, str]) -> None:
    """When this fails, openvino has stopped doing so, and the remedy in engines/openvino.py can go."""
    script = "import openvino, time\nfrom openvino.tools.ovc import convert_model\ntime.sleep(3)"
    assert recorded(recorder, script)


@pytest.mark.needs("make test-all")
def test_export_start_and_recognition_call_nobody(recorder: dict[str, str]) -> None:
    with serve_process(EYESPOT_MODEL="efficientnet-lite0", **recorder) as served, served.client() as client:
        assert "export_made" in [event["event"] for event in served.events]
        answer = client.post("/predict", files={"file": makers.jpeg("coffee")}).json()
        assert answer["predictions"][0]["label"] == "espresso"
    assert Path(recorder["RECORD"]).read_text() == ""
