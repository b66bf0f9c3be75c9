"""A model that no engine could load, and a server that answers without one."""

import hashlib
import http.server
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eyespot.bench.figures import EngineFigures, Task
from eyespot.settings import Settings

WEIGHTS = b"weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
MODEL = {"name": "net", "digest": DIGEST, "engine": "openvino", "precision": "f32"}
MANIFEST = f"""
[net]
architecture = "resnet18"
file = "net.pth"
sha256 = "{DIGEST}"
bytes = {len(WEIGHTS)}
labels = "imagenet1k"
license = "none"
recipe = {{ resize = 256, crop = 224, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""
IMAGE = {"sha256": "0" * 64, "format": "JPEG", "width": 8, "height": 8}


def settings(folder: Path) -> Settings:
    """Settings with a manifest in that folder, whose weights are right."""
    (folder / "manifest.toml").write_text(MANIFEST)
    (folder / "net.pth").write_bytes(WEIGHTS)
    return Settings(manifest=folder / "manifest.toml", model="net", data_dir=folder / "data")


def figures(task: Task, bound: float = 100) -> EngineFigures:
    """What measuring that task finds."""
    return EngineFigures(task.engine or "openvino", task.precision or "f32", bound, 250)


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that is ready, and answers an image with the status that `predict` gives."""

    protocol_version = "HTTP/1.1"
    ready = 200
    cached = False
    model = MODEL
    predict: Callable[[bytes], int] = staticmethod(lambda _: 200)

    def do_GET(self) -> None:
        self.answer(self.ready, {"ready": self.ready == 200})

    def do_POST(self) -> None:
        self.answer(self.predict(self.rfile.read(int(self.headers["Content-Length"]))), {})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        problem = {"type": "urn:x", "title": "not yet", "status": status, "detail": "not yet", "code": "draining"}
        says = {"kind": "unsure", "id": None, "label": "unsure", "confidence": 0}
        recognition = {
            "says": says,
            "groups": [],
            "predictions": [],
            "image": IMAGE,
            "model": self.model,
            "cached": self.cached,
        }
        said = recognition if status == 200 else problem
        body = json.dumps({**said, "request_id": "1", **content}, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def handler(**attributes: Any) -> type[Answers]:
    """`Answers` with other attributes."""
    return type("Answering", (Answers,), attributes)
