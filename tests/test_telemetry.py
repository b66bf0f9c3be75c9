"""What reaches standard error, from a process of its own: logging is the process's."""

import json
import subprocess
import sys

from eyespot.telemetry import Trace

SCRIPT = """
import logging, warnings
from eyespot import telemetry
telemetry.configure_logging({format!r}, "info")
telemetry.event("image_seen", name="cat", bytes=3)
telemetry.event("image_unseen", logging.DEBUG)
telemetry.event("model_seen", digest="0123456789abcdef" * 4, seconds=1.23456, reason="not found", paths="/path" * 40)
telemetry.event("said_otherwise", line=lambda columns: "=" * columns, bytes=3)
warnings.warn("a library's warning")
logging.getLogger("another.library").warning("a library's word")
logging.getLogger("uvicorn.error").info("Started server process")
logging.getLogger("python_multipart.multipart").warning("odd boundary")
try:
    1 / 0
except ZeroDivisionError as error:
    telemetry.event("image_lost", logging.ERROR, exc_info=error)
"""


def logged(log_format: str) -> list[str]:
    script = SCRIPT.replace("{format!r}", repr(log_format))
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stderr.splitlines()


def test_json_is_an_object_a_line_whoever_speaks() -> None:
    for log_format in ("json", "auto"):
        seen, model, otherwise, warned, said, lost = (json.loads(line) for line in logged(log_format))
        assert (seen["event"], seen["level"], seen["name"], seen["bytes"]) == ("image_seen", "info", "cat", 3)
        assert seen["time"].endswith("+00:00")
        assert (model["digest"], model["seconds"]) == ("0123456789abcdef" * 4, 1.23456)
        assert otherwise.keys() == {"time", "level", "event", "bytes"}
        assert "a library's warning" in warned["event"]
        assert said["event"] == "a library's word"
        assert "ZeroDivisionError" in lost["traceback"]


def test_lines_are_for_people() -> None:
    lines = logged("lines")
    assert lines[0].endswith("info    image_seen name=cat bytes=3")
    assert lines[1].endswith('info    model_seen digest=0123456789ab seconds=1.23 reason="not found"')
    assert lines[2] == " " * len("12:00:00 warning ") + "paths=" + "/path" * 40  # not cut, so that it can be copied
    assert lines[3][9:] == "=" * (120 - 9)
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert not any("image_unseen" in line or "Started server" in line or "boundary" in line for line in lines)


def test_a_step_that_ends_twice_has_the_sum() -> None:
    trace = Trace("request-1")
    for step, seconds in (("infer", 2), ("respond", 1), ("audit", 4), ("respond", 0.5)):
        trace.lap(step, seconds=seconds)
    assert trace.milliseconds() == {"infer": 2000, "respond": 1500, "audit": 4000}
