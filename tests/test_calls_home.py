"""No library calls home: export, start and recognition look up and connect to nothing but loopback."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import makers
from tests.serving import ROOT, environment

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

JOURNEY = """
import asyncio, sys
from pathlib import Path
from eyespot.assembly import open_recognizer
from eyespot.recognizer import Image
from eyespot.settings import Settings

async def main():
    settings = Settings(data_dir=Path("data"), manifest=Path(sys.argv[1]), model="efficientnet-lite0")
    async with open_recognizer(settings) as r:
        recognized = await r.recognize(Image(Path(sys.argv[2]).read_bytes(), "0" * 64))
        print(r.classifier.top(recognized.confidences, 1)[0].label)

asyncio.run(main())
"""

PROBES = {
    "a look-up": "import socket; socket.getaddrinfo('example.com', 80)",
    "a connect": "import socket; socket.create_connection(('192.0.2.1', 80))",
    "from a fork": "import os, socket\nif not os.fork(): socket.getaddrinfo('example.com', 80)\nelse: os.wait()",
    "from a child": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import socket; socket.gethostbyname(\"x\")'])",
}


def recorded(folder: Path, script: str, *words: str) -> list[str]:
    """What a Python process, and all that it starts, looked up or connected to outside this machine."""
    (folder / "sitecustomize.py").write_text(RECORDER)
    record = folder / "record"
    record.touch()
    variables = environment(PYTHONPATH=str(folder), RECORD=str(record))
    variables.pop("CI", None)
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *words], env=variables, cwd=folder, timeout=300)
    return record.read_text().splitlines()


@pytest.mark.parametrize("name", PROBES)
def test_the_recorder_sees(tmp_path: Path, name: str) -> None:
    assert len(recorded(tmp_path, PROBES[name])) == 1


@pytest.mark.skipif(os.environ.get("REQUIRE_TOOLS") != "1", reason="of use to eyespot's developers only")
def test_openvino_without_the_remedy_calls_home(tmp_path: Path) -> None:
    """When this fails, openvino has stopped doing so, and the remedy in engines/openvino.py can go."""
    script = "import openvino, time\nfrom openvino.tools.ovc import convert_model\ntime.sleep(3)"
    assert recorded(tmp_path, script)


def test_export_start_and_recognition_call_nobody(tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").write_bytes(makers.jpeg("coffee"))
    output = tmp_path / "output"
    script = f"import sys; sys.stdout = open({str(output)!r}, 'w')\n{JOURNEY}"
    manifest = ROOT / "weights" / "manifest.toml"
    assert recorded(tmp_path, script, str(manifest), str(tmp_path / "coffee.jpg")) == []
    assert output.read_text() == "espresso\n"
    assert list((tmp_path / "data" / "exports").iterdir())
