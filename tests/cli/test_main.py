"""The command line, as a person types it."""

import hashlib
import http.server
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import skimage

import eyespot
from eyespot.settings import Settings, variable
from tests.manifests import CONTENT, ENTRY, PACKAGED, PUBLISHED, SHA256
from tests.serving import EYESPOT, ROOT, environment, run, serve_files, shown_on_terminal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "manifest.toml").write_text(f"[net]{ENTRY}\n[packaged]{PACKAGED}")
    return tmp_path


def test_version(tmp_path: Path) -> None:
    """By the installed command; the other tests fork it from a process that has imported its libraries."""
    done = subprocess.run([EYESPOT, "--version"], env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"eyespot {eyespot.__version__}\n")
    forked = run("--version", cwd=tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help"], ["serve", "classify", "health", "model", "labels", "weights", "bench", "audit", "EYESPOT_"]),
        (["-h"], ["serve", "classify"]),
        (["serve", "-h"], ["SIGTERM", *map(variable, Settings.model_fields)]),
        (["classify", "--help"], ["Example", "--top-k", "--resume", "--xmp", "EYESPOT_URL"]),
        (["health", "--help"], ["Example", "exit code"]),
        (["model", "--help"], ["Example", "--json"]),
        (["labels", "--help"], ["Example", "--json"]),
        (["weights", "--help"], ["list", "verify", "fetch"]),
        (["weights", "fetch", "--help"], ["--from", "--url", "HTTPS_PROXY", "Examples"]),
    ],
)
def test_help_teaches(tmp_path: Path, words: list[str], told: list[str]) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0
    for word in told:
        assert word in done.stdout
    assert "<bool>" not in done.stdout  # a flag takes no value


def test_weights_list(folder: Path) -> None:
    done = run("weights", "list", cwd=folder, COLUMNS="80")
    assert done.returncode == 0
    table, _, paths = done.stdout.partition("\n\n")
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["net", "0.3", "MiB", "unknown", "none", "missing"],
        ["packaged", "0.3", "MiB", "unknown", "none", "present"],
    ]
    assert paths == f"packaged: {skimage.__file__}\n`eyespot weights fetch MODEL` downloads missing ones.\n"


