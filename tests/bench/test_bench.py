import hashlib
import http.server
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console
from typer.testing import CliRunner

from eyespot.bench import decoding, engine, load, machine, plot, report, samples, server
from eyespot.bench.figures import Agreement, Bound, EngineFigures, Job, Setup
from eyespot.bench.machine import MachineReport
from eyespot.bench.server import ServerReport
from eyespot.cli.main import app
from eyespot.errors import EngineUnavailable, EyespotError, NoAnswer
from eyespot.pool import Plan
from eyespot.vision import preprocess
from eyespot.vision.classifier import Classifier
from tests import makers
from tests.serving import RECIPE, ROOT, FakeEngine, Served, fake_classifier, run, serve_fake, serve_files
from tests.vision.test_weights import CONTENT, ENTRY

MODEL = {"name": "net", "digest": hashlib.sha256(CONTENT).hexdigest(), "engine": "openvino", "precision": "f32"}


class Engine(FakeEngine):
    """As the bench uses it."""

    def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
        return super().infer(pixels, features=features)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """A network whose weights are right and that no engine could load; a tenth of a second a measurement."""
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    (tmp_path / "net.pth").write_bytes(CONTENT)
    return Setup(
        tmp_path / "manifest.toml", "net", tmp_path, tmp_path / "data", Plan(2, 2, 1, 2), 0.1, None, 5 * 1024 * 1024
    )


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that is ready, and answers what `predict` gives for its images."""

    protocol_version = "HTTP/1.1"
    ready = 200
    predict: Callable[[bytes], int] = staticmethod(lambda _: 200)

    def do_GET(self) -> None:
        self.answer(self.ready if self.path == "/readyz" else 200, MODEL)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.predict(body), {"cached": False})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps({"detail": "not yet", **content}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def handler(**attributes: Any) -> type[Answers]:
    return type("Answering", (Answers,), attributes)


def figures(job: Job, images_per_second: float = 100) -> EngineFigures:
    return EngineFigures(job.engine, job.precision, Bound(images_per_second, 250))


def test_every_engine_is_measured_torch_first_or_the_report_says_why_not(setup: Setup) -> None:
    jobs: list[Job] = []

    def run(job: Job) -> EngineFigures:
        jobs.append(job)
        if job.precision == "int8":
            raise EngineUnavailable("never quantised")
        return figures(job)

    measured = machine.measure(setup, run=run)
    asked = [(job.engine, job.precision) for job in jobs]
    assert asked[0] == ("torch", "f32")
    assert set(asked) == {
        *(("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8")),
        *(("torch", "f32"), ("onnxruntime", "f32"), ("torchscript", "f32")),
    }
    assert len({job.reference for job in jobs}) == 1
    document = TypeAdapter(MachineReport).dump_json(measured)
    assert TypeAdapter(MachineReport).validate_json(document) == measured
    assert [(row.engine, row.precision) for row in measured.engines] == [a for a in asked if a[1] != "int8"]
    assert [(row.precision, row.reason) for row in measured.not_measured] == [("int8", "never quantised")]


def test_an_interrupted_measurement_tells_what_it_has(setup: Setup) -> None:
    def run(job: Job) -> EngineFigures:
        if job.engine == "openvino":
            raise KeyboardInterrupt
        return figures(job)

    measured = machine.measure(setup, run=run)
    assert measured.interrupted
    assert [row.engine for row in measured.engines] == ["torch"]


def test_a_real_measurement_its_json_and_its_chart(tmp_path: Path, packaged: dict[str, str]) -> None:
    words = ["bench", "--engine", "openvino", "--seconds", "0.05", "--json", "--plot", "speed.png"]
    done = run(*words, cwd=tmp_path, **packaged)
    assert done.returncode == 0, done.stderr
    measured = TypeAdapter(MachineReport).validate_json(done.stdout)
    rows = {row.precision: row for row in measured.engines}
    assert rows["f32"].bound.images_per_second > 0
    assert rows["f32"].bound.resident_mb > 50
    assert rows["f32"].agreement is None  # with torch, which was not asked for
    assert [row.precision for row in measured.engines if row.chosen] == [chosen_here(packaged)]
    assert [row.precision for row in measured.not_measured if "eyespot quantize" in row.reason] == ["int8"]
    assert len(measured.decoding) == len(decoding.SIZES)
    assert measured.host.versions["openvino"]
    with Image.open(tmp_path / "speed.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def chosen_here(packaged: dict[str, str]) -> str:
    manifest, data_dir = ROOT / "weights" / "manifest.toml", packaged["EYESPOT_DATA_DIR"]
    return Classifier.open(manifest, packaged["EYESPOT_MODEL"], data_dir=data_dir).info.precision


def test_a_real_server_beside_the_bound(tmp_path: Path, server: Served, packaged: dict[str, str]) -> None:
    words = ["bench", "--url", server.url, "--seconds", "0.5", "--rounds", "1", "--connections", "2", "--json"]
    done = run(*words, cwd=tmp_path, **packaged)
    assert done.returncode == 0, done.stderr
    measured = TypeAdapter(ServerReport).validate_json(done.stdout)
    (row,) = measured.loads
    assert measured.bound
    assert row.of_bound == pytest.approx(row.images_per_second / measured.bound)
    assert (row.connections, row.failures, row.cached) == (2, {}, 0)
    assert row.p50_ms
    assert row.p99_ms
    assert row.p50_ms <= row.p99_ms


def test_each_rate_is_divided_by_the_bound_just_before_it(setup: Setup) -> None:
    bounds = iter([1, 100, 200, 400])  # the first is not counted: it only tells whether there is one
    with serve_files(Answers) as url:
        measured = server.bench(url, setup, [1], 3, run=lambda job: figures(job, next(bounds)))
        assert measured.bound == 200
        burst = load.Burst([], 50)
    row = server.figures(1, [(burst, 100), (replace(burst, images_per_second=120), 200), (burst, 400)])
    assert (row.of_bound, row.images_per_second) == (0.5, 50)


def test_without_the_network_there_are_rates_without_a_fraction(setup: Setup) -> None:
    said = Console(width=160, file=io.StringIO(), record=True)
    with serve_fake(Engine()) as served:
        report.show(server.bench(served.url, setup, [1], 1, run=figures), said)
    text = said.export_text()
    assert "no network with the server's digest 000000000000" in text
    (row,) = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    connections, images_per_second, fraction, *_, failures = (cell.strip() for cell in row)
    assert float(images_per_second) > 0
    assert (connections, fraction, failures) == ("1", "-", "0")


def test_failures_are_counted_by_status(setup: Setup) -> None:
    asked: list[bytes] = []

    def predict(body: bytes) -> int:
        asked.append(body)
        return 200 if len(asked) % 2 else 503

    with serve_files(handler(predict=staticmethod(predict))) as url:
        measured = server.bench(url, setup, [1], 1, run=figures)
    (row,) = measured.loads
    assert row.failures == {"503": len(asked) // 2}
    assert row.images_per_second <= (len(asked) - 1) / 2 / setup.seconds


def test_a_server_that_hangs_up_is_counted_by_exception(setup: Setup) -> None:
    calls: list[bytes] = []

    def predict(body: bytes) -> int:
        calls.append(body)
        if len(calls) > 1:
            raise ConnectionAbortedError
        return 200

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.server, "ThreadingHTTPServer", Quiet)
        with serve_files(handler(predict=staticmethod(predict))) as url:
            measured = server.bench(url, setup, [2], 1, run=figures)
    (row,) = measured.loads
    assert row.failures == {"RemoteDisconnected": len(calls) - 1}
    assert (row.images_per_second, row.p50_ms) == (0, None)


def test_no_request_is_sent_twice_so_that_no_cache_can_answer(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "only.jpg").write_bytes(makers.jpeg())
    asked: list[bytes] = []
    with serve_files(handler(predict=staticmethod(lambda body: asked.append(body) or 200))) as url:
        server.bench(url, replace(setup, images=tmp_path), [2], 1, run=figures)
    assert len(asked) >= 3  # the warm-up, and one of each connection
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_makes_them_different_does_not_change_what_is_seen(kind: str) -> None:
    data = makers.encode(makers.photograph(), kind)
    (body,) = [next(load._bodies([data], 0, 1))]
    assert body != data
    assert (preprocess.preprocess(body, RECIPE).pixels == preprocess.preprocess(data, RECIPE).pixels).all()


def test_percentiles_of_known_samples() -> None:
    sample = [float(value) for value in range(1, 201)][::-1]
    assert [load.percentile(sample, share) for share in (50, 99, 100)] == [100, 198, 200]
    assert load.percentile([7], 99) == 7


def test_agreement_with_torch(setup: Setup, tmp_path: Path) -> None:
    job = Job(setup, RECIPE, "torch", "f32", tmp_path / "torch.npz")
    expected = np.array([[0.7, 0.3], [0.6, 0.4]], np.float32)
    other = np.array([[0.6, 0.4], [0.35, 0.65]], np.float32)
    assert engine.agree(other, replace(job, engine="openvino")) is None  # torch has not been measured
    assert engine.agree(expected, job) == Agreement(1, 0)
    found = engine.agree(other, replace(job, engine="openvino"))
    assert found
    assert found.same_top1 == 0.5
    assert found.worst_difference == pytest.approx(0.25)


def test_the_bound_is_what_so_many_threads_see(setup: Setup) -> None:
    busy = Engine()
    bound = engine.measure_bound(fake_classifier(busy), [makers.jpeg()], Plan(3, 2, 1, 2), 0.2)
    assert 0 < bound.images_per_second * 0.2 <= busy.calls - 3  # the first of each thread does not count
    assert bound.resident_mb > 20


def test_a_loop_that_fails_says_why() -> None:
    with pytest.raises(ZeroDivisionError):
        engine.rate(lambda turn: 1 // turn, 2, 60)


def test_the_plain_way_gives_the_same_crop() -> None:
    plain = np.asarray(decoding.see_plainly(makers.jpeg(), RECIPE)).astype(int)
    assert np.abs(plain - preprocess.preprocess(makers.jpeg(), RECIPE).pixels).mean() < 1


def test_at_most_a_hundred_images_spread_over_the_folder(tmp_path: Path) -> None:
    for number in range(250):
        (tmp_path / f"{number:03}.jpg").write_bytes(makers.encode(makers.flat((8, 8), (number, 0, 0))))
    (tmp_path / "000.txt").write_text("no image")
    (tmp_path / "001.jpg").write_text("no image either")
    images = samples.load(tmp_path, 5_000_000)
    assert 80 < len(images) <= 100
    reds = [Image.open(io.BytesIO(data)).getpixel((0, 0))[0] for data in images]  # type: ignore[index]
    assert max(reds) > 240
    assert len(set(samples.load(None, 5_000_000))) == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "empty"], "empty has no JPEG, PNG or WebP image that can be recognised"),
        (["--url", "http://127.0.0.1:9"], "no eyespot answers at http://127.0.0.1:9/readyz"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(
    tmp_path: Path, packaged: dict[str, str], words: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "text.jpg").write_text("no image")
    done = run("bench", *words, cwd=tmp_path, **packaged)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("eyespot: ")]
    assert told in line


@pytest.mark.parametrize(
    ("begin", "told"),
    [
        (lambda setup: machine.measure(setup, ["tensorrt"]), "'tensorrt'; there are torch, openvino"),
        (lambda setup: machine.measure(replace(setup, images=Path("gone"))), "gone is no folder"),
        (lambda setup: server.bench("ftp://localhost", setup, [1], 1), "http://"),
        (lambda setup: server.numbers("1,many"), "separated by commas"),
        (lambda setup: server.numbers("0"), "from 1 to 1000"),
        (lambda setup: plot.check(Path("speed.svg")), r"\.png"),
        (lambda setup: plot.check(Path("gone/speed.png")), "no folder gone"),
    ],
)
def test_what_cannot_be_asked_is_told(setup: Setup, begin: Callable[[Setup], object], told: str) -> None:
    with pytest.raises(EyespotError, match=told):
        begin(setup)


def test_a_server_that_is_not_ready_is_not_loaded(setup: Setup) -> None:
    with serve_files(handler(ready=503)) as url, pytest.raises(NoAnswer, match="/readyz answered 503: not yet"):
        server.bench(url, setup, [1], 1, run=figures)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(EngineUnavailable, match=r"eyespot\[plot\]"):
        plot.check(tmp_path / "speed.png")


def test_help_teaches(tmp_path: Path) -> None:
    done = run("bench", "--help", cwd=tmp_path)
    for word in ("--url", "--images", "--json", "--plot", "Examples", "EYESPOT_MODEL"):
        assert word in done.stdout


@pytest.mark.parametrize("interrupted", [False, True])
def test_when_nothing_could_be_measured_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, setup: Setup, interrupted: bool
) -> None:
    def run(_: Job) -> EngineFigures:
        raise KeyboardInterrupt if interrupted else EngineUnavailable("it is not here")

    nothing = machine.measure(setup, ["onnxruntime"], run=run)
    monkeypatch.setattr(machine, "measure", lambda *_, **__: nothing)
    done = CliRunner().invoke(app, ["bench", "--plot", "speed.png"])
    assert done.exit_code == 1
    assert not Path("speed.png").exists()
    assert ("it is not here" in done.stdout) != interrupted


def test_a_server_that_recognised_nothing_was_not_measured(setup: Setup) -> None:
    turns = iter([200])  # the warm-up
    with serve_files(handler(predict=staticmethod(lambda _: next(turns, 503)))) as url:
        assert not server.bench(url, setup, [1], 1, run=figures).measured
