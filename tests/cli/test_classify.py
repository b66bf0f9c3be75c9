"""`eyespot classify` over folders: nothing done twice, nothing lost, whatever happens in between."""

import http.server
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eyespot.cli import files
from eyespot.cli.findings import Csv, FileProblem, Finding, JsonLines, Table
from eyespot.cli.looking import Looker
from eyespot.cli.results import Results
from eyespot.cli.run import Run
from eyespot.cli.terminal import err
from eyespot.errors import OutputUnusable
from eyespot.types import ImageInfo, ModelInfo, Prediction
from tests import makers
from tests.requests import IMAGE, image, metric
from tests.serving import (
    EYESPOT,
    FakeEngine,
    Served,
    environment,
    run,
    serve_fake,
    serve_files,
    shown_on_terminal,
    until,
)

BAD = {
    "a.jpg": b"hello",
    "b/empty.png": b"",
    "b/cut.jpg": makers.jpeg()[:3000],
    "c/small.png": makers.encode(makers.flat((1, 1)), "PNG"),
    "c/page.webp": b"<html>404</html>",
}


def folder_of(place: Path, count: int, data: Callable[[int], bytes] = image) -> Path:
    """A folder of images and, in and below it, the bad ones."""
    for number in range(count):
        path = place / f"{'xyz'[number % 3]}" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data(number))
    for name, content in BAD.items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_bytes(content)
    return place


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake(queue=64, cache_url="memory://") as served:
        yield served


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path, packaged: dict[str, str]) -> None:
    photos = folder_of(tmp_path / "photos", 195, lambda number: makers.jpeg() + number.to_bytes(2))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    done = run("classify", "photos", "-o", str(whole), cwd=tmp_path, **packaged)
    assert (done.returncode, done.stdout) == (1, "")
    assert "195 images recognised" in done.stderr
    assert "5 could not be: 2 unsupported-format" in done.stderr
    process = subprocess.Popen(
        [EYESPOT, "classify", "photos", "-o", str(killed)], cwd=tmp_path, env=environment(**packaged)
    )
    until(lambda: killed.exists() and len(killed.read_bytes().splitlines()) > 40)
    process.kill()
    process.wait()
    left = killed.read_bytes()
    assert whole.read_bytes().startswith(left)
    assert left.endswith(b"\n")
    killed.write_bytes(whole.read_bytes()[: len(left) + 30])  # as a machine that loses power may leave it
    gone_on = run("classify", "photos", "-o", str(killed), "--resume", cwd=tmp_path, **packaged)
    assert gone_on.returncode == 1
    assert " images done before" in gone_on.stderr
    assert killed.read_bytes() == whole.read_bytes()
    paths = [line["path"] for line in lines(killed)]
    assert len(paths) == len(set(paths)) == 200
    assert {str(photos / path) for path in BAD} == {
        str(tmp_path / line["path"]) for line in lines(killed) if line.get("problem")
    }
    again = run("classify", "photos", "-o", str(killed), "--resume", cwd=tmp_path, **packaged)
    assert (again.returncode, killed.read_bytes()) == (1, whole.read_bytes())
    assert "200 images done before, of which 5 could not be recognised" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_a_whole_file(tmp_path: Path, number: signal.Signals) -> None:
    folder_of(tmp_path / "photos", 95)
    engine = FakeEngine()
    with serve_fake(engine, queue=64) as served:
        process = subprocess.Popen(
            [EYESPOT, "classify", "photos", "-o", "found.jsonl", "--url", served.url, "--workers", "2"],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(30):
            assert engine.started.acquire(timeout=30)
        engine.go.clear()
        until(lambda: len(lines(tmp_path / "found.jsonl")) > 20)
        process.send_signal(number)
        engine.go.set()
        _, told = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert "Traceback" not in told
        before = len(lines(tmp_path / "found.jsonl"))
        assert f"stopped after {before} of 100" in told
        assert before < 100
        done = run("classify", "photos", "-o", "found.jsonl", "--url", served.url, "--resume", cwd=tmp_path)
        assert f"{before} images done before" in done.stderr
        assert len({line["path"] for line in lines(tmp_path / "found.jsonl")}) == 100


def test_a_second_signal_does_not_wait_for_a_server_that_hangs(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 10)
    engine = FakeEngine()
    with serve_fake(engine) as served:
        engine.go.clear()
        process = subprocess.Popen(
            [EYESPOT, "classify", "photos/x", "--url", served.url],
            cwd=tmp_path,
            env=environment(),
            stdout=-3,
            stderr=-3,
        )
        assert engine.started.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            os.sched_yield()
        assert process.returncode == 128 + signal.SIGINT


def test_a_server_says_what_this_machine_says(tmp_path: Path, server: Served, packaged: dict[str, str]) -> None:
    (tmp_path / "cat.jpg").write_bytes(makers.jpeg())
    (tmp_path / "coffee.png").write_bytes(makers.encode(makers.photograph("coffee"), "PNG"))
    here = run("classify", "cat.jpg", "coffee.png", "-k", "2", cwd=tmp_path, **packaged)
    there = run("classify", "cat.jpg", "coffee.png", "-k", "2", cwd=tmp_path, EYESPOT_URL=server.url)
    assert (here.returncode, here.stdout) == (0, there.stdout)
    found = [json.loads(line) for line in here.stdout.splitlines()]
    assert [line["path"] for line in found] == ["cat.jpg", "coffee.png"]
    assert found[1]["predictions"][0]["label"] == "espresso"
    assert [len(line["predictions"]) for line in found] == [2, 2]
    assert found[0]["image"]["format"] == "JPEG"
    assert found[0]["model"]["name"] == "efficientnet-lite0"


def test_what_cannot_be_recognised_is_reported_and_stops_nothing(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 5)
    done = run("classify", "photos", "gone.jpg", "--format", "jsonl", "--url", served.url, cwd=tmp_path)
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    codes = {line["path"]: line["problem"]["code"] for line in found if "problem" in line}
    assert codes == {
        "photos/a.jpg": "unsupported-format",
        "photos/b/cut.jpg": "broken-image",
        "photos/b/empty.png": "no-image",
        "photos/c/page.webp": "unsupported-format",
        "photos/c/small.png": "too-small",
        "gone.jpg": "unreadable",
    }
    assert sum("predictions" in line for line in found) == 5
    assert "gone.jpg: No such file or directory\n" in done.stderr
    assert "photos/b/cut.jpg: " in done.stderr
    assert "6 could not be: " in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["photos", "--resume"], 2, "--output"),
        (["photos", "--format", "table", "-o", "x.txt"], 2, "terminal"),
        (["photos", "-o", "gone/x.csv"], 2, "No such file"),
        (["photos", "-o", "/dev/full"], 2, "No space left"),
        (["photos", "--top-k", "0"], 2, "equal to 1"),
        (["empty"], 1, "no images in empty"),
        ([""], 2, "a PATH is empty"),
        (["photos", "--url", "http://127.0.0.1:9"], 2, "No eyespot answers at http://127.0.0.1:9"),
        (["photos", "--url", "ftp://x"], 2, "ftp://x"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, served: Served, words: list[str], code: int, told: str) -> None:
    folder_of(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    done = run("classify", *words, cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == code, done.stderr
    assert told in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_without_a_valid_key_the_run_ends_at_once(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 3)
    with serve_fake(api_keys="me:secretsecret") as served:
        refused = run("classify", "photos", "-o", "x.jsonl", cwd=tmp_path, EYESPOT_URL=served.url)
        assert refused.returncode == 2
        assert "API key required" in refused.stderr
        keys = {"EYESPOT_URL": served.url, "EYESPOT_API_KEY": "secretsecret"}
        assert run("classify", "photos", "-o", "x.jsonl", cwd=tmp_path, **keys).returncode == 1


def test_a_file_of_results_is_not_overwritten(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 1)
    (tmp_path / "x.csv").write_text("mine\n")
    for more in ([], ["--resume"]):
        done = run("classify", "photos", "-o", "x.csv", *more, cwd=tmp_path, EYESPOT_URL=served.url)
        assert done.returncode == 2
        assert (tmp_path / "x.csv").read_text() == "mine\n"


def test_an_image_that_the_server_knows_is_not_sent_again(tmp_path: Path) -> None:
    with serve_fake(cache_url="memory://") as served:
        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(IMAGE + bytes(300_000) + bytes([number]))
        for _ in range(2):
            assert run("classify", ".", cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
        assert metric(served, 'eyespot_requests_total{route="/predict",status="200"}') == 3
        assert metric(served, 'eyespot_requests_total{route="/results/{sha256}",status="200"}') == 3


def test_on_a_terminal_there_is_a_table_and_a_bar(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 30)
    code, shown = shown_on_terminal(str(EYESPOT), "classify", "photos", cwd=tmp_path, EYESPOT_URL=served.url)
    assert code == 1
    assert "images/s" in shown
    assert "\x1b[1A\x1b[2K" in shown  # the bar is gone
    assert "\x1b[?25h" in shown  # the cursor is back
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n")
    rows = [line.rsplit("\r")[-1] for line in plain.splitlines() if "class 4 94.3%" in line]
    assert len(rows) == 30
    assert all(len(row) <= 100 for row in rows)
    assert any("photos/a.jpg: The bytes are no image" in line for line in plain.splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_a_name_that_the_terminal_cannot_show_is_shown_somehow(tmp_path: Path, served: Served, encoding: str) -> None:
    for name in (b"\xff\xfe.png", "猫.png".encode(), b"[bold].png", b"\x1b[31m\n.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(IMAGE)
    settings = {"EYESPOT_URL": served.url, "PYTHONIOENCODING": encoding}
    done = run("classify", ".", "--format", "table", cwd=tmp_path, **settings)
    assert (done.returncode, done.stdout.count("class 4")) == (0, 4), done.stderr
    assert "./[bold].png" in done.stdout
    assert "./?[31m?.png" in done.stdout
    assert "./\\udcff\\udcfe.png" in done.stdout


def test_in_a_pipe_there_is_nothing_but_json(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 10)
    piped = subprocess.run(
        f"{{ {EYESPOT} classify photos; echo ended with $? >&2; }} | true",
        shell=True, cwd=tmp_path, env=environment(EYESPOT_URL=served.url), capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in piped.stderr
    assert "eyespot:" not in piped.stderr
    assert "ended with 0" in piped.stderr
    whole = run("classify", "photos", cwd=tmp_path, EYESPOT_URL=served.url).stdout.splitlines()
    assert [json.loads(line)["path"] for line in whole[:2]] == ["photos/a.jpg", "photos/b/cut.jpg"]


class OfAnother(http.server.BaseHTTPRequestHandler):
    """A server that says what its network is, and of every image the same problem."""

    problem: ClassVar[tuple[int, str]]
    seen: ClassVar[threading.Semaphore]
    card: ClassVar[bytes]

    def do_GET(self) -> None:
        self.answer(200, self.card)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.release()
        status, code = self.problem
        problem = {"type": "x", "title": "x", "status": status, "detail": "not now", "code": code, "request_id": "x"}
        self.answer(status, json.dumps(problem).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "30")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def refusing(served: Served, status: int, code: str) -> Iterator[tuple[str, threading.Semaphore]]:
    with served.client() as client:
        card = client.get("/model").content
    members = {"problem": (status, code), "seen": threading.Semaphore(0), "card": card}
    handler = type("Refusing", (OfAnother,), members)
    with serve_files(handler) as url:
        yield url, members["seen"]


def test_a_signal_ends_the_wait_for_a_server_that_hangs(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 5)
    engine = FakeEngine()
    with serve_fake(engine) as served:
        engine.go.clear()
        process = subprocess.Popen(
            [EYESPOT, "classify", "photos/x"], cwd=tmp_path, env=environment(EYESPOT_URL=served.url)
        )
        assert engine.started.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=8) == 128 + signal.SIGINT  # the server's deadline is 10
        engine.go.set()


def test_what_is_wrong_for_all_images_ends_the_run(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 5)
    with refusing(served, 403, "forbidden") as (url, _):
        done = run("classify", "photos", "-o", "found.jsonl", "--url", url, cwd=tmp_path)
    assert done.returncode == 2
    assert "eyespot: not now" in done.stderr
    assert lines(tmp_path / "found.jsonl") == []


def test_a_signal_ends_the_wait_for_a_server_that_is_full(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 5)
    with refusing(served, 503, "overloaded") as (url, seen):
        process = subprocess.Popen(
            [EYESPOT, "classify", "photos/x"],
            cwd=tmp_path,
            env=environment(EYESPOT_URL=url),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert seen.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)  # the server asked for 30
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in told


def test_keywords_are_written_beside_the_images(tmp_path: Path, served: Served) -> None:
    (tmp_path / "red.png").write_bytes(IMAGE)
    done = run("classify", "red.png", "--xmp", cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 0, done.stderr
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    text = (tmp_path / "red.png.xmp").read_text()
    labels = [one["label"] for one in found["predictions"]]
    assert len(labels) == 1  # the others are below 0.2
    assert f"<rdf:li>{labels[0]}</rdf:li>" in text
    assert (tmp_path / "red.png").read_bytes() == IMAGE
    (tmp_path / "red.png.xmp").write_text("mine")
    refused = run("classify", "red.png", "--xmp", cwd=tmp_path, EYESPOT_URL=served.url)
    assert refused.returncode == 1
    assert "red.png.xmp is no XMP" in refused.stderr
    (kept,) = [json.loads(line) for line in refused.stdout.splitlines()]
    assert kept["predictions"] == found["predictions"]
    assert kept["problem"]["code"] == "unreadable"
    assert (tmp_path / "red.png.xmp").read_text() == "mine"


def found(paths: list[Path | str]) -> list[str]:
    errors: list[OSError] = []
    return list(files.find(map(str, paths), errors.append))


def test_a_folder_is_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ["b.PNG", "a.jpg", "z/c.webp", "B/d.jpeg", "B/c/e.mpo", ".hidden/f.jpg", "._a.jpg", "notes.txt", "jpg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "z" / "c.webp")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone")
    names = ["a.jpg", "b.PNG", "link.jpg", "B/d.jpeg", "B/c/e.mpo", "z/c.webp"]
    assert found([tmp_path]) == [str(tmp_path / name) for name in names]


def test_folders_may_be_as_deep_as_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[OSError] = []
    try:
        monkeypatch.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.jpg").touch()
        monkeypatch.chdir(tmp_path)
        Path("z.jpg").touch()
        found = list(files.find(["."], errors.append))
        assert found == ["./z.jpg", f"./{'d/' * 1500}deep.jpg"]
        assert errors == []
    finally:
        os.chdir(tmp_path)
        subprocess.run(["rm", "-rf", "d"], check=True)


def test_a_file_is_found_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ["p/a.jpg", "p/q/b.jpg", "p/.c.jpg", "p/notes"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert found(["p", "p/a.jpg", "./p/q", "p"]) == ["p/a.jpg", "p/q/b.jpg"]
    assert found(["p/q", "p/a.jpg", "p/a.jpg", "p"]) == ["p/q/b.jpg", "p/a.jpg"]
    assert found(["p", "p/.c.jpg", "p/notes"]) == ["p/a.jpg", "p/q/b.jpg", "p/.c.jpg", "p/notes"]
    assert found(["gone.jpg"]) == ["gone.jpg"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    errors: list[OSError] = []
    assert list(files.find([str(tmp_path)], errors.append)) == [str(tmp_path / "a.jpg")]
    assert [error.filename for error in errors] == [str(tmp_path / "shut")]


MODEL = ModelInfo("net", "0" * 64, "fake", "f32")
PNG = ImageInfo("0" * 64, "PNG", 3, 4)
NAMES = [
    '"quoted".jpg',
    "line\nend.jpg",
    "comma,.jpg",
    "\udcff\udcfe.jpg",
    "猫.jpg",
    "=1+1.jpg",
    "back\\slash.jpg",
    "a\rb.jpg",
]


def finding(path: str) -> Finding:
    cat = Prediction(281, "n02123045", 'a "tabby"', 0.5)
    return Finding(path, [cat], PNG, MODEL)


FORMS = pytest.mark.parametrize("form", [JsonLines(), Csv(2)], ids=["jsonl", "csv"])


@FORMS
def test_whatever_a_file_is_called_it_is_known_again(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with Results(path, form) as results:
        results.begin()
        for name in NAMES:
            results.write(finding(name))
            results.write(Finding(f"bad {name}", problem=FileProblem("unreadable", 'some "reason",\nof two lines')))
    whole = path.read_bytes()
    with Results(path, form) as again:
        again.resume(MODEL)
        assert [name for name in NAMES if not (again.has(name) and again.has(f"bad {name}"))] == []
        assert not again.has("other.jpg")
    assert path.read_bytes() == whole
    if isinstance(form, JsonLines):
        assert [line["path"] for line in lines(path)] == [name for each in NAMES for name in (each, f"bad {each}")]


@FORMS
def test_wherever_a_file_was_cut_off_it_is_gone_on_with(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with Results(path, form) as results:
        results.begin()
        for name in NAMES:
            results.write(finding(name))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Results(path, form) as results:
            results.resume(MODEL)
            for name in NAMES:
                if not results.has(name):
                    results.write(finding(name))
        assert path.read_bytes() == whole, length


@FORMS
def test_a_file_of_another_run_is_not_gone_on_with(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with Results(path, form) as results:
        results.begin()
        results.write(finding("a.jpg"))
        with pytest.raises(OutputUnusable, match="another run"):
            Results(path, form)
    with Results(path, form) as results, pytest.raises(OutputUnusable, match="another network"):
        results.resume(ModelInfo("other", "1" * 64, "fake", "f32"))
    other = Csv(3) if isinstance(form, Csv) else Csv(2)
    with Results(path, other) as results, pytest.raises(OutputUnusable, match=r"columns|not of this format"):
        results.resume(MODEL)


@FORMS
@pytest.mark.parametrize("content", [b'{"my": "notes"}', b"one word", b'a,5" pipe\nb,2\n', b"x" * 1000, b"\r\n", b"["])
def test_a_file_of_somebody_else_is_not_cut(tmp_path: Path, form: JsonLines | Csv, content: bytes) -> None:
    (tmp_path / "found").write_bytes(content)
    with Results(tmp_path / "found", form) as results, pytest.raises(OutputUnusable, match="no file of results"):
        results.resume(MODEL)
    assert (tmp_path / "found").read_bytes() == content


@pytest.mark.parametrize("line", [b"x\ry,1,2\r\n", b"\xff\r\n", b"a\r\n"])
def test_a_line_of_csv_that_is_none_is_told(tmp_path: Path, line: bytes) -> None:
    with Results(tmp_path / "found", Csv(2)) as results:
        results.begin()
    with (tmp_path / "found").open("ab") as file:
        file.write(line)
    with Results(tmp_path / "found", Csv(2)) as results, pytest.raises(OutputUnusable, match="not of this format"):
        results.resume(MODEL)


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Results(tmp_path / "found", JsonLines()) as results:
        results.begin()
        results.write(finding("a.jpg"))
        whole = (tmp_path / "found").read_bytes()
        file = results._file

        class Full:
            def write(self, data: bytes) -> int:
                if len(data) > 20:
                    return file.write(data[:20])
                raise OSError(28, "No space left on device")

            truncate = staticmethod(file.truncate)
            close = staticmethod(file.close)

        monkeypatch.setattr(results, "_file", Full())
        with pytest.raises(OutputUnusable, match="No space"):
            results.write(Finding("b", problem=FileProblem("x" * 10, "y")))
    assert (tmp_path / "found").read_bytes() == whole


@pytest.mark.parametrize("width", [40, 80, 200, None])
@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_a_row_of_the_table_fits(width: int | None, top_k: int) -> None:
    table = Table(width, top_k)
    long = [Prediction(0, "n0", "a very long label of a class that has many words", 0.123456)] * top_k
    for path in ("a.jpg", "photos/" * 20 + "cat.jpg", "猫" * 60 + ".jpg"):
        line = table.line(Finding(path, long))
        assert not re.search(r"\d\.?$", line)  # a number that is cut in two says another
        assert line.count("\n") == 1
        assert "12.3%" in line
        if width:
            assert len(line) - 1 <= width
            assert path[-5:] in line
        else:
            assert line.startswith(path)
    assert "nothing" in table.line(Finding("a.jpg", []))


def test_a_run_over_many_files_holds_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are found, and let go of, as the run comes to them."""
    taken = written = 0
    most = 0

    def endless(*_: object) -> Iterator[str]:
        nonlocal taken
        for taken in range(20_000):
            yield f"{taken}.jpg"

    def write(_: Finding) -> None:
        nonlocal written, most
        written += 1
        most = max(most, taken - written)

    monkeypatch.setattr(files, "find", endless)
    one = Run(["."], err)
    one.go(Looker(lambda _: ([], PNG), MODEL, threads=4), lambda _: False, write)
    assert (written, one.recognized, one.total) == (20_000, 20_000, 20_000)
    assert most <= 4 * 16


def test_health(served: Served, tmp_path: Path) -> None:
    ready = run("health", "--url", served.url, cwd=tmp_path)
    assert ready.returncode == 0
    assert f"{served.url} is ready" in ready.stdout
    assert "golden image" in ready.stdout
    assert json.loads(run("health", "--json", cwd=tmp_path, EYESPOT_URL=served.url).stdout)["ready"] is True
    none = run("health", "--url", "127.0.0.1:9", cwd=tmp_path)
    assert (none.returncode, none.stdout) == (2, "")
    with serve_fake() as stopping:
        assert stopping.recognizer
        stopping.recognizer.pool.draining = True
        draining = run("health", "--url", stopping.url, cwd=tmp_path)
        assert draining.returncode == 1
        assert "not ready" in draining.stdout


@pytest.mark.parametrize("there", [True, False], ids=["a server", "this machine"])
def test_model_and_labels(tmp_path: Path, server: Served, packaged: dict[str, str], there: bool) -> None:
    settings = {"EYESPOT_URL": server.url} if there else packaged
    model = run("model", cwd=tmp_path, **settings)
    assert model.returncode == 0, model.stderr
    assert "efficientnet-lite0" in model.stdout
    labels = run("labels", cwd=tmp_path, **settings).stdout.splitlines()
    assert len(labels) == 1000
    assert labels[281] == " 281 n02123045 tabby"


def test_model_and_labels_as_json(tmp_path: Path, served: Served) -> None:
    settings = {"EYESPOT_URL": served.url}
    assert json.loads(run("model", "--json", cwd=tmp_path, **settings).stdout)["classes"] == 10
    assert [
        row["class_id"] for row in json.loads(run("labels", "--json", "SS 7", cwd=tmp_path, **settings).stdout)
    ] == [7]
    assert run("labels", "no such thing", cwd=tmp_path, **settings).returncode == 1