def test_weights_list_of_the_package_from_any_folder(tmp_path: Path) -> None:
    done = run("weights", "list", cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0
    lines = done.stdout.partition("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 80
    rows = [re.split(" {2,}", line.strip()) for line in lines]
    assert rows[0] == ["model", "size", "top-1", "licence", "weights"]
    assert rows[1][:4] == ["resnet18", "44.7 MiB", "69.8 %", "BSD-3-Clause"]
    assert len(rows) > 30
    assert {len(row) for row in rows} == {5}
    assert {row[4] for row in rows[1:]} == {"present", "missing"}


def test_weights_fetch_verify_and_fetch_again(folder: Path) -> None:
    copy = folder / "copy.pth"
    copy.write_bytes(CONTENT)
    fetched = run("weights", "fetch", "--from", str(copy), cwd=folder)
    assert fetched.returncode == 0, fetched.stderr
    assert hashlib.sha256((folder / "weights" / "net.pth").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    assert run("weights", "verify", "net", cwd=folder).returncode == 0
    again = run("weights", "fetch", "--url", "http://127.0.0.1:9/net.pth", cwd=folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "net: weights/net.pth is correct; nothing to fetch\n"


def test_weights_of_which_a_prefix_is_known_are_pinned_when_they_are_fetched(folder: Path) -> None:
    (folder / "weights" / "manifest.toml").write_text(f"[net]{PUBLISHED}")
    (folder / "copy.pth").write_bytes(CONTENT)
    fetched = run("weights", "fetch", "net", "--from", "copy.pth", cwd=folder)
    assert (fetched.returncode, fetched.stdout) == (0, "net: weights/net.pth is correct\n")
    assert (folder / "weights" / "net.pth.sha256").read_text() == f"{SHA256}  net.pth\n"


def test_wrong_weights_are_fetched_again(folder: Path) -> None:
    (folder / "copy.pth").write_bytes(CONTENT)
    (folder / "weights" / "net.pth").write_bytes(b"x" + CONTENT[1:])
    gone = run("weights", "fetch", "--from", "gone.pth", cwd=folder)
    assert gone.returncode == 2
    assert (folder / "weights" / "net.pth").read_bytes() == b"x" + CONTENT[1:]
    fetched = run("weights", "fetch", "--from", "copy.pth", cwd=folder)
    assert (fetched.returncode, fetched.stdout) == (0, "net: weights/net.pth is correct\n")
    assert "weights/net.pth has sha256" in fetched.stderr
    assert (folder / "weights" / "net.pth").read_bytes() == CONTENT


def test_only_a_terminal_shows_progress(folder: Path) -> None:
    def handler(*args: Any) -> http.server.SimpleHTTPRequestHandler:
        return Quiet(*args, directory=str(folder))

    (folder / "copy.pth").write_bytes(CONTENT)
    with serve_files(handler) as url:
        words = ("weights", "fetch", "--url", f"{url}/copy.pth")
        quiet = run(*words, cwd=folder)
        assert (quiet.returncode, quiet.stderr) == (0, "")
        (folder / "weights" / "net.pth").unlink()
        code, shown = shown_on_terminal(str(EYESPOT), *words, cwd=folder)
    assert code == 0
    assert "307.2/307.2 kB" in shown


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["weights", "verify", "net"], "are missing"),
        (["weights", "verify", "packaged"], "packaged"),
        (["weights", "verify", "other"], "unknown model 'other'; `eyespot weights list` shows all"),
        (["weights", "fetch", "nett"], "unknown model 'nett'; did you mean net? `eyespot weights list` shows all"),
        (["weights", "fetch"], "--url"),
        (["weights", "fetch", "packaged"], "packaged"),
        (["weights", "fetch", "net", "--from", "gone.pth"], "gone.pth"),
        (["weights", "fetch", "net", "--url", "http://127.0.0.1:9/net.pth"], "127.0.0.1:9/net.pth: connection refused"),
        (["classify", "cat.jpg"], "packaged"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(folder: Path, words: list[str], told: str) -> None:
    done = run(*words, cwd=folder)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("eyespot: ")]
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("serve --port 9000", "settings are environment variables: EYESPOT_PORT=9000 eyespot serve"),
        (
            "serve --host=:: --model",
            "settings are environment variables: EYESPOT_HOST=:: EYESPOT_MODEL=VALUE eyespot serve",
        ),
        (
            "serve --port --host x",
            "settings are environment variables: EYESPOT_PORT=VALUE EYESPOT_HOST=x eyespot serve",
        ),
        ("serve 9000", "settings are environment variables: EYESPOT_PORT=9000 eyespot serve"),
        ("serve -p 9000", "settings are environment variables: EYESPOT_PORT=9000 eyespot serve"),
        ("start --port 9000", "start is not a command; did you mean `EYESPOT_PORT=9000 eyespot serve`?"),
        (
            "classify 'a b.jpg' --model resnet18 -k 3",
            "settings are environment variables: EYESPOT_MODEL=resnet18 eyespot classify 'a b.jpg' -k 3",
        ),
        ("predict x --engine=onnx", "predict is not a command; did you mean `EYESPOT_ENGINE=onnx eyespot classify x`?"),
        ("help", "help is not a command; did you mean `eyespot --help`?"),
        ("help classify", "help is not a command; did you mean `eyespot classify --help`?"),
        ("photos -o x.csv", "photos is not a command; did you mean `eyespot classify photos -o x.csv`?"),
        ("--max-bytes 9 serve", "settings are environment variables: EYESPOT_MAX_BYTES=9 eyespot serve"),
        ("--serve", "--serve is not a command; did you mean `eyespot serve`?"),
        ("run", "run is not a command; did you mean `eyespot serve`?"),
        ("predict 'a b.jpg' -k 3", "predict is not a command; did you mean `eyespot classify 'a b.jpg' -k 3`?"),
        ("CAT.JPG b.png", "CAT.JPG is not a command; did you mean `eyespot classify CAT.JPG b.png`?"),
        ("photos/", "photos/ is not a command; did you mean `eyespot classify photos/`?"),
        ("fetch resnet18", "fetch is not a command; did you mean `eyespot weights fetch resnet18`?"),
        ("version", "version is not a command; did you mean `eyespot --version`?"),
    ],
)
def test_a_likely_mistake_gets_its_remedy(tmp_path: Path, typed: str, told: str) -> None:
    (tmp_path / "photos").mkdir()
    done = run(*shlex.split(typed), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"eyespot: {told}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["classify", "--formats", "csv", "x"], "No such option: --formats"),
        (["--url=http://h", "health"], "No such option: --url"),
        (["clasify", "x", "--workers", "4"], "No such command 'clasify'"),
        (["serve", "--unknown", "5"], "No such option: --unknown"),
        (["weights", "list", "x"], "unexpected extra argument"),
    ],
)
def test_another_mistake_is_left_to_the_options(tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "weights").mkdir()  # a folder named as a command is
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def test_what_the_settings_name_wrongly_is_told_with_the_setting(folder: Path) -> None:
    model = run("classify", "cat.jpg", cwd=folder, EYESPOT_MODEL="zzz")
    assert model.stderr == "eyespot: unknown model 'zzz'; `eyespot weights list` shows all\n"
    manifest = run("weights", "list", cwd=folder, EYESPOT_MANIFEST="/nope")
    told = "cannot read the manifest /nope (EYESPOT_MANIFEST): No such file or directory"
    assert (manifest.returncode, manifest.stderr) == (2, f"eyespot: {told}\n")


def test_a_stream_that_is_closed_is_as_one_to_nowhere(folder: Path) -> None:
    script = f"{EYESPOT} weights list >&- 2>&- && {EYESPOT} audit export >&-"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(EYESPOT_DATA_DIR="."), capture_output=True, text=True, cwd=folder
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_sample_image_travels_with_the_package() -> None:
    assert (ROOT / "src" / "eyespot" / "sample.jpg").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("eyespot cla", "classify"), ("eyespot classify --form", "--format"), ("eyespot classify --format cs", "csv")],
)
def test_the_shell_completes_words(tmp_path: Path, typed: str, completed: str) -> None:
    words = str(len(typed.split()) - 1)
    settings = {"_EYESPOT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": words}
    assert completed in run(cwd=tmp_path, **settings).stdout.split()


def test_completion_can_be_installed(tmp_path: Path) -> None:
    script = f"{EYESPOT} --show-completion; exit $?"  # it looks for the shell that it was started from
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert "_EYESPOT_COMPLETE" in done.stdout, done.stderr
