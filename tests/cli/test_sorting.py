"""`eyespot classify --sort-into`: every image in the folder of what is said, nothing replaced and nothing twice."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eyespot.cli.formats import Finding
from eyespot.cli.sorting import Sorter
from eyespot.types import GroupScore, ImageInfo, Says
from tests import makers
from tests.cli.hesitant import CLASS, GROUP, UNSURE, Hesitant, grey
from tests.disk import file_size_limit
from tests.serving import EYESPOT, Served, environment, run, serve_fake, shown_on_terminal, until

BOTH = pytest.mark.parametrize("how", [[], ["--copy"]], ids=["link", "copy"])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake(Hesitant(), queue=64, cache_url="memory://") as served:
        yield served


def photos(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


THREE = {"p/sure.png": grey(CLASS), "p/vague.png": grey(GROUP), "p/none.png": grey(UNSURE)}


def tree(folder: Path) -> dict[str, bytes]:
    """The files in and below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inodes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_ino for name in tree(folder)}


@pytest.mark.parametrize(
    ("lang", "folders"),
    [("en", ["low/class 0", "high", "unsure"]), ("zh", ["低/第0类", "高", "不确定"])],
)
def test_images_are_sorted_by_what_is_said(tmp_path: Path, served: Served, lang: str, folders: list[str]) -> None:
    photos(tmp_path, {**THREE, "p/bad.png": b"hello"})
    done = run("classify", "p", "--sort-into", "s", "--lang", lang, cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 1  # of bad.png
    places = dict(zip(["sure.png", "vague.png", "none.png"], folders, strict=True))
    assert tree(tmp_path / "s") == {f"{folder}/{name}": THREE[f"p/{name}"] for name, folder in places.items()}
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["path"]: line.get("sorted_to") for line in lines} == {
        "p/bad.png": None,
        **{f"p/{name}": f"s/{folder}/{name}" for name, folder in places.items()},
    }
    for name, folder in places.items():
        assert os.path.samefile(tmp_path / "p" / name, tmp_path / "s" / folder / name)


def test_groups_are_folders_in_folders(tmp_path: Path, packaged: dict[str, str]) -> None:
    photos(tmp_path, {"cat.jpg": makers.jpeg()})
    assert run("classify", "cat.jpg", "--sort-into", "s", cwd=tmp_path, **packaged).returncode == 0
    (name,) = tree(tmp_path / "s")
    assert name.startswith("animal/mammal/cat/")
    assert name.endswith("/cat.jpg")


