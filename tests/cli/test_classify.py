"""`eyespot classify` over folders: nothing done twice and nothing lost, however a run ends."""

import csv
import http.server
import itertools
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

from eyespot import Client
from tests import makers
from tests.cli.hesitant import CLASS, GROUP, UNSURE, Hesitant, grey
from tests.manifests import ENTRY
from tests.requests import IMAGE, answered, image
from tests.serving import (
    EYESPOT,
    ROOT,
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


@pytest.fixture(scope="module")
def hesitant() -> Iterator[Served]:
    with serve_fake(Hesitant()) as served:
        yield served


def test_a_run_that_was_killed_is_resumed(tmp_path: Path, packaged: dict[str, str]) -> None:
    photos = folder_of(tmp_path / "photos", 95, lambda number: makers.jpeg() + number.to_bytes(2))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    done = run("classify", "photos", "-o", str(whole), cwd=tmp_path, **packaged)
    assert (done.returncode, done.stdout) == (1, "")
    summary = r"95 recognised, 5 failed \(2 unsupported-format, .*\) in [\d.]+ s, \d+ images/s"
    assert re.fullmatch(summary, done.stderr.splitlines()[-1])
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
    resumed = run("classify", "photos", "-o", str(killed), "--resume", cwd=tmp_path, **packaged)
    assert resumed.returncode == 1
    assert " done before" in resumed.stderr
    assert killed.read_bytes() == whole.read_bytes()
    paths = [line["path"] for line in lines(killed)]
    assert len(paths) == len(set(paths)) == 100
    assert {str(photos / path) for path in BAD} == {
        str(tmp_path / line["path"]) for line in lines(killed) if line.get("problem")
    }
    again = run("classify", "photos", "-o", str(killed), "--resume", cwd=tmp_path, **packaged)
    assert (again.returncode, killed.read_bytes()) == (1, whole.read_bytes())
    assert again.stderr == "100 done before (5 failed)\n"


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
        assert f"stopped after {before} of 100; --resume continues" in told
        assert before < 100
        done = run("classify", "photos", "-o", "found.jsonl", "--url", served.url, "--resume", cwd=tmp_path)
        assert f"{before} done before" in done.stderr
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
        # The second is what a signal in the last moment gives, when the run has ended; a shell reports both as 130.
        assert process.returncode in (128 + signal.SIGINT, -signal.SIGINT)


def test_a_server_answers_as_this_machine_does(tmp_path: Path, server: Served, packaged: dict[str, str]) -> None:
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
    many = run("classify", "cat.jpg", "-k", "1001", cwd=tmp_path, **packaged)
    assert (many.returncode, many.stdout) == (2, "")
    assert "eyespot: --top-k must be from 1 to 1,000, the number of classes; it is 1,001." in many.stderr


def test_a_model_may_have_fewer_classes_than_the_default_top_k(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(makers.jpeg())
    with serve_fake(FakeEngine(classes=2)) as served:
        found = run("classify", "cat.jpg", cwd=tmp_path, EYESPOT_URL=served.url)
        assert (found.returncode, len(json.loads(found.stdout)["predictions"])) == (0, 2)
        with Client(served.url) as client:
            assert len(client.predict(tmp_path / "cat.jpg").predictions) == 2


def test_a_file_that_fails_is_reported_and_stops_nothing(tmp_path: Path, served: Served) -> None:
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
    assert "gone.jpg: no such file\n" in done.stderr
    assert "photos/b/cut.jpg: " in done.stderr
    assert "5 recognised, 6 failed (2 unsupported-format, " in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["photos", "--resume"], 2, "--output"),
        (["photos", "--retry-failed"], 2, "--output"),
        (["photos", "--format", "parquet"], 2, "--output"),
        (["photos", "-o", "found.xlsx"], 2, "found.xlsx"),
        (["photos", "-o", "found.xlsx"], 2, ".csv, .jsonl, .ndjson or .parquet"),
        (["photos", "--format", "table", "-o", "x.txt"], 2, "terminal"),
        (["photos", "-o", "gone/x.csv"], 2, "eyespot: cannot write gone/x.csv: there is no folder gone"),
        (["photos", "-o", "broken.csv"], 2, "eyespot: cannot write broken.csv: it is a broken link"),
        (["photos", "-o", ""], 2, "--output needs the name of a file"),
        (["photos", "-o", "photos/"], 2, "eyespot: cannot write photos: is a directory"),
        (["photos", "-o", "/dev/full"], 2, "no space left"),
        (["photos", "--top-k", "0"], 2, "'--top-k' / '-k': '0' is not a whole number of at least 1."),
        (["photos", "--workers", "1.5"], 2, "'--workers': '1.5' is not a whole number from 1 to 256."),
        (["photos", "--min-confidence", "50%"], 2, "'--min-confidence': '50%' is not a number from 0 to 1."),
        (["photos", "--wait", "nan"], 2, "'--wait': 'nan' is not a number from 0 to 86400."),
        (["photos", "--lang", "fr"], 2, "'--lang': 'fr' is not one of 'en', 'zh'."),
        (["empty"], 1, "no JPEG, PNG or WebP images in empty"),
        ([""], 2, "PATH is empty"),
        (["photos", "-k", "11"], 2, "eyespot: --top-k must be from 1 to 10, the number of classes; it is 11."),
        (["photos", "--url", "http://127.0.0.1:9", "--wait", "0"], 2, "No eyespot answers at http://127.0.0.1:9"),
        (["photos", "--url", "ftp://x"], 2, "ftp://x"),
    ],
)
def test_a_wrong_command_is_refused(tmp_path: Path, served: Served, words: list[str], code: int, told: str) -> None:
    folder_of(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").symlink_to("gone/x.csv")
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
        assert "Set EYESPOT_API_KEY; " in refused.stderr
        keys = {"EYESPOT_URL": served.url, "EYESPOT_API_KEY": "secretsecret"}
        assert run("classify", "photos", "-o", "x.jsonl", cwd=tmp_path, **keys).returncode == 1


def test_a_results_file_is_not_overwritten(tmp_path: Path, served: Served) -> None:
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
        assert answered(served, "/predict", 200) == 3
        assert answered(served, "/results/{sha256}", 200, "GET") == 3


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
    assert any("photos/a.jpg: This is not a JPEG, PNG or WebP image" in line for line in plain.splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path, served: Served, encoding: str) -> None:
    for name in (b"\xff\xfe.png", "猫.png".encode(), b"[bold].png", b"\x1b[31m\n.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(IMAGE)
    settings = {"EYESPOT_URL": served.url, "PYTHONIOENCODING": encoding}
    done = run("classify", ".", "--format", "table", cwd=tmp_path, **settings)
    assert (done.returncode, done.stdout.count("class 4")) == (0, 4), done.stderr
    assert "./[bold].png" in done.stdout
    assert "./?[31m?.png" in done.stdout
    assert "./\\udcff\\udcfe.png" in done.stdout


def test_a_pipe_gets_only_json(tmp_path: Path, served: Served) -> None:
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


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that has a model, and refuses every image alike."""

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
    handler = type("Handler", (Refusing,), members)
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


def test_an_error_of_all_images_ends_the_run(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 5)
    with refusing(served, 403, "forbidden") as (url, _):
        done = run("classify", "photos", "-o", "found.jsonl", "--url", url, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("eyespot: not now; request id x; --resume continues\n")
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


@pytest.mark.parametrize(
    ("level", "keywords"),
    [(CLASS, {"en": ["class 0", "low"], "zh": ["第0类", "低"]}), (GROUP, {"en": ["high"], "zh": ["高"]}), (UNSURE, {})],
)
def test_keywords_are_what_is_said_and_its_groups(
    tmp_path: Path, hesitant: Served, level: int, keywords: dict[str, list[str]]
) -> None:
    (tmp_path / "a.png").write_bytes(grey(level))
    for lang in ("en", "zh"):
        words = ("classify", "a.png", "--xmp", "--lang", lang, "--min-confidence", "1")
        assert run(*words, cwd=tmp_path, EYESPOT_URL=hesitant.url).returncode == 0
        if keywords:
            sidecar = tmp_path / "a.png.xmp"
            assert re.findall("<rdf:li>(.*)</rdf:li>", sidecar.read_text()) == keywords[lang]
            sidecar.unlink()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]
    assert (tmp_path / "a.png").read_bytes() == grey(level)


def test_a_sidecar_that_cannot_take_keywords_is_a_problem_of_its_image(tmp_path: Path, served: Served) -> None:
    (tmp_path / "red.png").write_bytes(IMAGE)
    (tmp_path / "red.png.xmp").write_text("mine")
    refused = run("classify", "red.png", "--xmp", cwd=tmp_path, EYESPOT_URL=served.url)
    assert refused.returncode == 1
    assert "red.png.xmp is not an XMP file" in refused.stderr
    (kept,) = [json.loads(line) for line in refused.stdout.splitlines()]
    assert kept["says"]["label"] == "class 4"
    assert kept["problem"]["code"] == "unreadable"
    assert (tmp_path / "red.png.xmp").read_text() == "mine"


@pytest.mark.parametrize("here", [True, False], ids=["this machine", "a server"])
def test_labels_are_chinese(tmp_path: Path, server: Served, packaged: dict[str, str], here: bool) -> None:
    (tmp_path / "coffee.png").write_bytes(makers.encode(makers.photograph("coffee"), "PNG"))
    settings = packaged if here else {"EYESPOT_URL": server.url}
    done = run("classify", "coffee.png", "--lang", "zh", cwd=tmp_path, **settings)
    found = json.loads(done.stdout)
    assert (found["says"]["label"], found["predictions"][0]["label"]) == ("浓缩咖啡", "浓缩咖啡")
    assert [group["label"] for group in found["groups"]] == ["饮料", "食物或饮料"]
    table = run("classify", "coffee.png", "--lang", "zh", "--format", "table", cwd=tmp_path, **settings)
    assert table.stdout.startswith("coffee.png  浓缩咖啡 ")


def test_a_minimum_confidence_is_for_the_classes_alone(tmp_path: Path, hesitant: Served) -> None:
    (tmp_path / "a.png").write_bytes(grey(GROUP))
    words = ("classify", "a.png", "--min-confidence", "0.5")
    found = json.loads(run(*words, cwd=tmp_path, EYESPOT_URL=hesitant.url).stdout)
    assert (found["predictions"], found["says"]["label"]) == ([], "high")
    table = run(*words, "--format", "table", cwd=tmp_path, EYESPOT_URL=hesitant.url)
    assert table.stdout == "a.png  high 99.3%\n"


def test_resume_tries_again_what_could_not_be_read(tmp_path: Path, served: Served) -> None:
    folder_of(tmp_path / "photos", 2)
    words = ("classify", "photos", "late.png", "-o", "found.jsonl")
    assert run(*words, cwd=tmp_path, EYESPOT_URL=served.url).returncode == 1
    first = lines(tmp_path / "found.jsonl")
    assert first[-1]["problem"] == {"code": "unreadable", "detail": "no such file"}
    for name in ("late.png", "photos/b/cut.jpg"):
        (tmp_path / name).write_bytes(image(1))
    resumed = run(*words, "--resume", cwd=tmp_path, EYESPOT_URL=served.url)
    assert resumed.returncode == 1
    assert resumed.stderr.startswith("1 recognised in ")
    assert resumed.stderr.endswith("; 7 done before (5 failed)\n")
    *kept, late = lines(tmp_path / "found.jsonl")
    assert kept == first[:-1]
    assert (late["path"], "predictions" in late) == ("late.png", True)
    retried = run(*words, "--retry-failed", cwd=tmp_path, EYESPOT_URL=served.url)
    assert "1 recognised, 4 failed (2 unsupported-format, " in retried.stderr
    found = {line["path"]: "predictions" in line for line in lines(tmp_path / "found.jsonl")}
    assert (len(found), found["photos/b/cut.jpg"], found["photos/a.jpg"]) == (8, True, False)
    assert len(lines(tmp_path / "found.jsonl")) == 8


def test_a_folder_that_cannot_be_opened_has_its_row(tmp_path: Path, served: Served) -> None:
    """Its path is longer than the system allows, which stops root as well."""
    folder_of(tmp_path / "photos", 1)
    script = 'cd photos; for i in $(seq 25); do n=$(printf "%0200d" $i); mkdir $n; cd -P $n; done'
    subprocess.run(["bash", "-c", script], check=True, cwd=tmp_path)
    try:
        done = run("classify", "photos", "-o", "found.csv", cwd=tmp_path, EYESPOT_URL=served.url)
        assert "1 recognised, 6 failed (" in done.stderr
        with (tmp_path / "found.csv").open(newline="") as file:
            rows = {row["path"]: row for row in csv.DictReader(file)}
        (folder,) = (path for path in rows if path.startswith("photos/00"))
        assert (rows[folder]["problem"], rows[folder]["detail"]) == ("unreadable", "file name too long")
        assert f"{folder}: file name too long" in done.stderr
    finally:
        subprocess.run(["rm", "-rf", "photos"], check=True, cwd=tmp_path)


class Away(Refusing):
    """A server that is away: it breaks connections until it is `back`, from the first or from the second on."""

    back: ClassVar[threading.Event]
    asked: ClassVar[Iterator[int]]
    first: ClassVar[int]

    def answer(self, status: int, body: bytes) -> None:
        if next(self.asked) < self.first or self.back.is_set():
            super().answer(200, self.found if self.command == "POST" else body)
        else:
            self.close_connection = True

    found: ClassVar[bytes]


@pytest.mark.parametrize("answers", [0, 3], ids=["at the start", "in the middle"])
def test_a_run_waits_for_a_server_that_is_away(tmp_path: Path, served: Served, answers: int) -> None:
    folder_of(tmp_path / "photos", 10)
    back = threading.Event()
    with served.client() as client:
        card, found = client.get("/model").content, client.post("/predict", content=IMAGE).content
    members = {"problem": (200, ""), "seen": threading.Semaphore(0), "card": card, "found": found}
    members |= {"back": back, "asked": itertools.count(), "first": answers}
    with serve_files(type("Handler", (Away,), members)) as url:

        def watch(shown: str) -> None:
            if f"waiting for {url} (" in shown:
                back.set()

        words = (str(EYESPOT), "classify", "photos/x", "-o", "found.jsonl", "--url", url)
        code, shown = shown_on_terminal(*words, cwd=tmp_path, watch=watch)
    assert back.is_set()
    assert code == 0, shown
    assert "4 recognised in " in shown
    assert len(lines(tmp_path / "found.jsonl")) == 4


@pytest.mark.parametrize("words", [["-k", "1"], ["--format", "csv"]])
def test_a_full_disk_behind_standard_output_is_told(tmp_path: Path, served: Served, words: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    with open("/dev/full", "w") as full:
        command = [EYESPOT, "classify", "a.png", "--url", served.url, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "eyespot: cannot write to standard output: no space left on device\n" in done.stderr


def test_an_export_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = {"EYESPOT_MODEL": "efficientnet-lite0", "EYESPOT_DATA_DIR": "file"}
    done = run("classify", "cat.jpg", cwd=tmp_path, **settings)
    told = f"the data folder {tmp_path}/file/exports is not writable: Not a directory; set EYESPOT_DATA_DIR"
    assert (done.returncode, done.stderr) == (2, f"eyespot: {told}\n")


def test_the_stand_in_is_one_line_on_a_terminal(tmp_path: Path, packaged: dict[str, str]) -> None:
    entry = (ROOT / "weights" / "manifest.toml").read_text().partition("[efficientnet-lite0]")[2]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "manifest.toml").write_text(f"[net]{ENTRY}\n[efficientnet-lite0]{entry}")
    (tmp_path / "cat.jpg").write_bytes(makers.jpeg())
    settings = {**packaged, "EYESPOT_MODEL": "auto", "COLUMNS": "80"}
    piped = run("classify", "cat.jpg", cwd=tmp_path, **settings)
    assert (piped.returncode, piped.stderr) == (0, "")
    code, shown = shown_on_terminal(str(EYESPOT), "classify", "cat.jpg", cwd=tmp_path, **settings)
    assert code == 0
    assert "Using the stand-in efficientnet-lite0; for net, run `eyespot weights fetch net`" in shown
    assert "stand_in_used" not in shown
