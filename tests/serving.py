"""Servers for the tests: the real command in a process, and the app with a fake engine in a thread."""

import hashlib
import http.server
import json
import os
import pty
import select
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eyespot.assembly import open_memory
from eyespot.choices import FORMATS
from eyespot.errors import UnknownModel
from eyespot.model import ServedModel
from eyespot.pool import WorkerPool
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.telemetry import Metrics
from eyespot.types import Limits, Recipe
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Features, Logits, Pixels, Weights
from eyespot.vision.export import Export
from eyespot.vision.labels import ClassRow, GroupRow, Labels
from eyespot.vision.weights import Entry
from eyespot.web.app import create_app
from eyespot.web.server import Server, bind
from tests import command

ROOT = Path(__file__).parents[1]
EVAL = ROOT.parent / "shared" / "eval"
EYESPOT = Path(sys.executable).with_name("eyespot")
RECIPE = Recipe(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    recognizer: Recognizer | None = None  # of a server in this process
    server: Server | None = None  # in this process

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80

    def client(self, **options: Any) -> httpx.Client:
        # Without certificates, which take longer to load than most answers do.
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=False, **options)


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with settings added."""
    ours = ("EYESPOT_", "OTEL_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **settings}


def run(*words: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """What `eyespot` with these words ends with and prints."""
    return command.run(words, cwd, environment(**{"COLUMNS": "160", **settings}))


@contextmanager
def serve_process(program: Path = EYESPOT, stdin: int | None = None, **settings: str) -> Iterator[Served]:
    """`eyespot serve` on a free port, ready; ended, if it still runs, when the block is left."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"EYESPOT_PORT": "0", "EYESPOT_LOG_FORMAT": "json", "EYESPOT_DATA_DIR": folder, **settings}
        settings.setdefault("EYESPOT_MANIFEST", str(ROOT / "weights" / "manifest.toml"))
        process = subprocess.Popen(
            [program, "serve"],
            env=environment(**settings),
            stdin=stdin,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        served = Served("", process)
        ready = threading.Event()
        reader = threading.Thread(target=_read_events, args=(process, served, ready), daemon=True)
        reader.start()
        try:
            assert ready.wait(120), "the server did not start"
            assert served.url, f"the server ended: {served.events}"
            yield served
        finally:
            process.kill()
            process.wait()
            reader.join()
            assert process.stderr
            process.stderr.close()


def _read_events(process: subprocess.Popen[str], served: Served, ready: threading.Event) -> None:
    assert process.stderr
    for line in process.stderr:
        served.events.append(json.loads(line) if line.startswith("{") else {"event": "text", "text": line})
        if served.events[-1]["event"] == "server_ready":
            served.url = served.events[-1]["url"]
            ready.set()
    ready.set()


@contextmanager
def serve_files(
    handler: Callable[..., http.server.BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """An HTTP server with that handler, in a thread, on a free port; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # seconds that its end may take
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for that, so many seconds at most."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shown_on_terminal(
    *words: str, cwd: Path, watch: Callable[[str], None] = lambda _: None, **settings: str
) -> tuple[int, str]:
    """Exit code and what the words, a command, send to a terminal of 100 columns; `watch` is told all until then."""
    main, side = pty.openpty()
    with subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(**{"COLUMNS": "100", "TERM": "xterm", **settings}),
        stdin=side,
        stdout=side,
        stderr=side,
    ) as process:
        os.close(side)
        shown = b""
        while select.select([main], [], [], 60)[0]:
            try:
                shown += os.read(main, 65536)
                watch(shown.decode(errors="replace"))
            except OSError:  # the process has ended
                break
        os.close(main)
    return process.returncode, shown.decode()


class FakeEngine:
    """The class is the mean of the pixels, of ten. Can be held, to see what happens while it computes."""

    name = "fake"
    precision = "f32"

    def __init__(self, classes: int = 10) -> None:
        self.classes = classes
        self.head: Weights | None = np.eye(classes, 4, dtype=np.float32)
        self.go = threading.Event()
        self.go.set()
        self.calls = 0
        self.exclusive: list[bool] = []
        self.started = threading.Semaphore(0)

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        self.calls += 1
        self.exclusive.append(exclusive)
        self.started.release()
        self.go.wait(60)
        logits = np.zeros((len(pixels), self.classes), np.float32)
        logits[range(len(pixels)), (pixels.mean((1, 2, 3)) / 256 * self.classes).astype(int)] = 5
        cells = np.arange(196, dtype=np.float32).reshape(1, 4, 7, 7)
        return logits, cells.repeat(len(pixels), 0) if features else None


def fake_classifier(
    engine: FakeEngine,
    *,
    name: str = "fake",
    classes: int = 10,
    max_bytes: int = 5 * 1024 * 1024,
    max_pixels: int = 25_000_000,
    formats: Collection[str] = tuple(FORMATS),
    record: Export | None = None,
    labels: Labels | None = None,
    folder: Path = Path("/nowhere"),
    file: str = "fake.pth",
) -> Classifier:
    """The classifier around that engine, by default with ten classes in two groups."""
    entry = Entry(
        name=name,
        folder=folder,
        architecture="none",
        file=file,
        sha256="0" * 64 if name == "fake" else hashlib.sha256(name.encode()).hexdigest(),
        bytes=1,
        labels="imagenet1k" if name == "fake" else name,  # or the page would not offer its samples
        license="none",
        recipe=RECIPE,
    )
    groups = tuple(GroupRow(name, name, zh) for name, zh in {"low": "低", "high": "高"}.items())
    word, zh = ("class", "类") if name == "fake" else (name, f"号{name}")
    rows = (
        ClassRow(i, f"n{i:08}", f"{word} {i}", f"第{i}{zh}", group="low" if i < 5 else "high") for i in range(classes)
    )
    labels = labels or Labels(tuple(rows), groups)
    limits = Limits(max_bytes, max_pixels, list(formats), len(labels))
    return Classifier(entry, labels, engine, engine.head, limits, record=record)


def golden(*likeliest: tuple[int, float]) -> Export:
    """The record of an export of which torch finds these (class, confidence) in the sample image."""
    facts = {"digest": "0" * 64, "recipe": RECIPE, "classes": 10, "engine": "openvino", "engine_version": "1"}
    return Export(**facts, max_logit_difference=0, sample="0" * 64, golden=list(likeliest), files={})


@contextmanager
def serve_fake(
    engine: FakeEngine | None = None,
    *,
    raises: Exception | None = None,
    models: Mapping[str, Callable[[], Classifier]] = {},
    handshake_seconds: float = 0,
    uvicorn: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """The app around a fake engine, listening on a free port, in a thread of this process; it remembers nothing.

    It can switch to `models`, by name. `uvicorn` are options of `uvicorn.Config`.
    """
    engine = engine or FakeEngine()
    # A machine may stand still for seconds while a test holds the engine; tests of deadlines set their own.
    usual = {
        "workers": 2,
        "queue": 2,
        "deadline_seconds": 60,
        "drain_seconds": 0,
        "cache_url": "off",
        "audit_url": "off",
    }
    config = Settings(**{**usual, **settings})
    served = Served("")

    def open_model(name: str) -> Classifier:
        if name not in models:
            raise UnknownModel(f"the manifest has no model {name!r}")
        return models[name]()

    @asynccontextmanager
    async def open_fake(_: Settings, apart: Collection[str]) -> AsyncIterator[Recognizer]:
        metrics = Metrics()
        pool = WorkerPool(config.workers or 1, config.queue, config.deadline_seconds, metrics)
        classifier = fake_classifier(
            engine,
            classes=engine.classes,
            max_bytes=config.max_bytes,
            max_pixels=config.max_pixels,
            formats=config.formats,
        )
        if raises:
            classifier.scores = lambda *_, **__: (_ for _ in ()).throw(raises)  # type: ignore[method-assign]
        async with open_memory(config, metrics) as memory:
            model = ServedModel(classifier, "fake", open_model, metrics)
            del classifier
            served.recognizer = Recognizer(model, pool, metrics, memory, apart)
            yield served.recognizer
            engine.go.set()
            pool.close()

    bound = bind("127.0.0.1", 0)
    ready = threading.Event()
    app = create_app(config, open_fake)
    server = Server(app, ready.set, config.drain_seconds, config.deadline_seconds, handshake_seconds, **uvicorn or {})
    served.server = server
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        assert ready.wait(30)
        served.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        yield served
    finally:
        engine.go.set()
        server.should_exit = True
        thread.join()
        bound.close()