def test_a_copy_keeps_time_and_permissions(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, THREE)
    source = tmp_path / "p" / "sure.png"
    source.chmod(0o440)
    os.utime(source, (1e9, 1e9))
    done = run("classify", "p", "--sort-into", "s", "--copy", cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "s" / "low" / "class 0" / "sure.png"
    assert (copy.read_bytes(), copy.stat().st_mtime, copy.stat().st_mode & 0o777) == (grey(CLASS), 1e9, 0o440)
    assert not os.path.samefile(source, copy)
    assert len(tree(tmp_path / "s")) == 3


def test_on_a_terminal_it_is_a_dry_run(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, {**THREE, "p/2/sure.png": grey(CLASS, 1), "p/3/sure.png": grey(CLASS)})
    command = (str(EYESPOT), "classify", "p", "--sort-into", "s")
    before = tree(tmp_path)
    code, shown = shown_on_terminal(*command, "--xmp", "-o", "x.csv", cwd=tmp_path, EYESPOT_URL=served.url)
    assert code == 0, shown
    assert tree(tmp_path) == before
    for move in (
        "p/sure.png → s/low/class 0/sure.png",
        f"p/2/sure.png → s/low/class 0/{other('sure', grey(CLASS, 1))}",
        "p/3/sure.png → s/low/class 0/sure.png",
        "p/vague.png → s/high/vague.png",
        "p/none.png → s/unsure/none.png",
    ):
        assert f"{move}\r\n" in shown
    assert shown.endswith("Dry run: nothing was written; add --no-dry-run\r\n")
    code, shown = shown_on_terminal(*command, "--no-dry-run", cwd=tmp_path, EYESPOT_URL=served.url)
    assert "p/sure.png → s/low/class 0/sure.png\r\n" in shown
    assert "nothing was written" not in shown
    assert len(tree(tmp_path / "s")) == 4


def test_a_dry_run_can_be_piped(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, {**THREE, "p/\x1b[2J.png": grey(CLASS)})
    done = run("classify", "p", "--sort-into", "s", "--dry-run", cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        "p/?[2J.png → s/low/class 0/?[2J.png",
        "p/none.png → s/unsure/none.png",
        "p/sure.png → s/low/class 0/sure.png",
        "p/vague.png → s/high/vague.png",
    ]
    assert not (tmp_path / "s").exists()


@BOTH
def test_nothing_is_replaced_and_a_second_run_changes_nothing(tmp_path: Path, served: Served, how: list[str]) -> None:
    taken = {"s/low/class 0/a.png": b"mine", "s/low/class 0/b.png": grey(CLASS, 9)}
    photos(tmp_path, {**taken, **{f"p/{number}/a.png": grey(CLASS, number // 2) for number in range(6)}})
    photos(tmp_path, {"p/b.png": grey(CLASS, 9), "p/c.png": grey(CLASS), "p/d.png": grey(CLASS)})
    folder = tmp_path / "s" / "low" / "class 0"
    (folder / "c.png").symlink_to("gone")
    (folder / "d.png").mkdir()
    words = ("classify", "p", "--sort-into", "s", *how)
    assert run(*words, cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
    assert tree(folder) == {
        "a.png": b"mine",
        **{other("a", grey(CLASS, number)): grey(CLASS, number) for number in range(3)},
        "b.png": grey(CLASS, 9),
        other("c", grey(CLASS)): grey(CLASS),
        other("d", grey(CLASS)): grey(CLASS),
    }
    before = inodes(folder)
    for again in (how, [], ["--copy"]):
        done = run("classify", "p", "--sort-into", "s", *again, cwd=tmp_path, EYESPOT_URL=served.url)
        assert (done.returncode, inodes(folder)) == (0, before)


@BOTH
def test_a_run_that_was_killed_is_resumed(tmp_path: Path, how: list[str]) -> None:
    photos(tmp_path, {f"p/{n % 7}/{n // 7}.png": grey((CLASS, GROUP, UNSURE)[n % 3], n) for n in range(70)})
    engine = Hesitant()
    with serve_fake(engine, queue=64, cache_url="memory://") as served:
        words = ("classify", "p", *how, "--url", served.url, "--workers", "2")
        process = subprocess.Popen(
            [EYESPOT, *words, "--sort-into", "s", "-o", "s.jsonl"], cwd=tmp_path, env=environment()
        )
        for _ in range(30):
            assert engine.started.acquire(timeout=30)
        engine.go.clear()
        until(lambda: len((tmp_path / "s.jsonl").read_bytes().splitlines()) > 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        engine.go.set()
        lines = (tmp_path / "s.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "s.jsonl").write_bytes(b"".join(lines[:-3]))  # placed, but not written yet
        assert 10 < len(tree(tmp_path / "s")) < 70
        resumed = run(*words, "--sort-into", "s", "-o", "s.jsonl", "--resume", cwd=tmp_path)
        whole = run(*words, "--sort-into", "whole", cwd=tmp_path)
    assert (resumed.returncode, whole.returncode) == (0, 0)
    assert len(tree(tmp_path / "whole")) == 70
    parts = {name for name in tree(tmp_path / "s") if name.endswith(".part")}  # of a copy that was killed
    assert len(parts) <= 1
    assert {name: data for name, data in tree(tmp_path / "s").items() if name not in parts} == tree(tmp_path / "whole")


def test_what_an_output_has_is_not_sorted_again(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, THREE)
    words = ("classify", "p", "--sort-into", "s", "-o", "found.csv")
    assert run(*words, cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
    (tmp_path / "s/high/vague.png").unlink()
    photos(tmp_path, {"p/new.png": grey(GROUP, 1)})
    assert run(*words, "--resume", cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
    assert set(tree(tmp_path / "s")) == {"low/class 0/sure.png", "high/new.png", "unsure/none.png"}


@BOTH
def test_a_file_that_cannot_be_placed_stops_no_other(tmp_path: Path, served: Served, how: list[str]) -> None:
    photos(tmp_path, {**THREE, "s/low": b"a file", "s/high": b"another"})
    words = ("classify", "p", "--sort-into", "s", "-o", "found.jsonl", *how)
    done = run(*words, cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 1
    verb = "copy" if how else "link"
    told = f"p/sure.png: cannot {verb} it to s/low/class 0/sure.png: not a directory\n"
    assert told in done.stderr
    assert f"p/vague.png: cannot {verb} it to s/high/vague.png: not a directory\n" in done.stderr
    assert "1 recognised, 2 failed (2 not-sorted)" in done.stderr
    assert set(tree(tmp_path / "s")) == {"low", "high", "unsure/none.png"}
    for name in ("low", "high"):
        (tmp_path / "s" / name).unlink()
    assert run(*words, "--resume", cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
    assert len(tree(tmp_path / "s")) == 3


def test_another_disk_needs_copies(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, THREE)
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        done = run("classify", "p", "--sort-into", other, cwd=tmp_path, EYESPOT_URL=served.url)
        assert done.returncode == 1
        assert "high/vague.png: invalid cross-device link; use --copy\n" in done.stderr
        assert tree(Path(other)) == {}
        done = run("classify", "p", "--sort-into", other, "--copy", cwd=tmp_path, EYESPOT_URL=served.url)
        assert done.returncode == 0
        assert len(tree(Path(other))) == 3


def test_a_folder_in_the_searched_one_is_not_searched(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, THREE)
    for _ in range(2):
        done = run("classify", "p", "--sort-into", "p/s", cwd=tmp_path, EYESPOT_URL=served.url)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
        assert done.stderr.startswith("p/s is not searched\n")
    assert len(tree(tmp_path / "p" / "s")) == 3
    (tmp_path / "link").symlink_to("p")
    done = run("classify", "link", "--sort-into", "p/s", cwd=tmp_path, EYESPOT_URL=served.url)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    apart = run("classify", "p", "--sort-into", "s", cwd=tmp_path, EYESPOT_URL=served.url)
    assert "searched" not in apart.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["p", "--sort-into", "p"], "p is in p; choose another folder for --sort-into"),
        (["p/low/a.png", "--sort-into", "link"], "p/low/a.png is in link; choose another folder"),
        (["x.png", "p/low", "--sort-into", "p"], "p/low is in p; choose another folder"),
        (["x.png", "--sort-into", "p/low/a.png"], "'p/low/a.png' is a file"),
        (["x.png", "--copy"], "--copy and --dry-run need --sort-into"),
        (["x.png", "--no-dry-run"], "--copy and --dry-run need --sort-into"),
    ],
)
def test_a_wrong_command_is_refused(tmp_path: Path, served: Served, words: list[str], told: str) -> None:
    photos(tmp_path, {"p/low/a.png": grey(CLASS), "x.png": grey(CLASS)})
    (tmp_path / "link").symlink_to("p")
    before = tree(tmp_path)
    done = run("classify", *words, cwd=tmp_path, EYESPOT_URL=served.url)
    assert done.returncode == 2
    assert told in done.stderr.replace("\n", " ")
    assert tree(tmp_path) == before


def test_keywords_and_folders_go_together(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, {**THREE, "p/vague.png.xmp": b"mine"})
    done = run("classify", "p", "--xmp", "--sort-into", "s", cwd=tmp_path, EYESPOT_URL=served.url)
    assert "vague.png.xmp is not an XMP file" in done.stderr
    assert (tmp_path / "p" / "sure.png.xmp").exists()
    assert set(tree(tmp_path / "s")) == {"low/class 0/sure.png", "high/vague.png", "unsure/none.png"}


def test_the_file_behind_a_link_is_sorted(tmp_path: Path, served: Served) -> None:
    photos(tmp_path, {"elsewhere/1.png": grey(CLASS)})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").symlink_to(Path("..", "elsewhere", "1.png"))
    assert run("classify", "p", "--sort-into", "s", cwd=tmp_path, EYESPOT_URL=served.url).returncode == 0
    placed = tmp_path / "s" / "low" / "class 0" / "a.png"
    assert not placed.is_symlink()
    assert os.path.samefile(placed, tmp_path / "elsewhere" / "1.png")


def cat(path: Path | str, *groups: str, says: str = "cat") -> Finding:
    data = Path(path).read_bytes() if Path(path).exists() else b""
    image = ImageInfo(hashlib.sha256(data).hexdigest(), "JPEG", 1, 1)
    scores = [GroupScore(group, group, 0.95) for group in groups]
    return Finding(str(path), Says("class", "n1", says, 0.9), scores, image=image)


def other(stem: str, data: bytes, suffix: str = ".png") -> str:
    """The name of a file whose own name another has."""
    return f"{stem} ({hashlib.sha256(data).hexdigest()[:8]}){suffix}"


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(NAMES, NAMES)
@example("..", "/etc/cron.d")
@example(".", "")
@example("a/../../b", ".hidden\n")
@example('CON: "x" <y>|*?\\', " \x7f\x9b.")
def test_labels_become_safe_names(group: str, label: str) -> None:
    sorter = Sorter(Path("s"), copy=False, dry_run=True)
    placed = sorter.place(cat("p/a.jpg", group, says=label)).sorted_to
    assert placed
    root, *folders, name = placed.split("/")
    assert (root, len(folders), name) == ("s", 2, "a.jpg")
    for folder in folders:
        assert folder
        assert folder == folder.strip(" .")
        assert not set(folder) & {*map(chr, range(32)), *map(chr, range(127, 160)), *'\\:*?"<>|'}


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_takes_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    photos(tmp_path, {"a.jpg": b"new", "s/cat/b.jpg": b"mine", "b.jpg": b"new"})
    monkeypatch.setattr(os, "link", refuse)
    links, copies = (Sorter(tmp_path / "s", copy=copy, dry_run=False) for copy in (False, True))
    problem = links.place(cat(tmp_path / "a.jpg")).problem
    assert problem
    assert problem.code == "not-sorted"
    assert problem.detail.endswith("; use --copy")
    for name in ("a.jpg", "b.jpg", "a.jpg"):
        assert copies.place(cat(tmp_path / name)).problem is None
    assert tree(tmp_path / "s") == {
        "cat/a.jpg": b"new",
        "cat/b.jpg": b"mine",
        f"cat/{other('b', b'new', '.jpg')}": b"new",
    }


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_a_name_that_is_taken_at_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    photos(tmp_path, {"a.jpg": b"new", "s/cat/a.jpg": b"mine"})
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    placed = Sorter(tmp_path / "s", copy=copy, dry_run=False).place(cat(tmp_path / "a.jpg"))
    expected = {"cat/a.jpg": b"mine", f"cat/{other('a', b'new', '.jpg')}": b"new"}
    assert tree(tmp_path / "s") == (expected if copy or links else {"cat/a.jpg": b"mine"})
    assert bool(placed.problem) is not (copy or links)


def test_a_full_disk_leaves_no_part_of_a_copy(tmp_path: Path) -> None:
    photos(tmp_path, {"a.jpg": bytes(100_000), "b.jpg": b"small"})
    sorter = Sorter(tmp_path / "s", copy=True, dry_run=False)
    with file_size_limit(1000):
        full, small = sorter.place(cat(tmp_path / "a.jpg")), sorter.place(cat(tmp_path / "b.jpg"))
    assert full.problem
    assert full.problem.detail == f"cannot copy it to {tmp_path}/s/cat/a.jpg: file too large"
    assert small.sorted_to == f"{tmp_path}/s/cat/b.jpg"
    assert set(tree(tmp_path / "s")) == {"cat/b.jpg"}


def test_a_file_system_without_permissions_takes_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    photos(tmp_path, {"a.jpg": b"new"})
    os.utime(tmp_path / "a.jpg", (1e9, 1e9))
    monkeypatch.setattr(os, "chmod", refuse)
    placed = Sorter(tmp_path / "s", copy=True, dry_run=False).place(cat(tmp_path / "a.jpg"))
    assert placed.problem is None
    assert (tmp_path / "s" / "cat" / "a.jpg").stat().st_mtime == 1e9


def test_a_copy_has_its_name_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path, {"a.jpg": b"new"})
    seen = []

    def fsync(_: int) -> None:
        seen.append(tree(tmp_path / "s"))

    monkeypatch.setattr(os, "fsync", fsync)
    Sorter(tmp_path / "s", copy=True, dry_run=False).place(cat(tmp_path / "a.jpg"))
    ((name, data),) = seen[0].items()
    assert (name.startswith("cat/."), data) == (True, b"new")
    assert tree(tmp_path / "s") == {"cat/a.jpg": b"new"}
