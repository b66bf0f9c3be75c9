"""Files of findings: resumed wherever they end, never overwritten, whole on a full disk."""

import fcntl
import io
import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from eyespot.cli.formats import Csv, FileProblem, Finding, JsonLines
from eyespot.cli.results import Results, tried_again
from eyespot.errors import OutputUnusable
from eyespot.types import GroupScore, ImageInfo, ModelInfo, Prediction, Says
from tests.disk import file_size_limit

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
    cat = Prediction(281, "n02123045", 'a "tabby"', 0.75)
    groups = [GroupScore("animal/cat", "cat, domestic", 0.8), GroupScore("animal", "animal", 0.9)]
    return Finding(path, Says("class", cat.wnid, cat.label, 0.75), groups, [cat], PNG, MODEL)


NEVER = tried_again([], every=False)
FORMS = pytest.mark.parametrize("form", [JsonLines(), Csv(2)], ids=["jsonl", "csv"])


@FORMS
def test_every_path_is_known_again(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with closing(Results(path, form)) as results:
        results.begin()
        for name in NAMES:
            results.write(finding(name))
            results.write(Finding(f"bad {name}", problem=FileProblem("unreadable", 'some "reason",\nof two lines')))
    whole = path.read_bytes()
    with closing(Results(path, form)) as again:
        again.resume(MODEL, NEVER)
        assert [name for name in NAMES if not (again.has(name) and again.has(f"bad {name}"))] == []
        assert not again.has("other.jpg")
    assert path.read_bytes() == whole
    if isinstance(form, JsonLines):
        assert [json.loads(line)["path"] for line in whole.splitlines()] == [
            name for each in NAMES for name in (each, f"bad {each}")
        ]


def test_a_path_may_be_spelled_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    with closing(Results(path, JsonLines())) as results:
        results.begin()
        results.write(finding("photos/a.jpg"))
        results.write(Finding("photos/b.jpg", problem=FileProblem("unreadable", "gone")))
    with closing(Results(path, JsonLines())) as again:
        again.resume(MODEL, tried_again(["./photos//"], every=False))
        assert again.has("./photos//a.jpg")
        assert not again.has("link/../photos/a.jpg")  # `link` may lead elsewhere
        assert not again.has("photos/b.jpg")
        again.write(Finding("shut", problem=FileProblem("forbidden", "no")))
    for paths in [], ["shut/"]:  # a folder that cannot be opened
        with closing(Results(path, JsonLines())) as again:
            again.resume(MODEL, tried_again(paths, every=True))
            assert again.has("shut/") is not bool(paths)
    with closing(Results(path, JsonLines())) as again:
        elsewhere = Finding("/elsewhere/c.jpg", problem=FileProblem("unreadable", "gone"))
        again.resume(MODEL, NEVER)
        again.write(elsewhere)
    with closing(Results(path, JsonLines())) as again:
        again.resume(MODEL, tried_again(["."], every=True))
        assert again.has("photos/a.jpg")
        assert again.has("/elsewhere/c.jpg")


@FORMS
def test_a_file_that_was_cut_off_anywhere_is_resumed(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with closing(Results(path, form)) as results:
        results.begin()
        for name in NAMES[:4]:
            results.write(finding(name))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with closing(Results(path, form)) as results:
            results.resume(MODEL, NEVER)
            for name in NAMES[:4]:
                if not results.has(name):
                    results.write(finding(name))
        assert path.read_bytes() == whole, length


@FORMS
def test_a_file_of_another_run_is_not_resumed(tmp_path: Path, form: JsonLines | Csv) -> None:
    path = tmp_path / "found"
    with closing(Results(path, form)) as results:
        results.begin()
        results.write(finding("a.jpg"))
        with pytest.raises(OutputUnusable, match="another run"):
            Results(path, form)
    with closing(Results(path, form)) as results, pytest.raises(OutputUnusable, match="another model"):
        results.resume(ModelInfo("other", "1" * 64, "fake", "f32"), NEVER)
    told = "found was written with --top-k 2$" if isinstance(form, Csv) else "found is not a results file in CSV$"
    with closing(Results(path, Csv(3))) as results, pytest.raises(OutputUnusable, match=told):
        results.resume(MODEL, NEVER)
    other = JsonLines() if isinstance(form, Csv) else Csv(1)
    with (
        closing(Results(path, other)) as results,
        pytest.raises(OutputUnusable, match="found is not a results file in"),
    ):
        results.resume(MODEL, NEVER)


@FORMS
@pytest.mark.parametrize("content", [b'{"my": "notes"}', b"one word", b'a,5" pipe\nb,2\n', b"x" * 1000, b"\r\n", b"["])
def test_a_foreign_file_is_not_changed(tmp_path: Path, form: JsonLines | Csv, content: bytes) -> None:
    path = tmp_path / "found"
    path.write_bytes(content)
    with closing(Results(path, form)) as results, pytest.raises(OutputUnusable, match="not a results file"):
        results.resume(MODEL, NEVER)
    assert path.read_bytes() == content


OLD_CSV = (
    b"path,label1,confidence1,problem,detail,sha256,format,width,height,model\r\na.jpg,tabby,0.5,,,00,PNG,3,4,net\r\n"
)
OLD_JSON = b"""{"path": "gone.jpg", "problem": {"code": "unreadable", "detail": "gone"}}
{"path": "a.jpg", "predictions": [], "model": {"name": "net", "digest": "0"}}
"""


@pytest.mark.parametrize(("form", "content"), [(Csv(1), OLD_CSV), (Csv(3), OLD_CSV), (JsonLines(), OLD_JSON)])
def test_a_file_of_an_older_version_is_not_changed(tmp_path: Path, form: JsonLines | Csv, content: bytes) -> None:
    path = tmp_path / "found"
    path.write_bytes(content + b"cut o")
    with (
        closing(Results(path, form)) as results,
        pytest.raises(OutputUnusable, match="found was written by an older version of eyespot; choose another"),
    ):
        results.resume(MODEL, tried_again(["gone.jpg"], every=True))
    assert path.read_bytes() == content + b"cut o"


@pytest.mark.parametrize(
    ("says", "row"),
    [
        (Says("class", "n1", "tabby", 0.75), "tabby,class,0.75,animal/cat"),
        (Says("group", "animal/cat", "cat", 0.8), "cat,group,0.8,animal/cat"),
        (Says("group", "animal", "animal", 0.9), "animal,group,0.9,animal"),
        (Says("unsure", None, "不确定", 0.4), "不确定,unsure,0.4,"),
    ],
)
def test_a_row_of_csv_leads_with_what_is_said(says: Says, row: str) -> None:
    groups = [GroupScore("animal/cat", "cat", 0.8), GroupScore("animal", "animal", 0.9)]
    found = Finding("a.jpg", says, groups, [Prediction(1, "n1", "tabby", 0.25)], PNG, MODEL)
    assert Csv(1).header.startswith(b"path,says,kind,confidence,group,label1,confidence1,problem,")
    assert Csv(1).line(found).decode().startswith(f"a.jpg,{row},tabby,0.25,,,")


@pytest.mark.parametrize("line", [b"x\ry,1,2\r\n", b"\xff\r\n", b"a\r\n"])
def test_a_broken_line_of_csv_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "found"
    with closing(Results(path, Csv(2))) as results:
        results.begin()
    path.write_bytes(path.read_bytes() + line)
    with closing(Results(path, Csv(2))) as results, pytest.raises(OutputUnusable, match="of this format"):
        results.resume(MODEL, NEVER)


FAILED = {
    "photos/cut.jpg": "broken-image",
    "photos/late.jpg": "deadline-exceeded",
    "photos/shut": "unreadable",
    "gone.jpg": "unreadable",
    "elsewhere/gone.jpg": "unreadable",
    "photos, more/gone.jpg": "unreadable",
    "photos/\udcff\n.jpg": "unreadable",
}


@FORMS
@pytest.mark.parametrize(
    ("paths", "every", "again"),
    [
        (["photos", "gone.jpg"], False, {"photos/late.jpg", "photos/shut", "gone.jpg", "photos/\udcff\n.jpg"}),
        (["photos/"], True, {"photos/cut.jpg", "photos/late.jpg", "photos/shut", "photos/\udcff\n.jpg"}),
        (["other", "photos/cut.jpg"], False, set()),
    ],
)
def test_what_may_succeed_now_is_tried_again(
    tmp_path: Path, form: JsonLines | Csv, paths: list[str], every: bool, again: set[str]
) -> None:
    path = tmp_path / "found"
    with closing(Results(path, form)) as results:
        results.begin()
        results.write(finding("photos/a.jpg"))
        for name, code in FAILED.items():
            results.write(Finding(name, problem=FileProblem(code, "of two\nlines")))
        results.write(finding("photos/b.jpg"))
    path.chmod(0o640)
    with closing(Results(path, form)) as results:
        results.resume(MODEL, tried_again(paths, every=every))
        assert {name for name in FAILED if not results.has(name)} == again
        assert results.failed_before == len(FAILED) - len(again)
        assert results.has("photos/b.jpg")
        with pytest.raises(OutputUnusable, match="another run"):
            Results(path, form)
        for name in again:
            results.write(finding(name))
    assert path.stat().st_mode & 0o777 == 0o640
    lines = path.read_bytes()
    with closing(Results(path, form)) as results:
        results.resume(MODEL, tried_again(paths, every=every))
        assert all(map(results.has, FAILED))
        assert results.failed_before == len(FAILED) - len(again)
    assert path.read_bytes() == lines
    assert lines.count(b"photos/b.jpg") == lines.count(b"gone.jpg") - 2 == 1
    assert list(tmp_path.iterdir()) == [path]


@FORMS
def test_a_file_that_another_run_replaces_before_it_is_locked_is_opened_again(
    tmp_path: Path, form: JsonLines | Csv, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "found"
    with closing(Results(path, form)) as first:
        first.begin()
        first.write(Finding("late.jpg", problem=FileProblem("unreadable", "gone")))
    lock = fcntl.flock

    def other_run(file: io.FileIO, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with closing(Results(path, form)) as other:
            other.resume(MODEL, tried_again(["."], every=True))
            other.write(finding("a.jpg"))
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", other_run)
    with closing(Results(path, form)) as results:
        results.resume(MODEL, NEVER)
        results.write(finding("b.jpg"))
    with closing(Results(path, form)) as results:
        results.resume(MODEL, NEVER)
        assert results.has("a.jpg")
        assert results.has("b.jpg")


def test_a_file_is_locked_at_every_moment_of_its_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "found", []
    (tmp_path / ".found.part").write_bytes(b"of a run that was killed")

    def fsync(_: int) -> None:
        for file in sorted(tmp_path.iterdir()):
            with pytest.raises(OutputUnusable, match="another run"):
                Results(file, JsonLines())
            synced.append(file.name)

    monkeypatch.setattr(os, "fsync", fsync)
    with closing(Results(path, JsonLines())) as results:
        results.begin()
        results.write(finding("a.jpg"))
        whole = path.read_bytes()
        results.replace([whole, whole])
        with pytest.raises(OutputUnusable, match="another run"):
            Results(path, JsonLines())
    assert synced == [".found.part", "found"]
    assert path.read_bytes() == whole * 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_when_files_are_tried_again_loses_nothing(tmp_path: Path) -> None:
    path, again = tmp_path / "found", tried_again(["gone.jpg"], every=False)
    with closing(Results(path, JsonLines())) as results:
        results.begin()
        results.write(Finding("gone.jpg", problem=FileProblem("unreadable", "no such file")))
        results.write(finding("a.jpg"))
    whole = path.read_bytes()
    full = pytest.raises(OutputUnusable, match=r"cannot write .*found: file too large")
    with closing(Results(path, JsonLines())) as results, file_size_limit(20), full:
        results.resume(MODEL, again)
    assert path.read_bytes() == whole
    with closing(Results(path, JsonLines())) as results:
        results.resume(MODEL, again)
        kept = path.read_bytes()
        with file_size_limit(len(kept) + 20), pytest.raises(OutputUnusable):
            results.write(finding("gone.jpg"))
    assert path.read_bytes() == kept
    assert whole.endswith(kept)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    with closing(Results(tmp_path / "found", JsonLines())) as results:
        results.begin()
        results.write(finding("a.jpg"))
        whole = (tmp_path / "found").read_bytes()
        with (
            file_size_limit(len(whole) + 20),
            pytest.raises(OutputUnusable, match=r"cannot write .*found: file too large; --resume continues it"),
        ):
            results.write(finding("b.jpg"))
        assert (tmp_path / "found").read_bytes() == whole
        results.write(finding("b.jpg"))
    assert len((tmp_path / "found").read_bytes().splitlines()) == 2
