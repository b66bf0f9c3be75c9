"""Records the hosts that a Python process, and all that it starts, looks up or connects to."""

import os
from pathlib import Path

import pytest

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


def recorder_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment variables that make Python processes write down whom they call, in `folder`/record."""
    monkeypatch.delenv("CI", raising=False)  # some libraries do not call home from there
    (folder / "sitecustomize.py").write_text(RECORDER)
    (folder / "record").touch()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "RECORD": str(folder / "record")}
