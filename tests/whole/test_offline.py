"""The journeys, where there is no network at all but loopback: start, export, recognise, page, docs, command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT

pytestmark = [pytest.mark.needs(tool) for tool in ("make test-all", "unshare", "ip")]

LOOPBACK_ONLY = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
JOURNEYS = [
    "tests/whole/test_calls_home.py::test_export_start_and_recognition_call_nobody",
    "tests/web/test_docs_page.py",
    "tests/web/test_page.py::test_one_click_on_a_sample_gives_a_first_answer",
    "tests/whole/test_docs.py::test_examples_are_true",
    "tests/cli/test_main.py",
    "tests/whole/test_wheel.py",
]


@pytest.mark.parametrize(("host", "reached"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_there_is_loopback_and_nothing_else(host: str, reached: bool) -> None:
    script = (
        f"import socket; s = socket.create_server(('', 0)); socket.create_connection(('{host}', s.getsockname()[1]))"
    )
    done = subprocess.run([*LOOPBACK_ONLY, sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode == 0) is reached, done.stderr
    assert reached or "Network is unreachable" in done.stderr


@pytest.mark.parametrize("trace", JOURNEYS)
def test_a_journey_needs_no_network(trace: str, tmp_path: Path) -> None:
    pytest_ = [sys.executable, "-m", "pytest", "-n0", "--basetemp", str(tmp_path / "inside"), trace]
    done = subprocess.run([*LOOPBACK_ONLY, *pytest_], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
