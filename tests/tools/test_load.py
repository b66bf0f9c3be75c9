"""tools/load.py: each scenario against a server that does as it should, and against one that does not."""

import http.server
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import makers
from tests.serving import ROOT, FakeEngine, environment, serve_fake, serve_files

pytestmark = pytest.mark.needs("make test-all")  # a minute


class SlowEngine(FakeEngine):
    """Takes some seconds an image, so that a queue fills."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__()
        self.seconds = seconds

    def infer(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(self.seconds)
        return super().infer(*arguments, **options)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers with the status and Retry-After that `decide` gives for an image."""

    protocol_version = "HTTP/1.1"
    decide: Callable[[bytes], tuple[int, str | None]]

    def do_POST(self) -> None:
        status, retry_after = self.decide(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def refusing(decide: Callable[[bytes], tuple[int, str | None]]) -> type[Refusing]:
    return type("Kind", (Refusing,), {"decide": staticmethod(decide)})


def load(*words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "load.py", *map(str, words)]
    return subprocess.run(command, env=environment(**settings), capture_output=True, text=True, timeout=120)


def figure(name: str, line: str, done: subprocess.CompletedProcess[str]) -> float:
    """The figure with that name in the line that begins so."""
    found = re.search(rf"^{line} .*?\b{name} ([\d.,]+)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return float(found[1].strip(",").replace(",", ""))


def patience(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    few = ["--clients", "8", "--images", "1", "--connections", "2", "--seconds", "0.05"]
    return load("patience", "--url", url, *few, *options)


def test_clients_that_come_again_when_they_are_told_to_all_get_through() -> None:
    with serve_fake(SlowEngine(0.1), workers=1, queue=2) as served:
        done = patience(served.url, "--seconds", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert figure("images", "got through", done) == figure("of", "got through", done) == 8
    assert re.search(r"outcomes 8 x 200, \d+ x 503 Retry-After '\d+'\n|'\d+', 8 x 200", done.stdout), done.stdout
    assert figure("of_load_that_fits", "images/s", done) > 0


def test_each_comes_again_once_and_not_before_it_was_told_to() -> None:
    first: dict[bytes, float] = {}
    gaps = []

    def decide(image: bytes) -> tuple[int, str | None]:
        if image not in first:
            first[image] = time.monotonic()
            return 503, "1"
        gaps.append(time.monotonic() - first[image])
        return 200, None

    with serve_files(refusing(decide)) as url:
        done = patience(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "outcomes 8 x 503 Retry-After '1', 8 x 200\n" in done.stdout
    assert len(gaps) == 8
    assert min(gaps) >= 1
    assert figure("longest_wait_s", "got through", done) >= 1


def test_an_answer_that_says_neither_yes_nor_when_is_not_asked_again() -> None:
    answers = cycle([(503, None), (429, "0"), (503, "soon"), (500, "1")])
    with serve_files(refusing(lambda _: next(answers))) as url:
        done = patience(url, "--images", "2")
    assert done.returncode == 1
    assert "images 0, of 16" in done.stdout
    for what in ("503 Retry-After ''", "429 Retry-After '0'", "503 Retry-After 'soon'", "500"):
        assert f"4 x {what}" in done.stdout


def test_who_does_not_get_through_in_time_is_told() -> None:
    with serve_files(refusing(lambda _: (429, "1"))) as url:
        done = patience(url, "--give-up", "0.5")
    assert done.returncode == 1
    assert "outcomes 8 x 429 Retry-After '1'\n" in done.stdout
    assert "images 0, of 8" in done.stdout


def test_a_server_that_is_gone_is_told() -> None:
    with serve_files(refusing(lambda _: (200, None))) as url:
        pass
    done = patience(url)
    assert done.returncode == 1
    assert "outcomes 8 x ConnectionRefusedError\n" in done.stdout


def test_one_connection_waits_longer_beside_others(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(makers.encode(makers.flat(), "PNG"))
    words = ["--images", tmp_path, "--seconds", "0.3", "--rounds", "1"]
    with serve_fake(SlowEngine(0.004), workers=1, queue=100) as served:
        done = load("fairness", "--url", served.url, *words)
    assert done.returncode == 0, done.stderr
    assert figure("p50_to_alone", "alone", done) == 1
    assert figure("p50_ms", "alone", done) >= 4
    assert figure("p50_to_alone", "64 singly", done) > 0
    assert figure("p99_ms", "1 batch", done) > 0
    assert figure("p99_ms", "4 batches", done) > 0


def test_the_others_are_batches_of_one_and_four_connections_and_single_images_of_64() -> None:
    connections: set[tuple[str, int]] = set()

    class Counting(Refusing):
        def do_POST(self) -> None:
            connections.add((self.path, self.client_address[1]))
            super().do_POST()

    with serve_files(type("Kind", (Counting,), {"decide": staticmethod(lambda _: (200, None))})) as url:
        load("fairness", "--url", url, "--seconds", "0.1", "--rounds", "1")
    assert sum(path == "/predict/batch" for path, _ in connections) == 1 + 4
    assert sum(path == "/predict" for path, _ in connections) == 4 + 64


def test_explanations_are_measured_beside_recognitions() -> None:
    asked: set[tuple[str, str | None]] = set()

    class Noting(Refusing):
        def do_POST(self) -> None:
            asked.add((self.path, self.headers["accept"]))
            super().do_POST()

    with serve_files(type("Kind", (Noting,), {"decide": staticmethod(lambda _: (200, None))})) as url:
        done = load("explain", "--url", url, "--requests", "3")
    assert done.returncode == 0, done.stderr
    assert asked == {("/predict", "*/*"), ("/explain", "application/json"), ("/explain", "image/png")}
    assert figure("to_predict", "predict", done) == 1
    assert figure("to_predict", "numbers", done) > 0
    assert figure("to_predict", "png", done) > 0


def test_classify_is_measured_beside_the_bound(tmp_path: Path, packaged: dict[str, str]) -> None:
    (tmp_path / "image.jpg").write_bytes(makers.jpeg())
    words = ["--images", tmp_path, "--files", "20", "--rounds", "1", "--seconds", "0.5"]
    done = load("folder", *words, EYESPOT_MANIFEST=str(ROOT / "weights" / "manifest.toml"), **packaged)
    assert done.returncode == 0, done.stderr
    bound, rate = figure("bound", "round 1", done), figure("classify", "round 1", done)
    assert figure("of_bound", "round 1", done) == pytest.approx(rate / bound, rel=0.01)
    assert figure("memory_mb", "round 1", done) > 50


def test_the_slope_of_memory_decides() -> None:
    def soak(limit: str) -> subprocess.CompletedProcess[str]:
        words = ["--pid", os.getpid(), "--requests", "80", "--connections", "2", "--max-slope", limit]
        return load("soak", "--url", served.url, *words)

    with serve_fake(SlowEngine(), workers=1, queue=8) as served, ThreadPoolExecutor() as pool:
        flat, steep = pool.map(soak, ["1e9", "-1e9"])
    for done in (flat, steep):
        assert "outcomes 80 x as expected\n" in done.stdout
        assert figure("start", "memory, MB", done) > 20
    assert (flat.returncode, steep.returncode) == (0, 1), flat.stdout + steep.stdout


def test_wrong_answers_are_told_by_image_and_form() -> None:
    def decide(_: bytes) -> tuple[int, None]:
        time.sleep(0.12)  # for as long as it takes to measure memory
        return 500, None

    with serve_files(refusing(decide)) as url:
        words = ["--pid", os.getpid(), "--requests", "60", "--connections", "2", "--max-slope", "1e9"]
        done = load("soak", "--url", url, *words)
    assert done.returncode == 1
    for what in ("500 for jpeg 100 as raw", "500 for PNG RGBA as form", "500 for text as json"):
        assert f"1 x {what}" in done.stdout


def test_a_server_that_ends_is_told() -> None:
    class Ending(SlowEngine):
        def infer(self, *arguments: Any, **options: Any) -> Any:
            server.kill()
            return super().infer(*arguments, **options)

    with subprocess.Popen(["sleep", "600"]) as server, serve_fake(Ending()) as served:
        done = load("soak", "--url", served.url, "--pid", server.pid, "--requests", "100000")
    assert done.returncode == 1
    assert f"1 x no process {server.pid}" in done.stdout


def test_servers_are_compared_in_turn_as_multiples_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(makers.jpeg())
    words = ["--images", tmp_path, "--connections", "2", "--seconds", "0.5", "--plot", tmp_path / "chart.png"]
    with (
        serve_fake(SlowEngine(0.1), workers=1, queue=8) as slow,
        serve_fake(SlowEngine(0.001), workers=1, queue=8) as fast,
        serve_files(refusing(lambda _: (500, None))) as broken,
    ):
        done = load("compare", f"slow={slow.url}", f"eyespot, fast={fast.url}", f"broken={broken}", *words)
    assert done.returncode == 0, done.stderr
    assert figure("times_the_first", "slow", done) == 1
    assert figure("times_the_first", "eyespot, fast", done) > 1
    assert figure("images_per_s", "broken", done) == 0
    assert re.search(r"failures [\d,]+ x 500", done.stdout)
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.width == 1200
