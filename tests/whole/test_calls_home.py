"""No library calls home: export, start and recognition look up and connect to nothing but loopback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import makers
from tests.serving import environment, serve_process

# Read by every Python process below, forked or started anew. Refuses what is not loopback, so that nothing leaves, and
# writes it down, so that a library which swallows the refusal is seen all the same.
RECORDER = """
import os, sys

def record(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex"):
        target = args[0]
    elif event in ("socket.connect", "socket.sendto"):
        target = args[1][0] if isinstance(args[1], tuple) else None
    else:
        return
    target = target.decode() if isinstance(target, bytes) else target
    if target not in (None, "", "localhost", "::1") and not str(target).startswith("127."):
        with open(os.environ["RECORD"], "a") as file:
            file.write(f"{event} {target}\\n")
        raise OSError("not loopback")

sys.addaudithook(record)
"""

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


def recorder_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same with its files in that folder."""
    monkeypatch.delenv("CI", raising=False)  # some libraries do not call home from there
    (folder / "sitecustomize.py").write_text(RECORDER)
    (folder / "record").touch()
    return {"PYTHONPATH": str(folder), "RECORD": str(folder / "record")}


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


def test_export_start_and_recognition_call_nobody(recorder: dict[str, str]) -> None:
    with serve_process(EYESPOT_MODEL="efficientnet-lite0", **recorder) as served, served.client() as client:
        assert "export_made" in [event["event"] for event in served.events]
        answer = client.post("/predict", files={"file": makers.jpeg("coffee")}).json()
        assert answer["predictions"][0]["label"] == "espresso"
    assert Path(recorder["RECORD"]).read_text() == ""
