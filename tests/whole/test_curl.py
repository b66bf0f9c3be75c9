"""The real curl, in the ways that people use it."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import makers
from tests.serving import Served

pytestmark = pytest.mark.needs("curl")
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curl")
    (folder / "cat.jpg").write_bytes(makers.jpeg())
    (folder / "cat.png").write_bytes(makers.encode(makers.photograph(), "PNG"))
    (folder / "large.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 6 * 1024 * 1024)
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 60 * 1024 * 1024)
    (folder / "text.jpg").write_text("hello")
    return folder


def curl(folder: Path, *words: str) -> tuple[int, dict[str, object]]:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), json.loads(body)


@pytest.mark.parametrize(
    "words",
    [
        ["-F", "file=@cat.jpg"],
        ["-F", "image=@cat.jpg;type=application/octet-stream"],
        ["-F", "file=@cat.jpg", "-F", "top_k=2"],
        ["-T", "cat.jpg"],
        ["--data-binary", "@cat.jpg"],
        ["--data-binary", "@cat.jpg", "-H", "Content-Type: image/jpeg"],
        ["--data-binary", "@cat.jpg", "-H", "Content-Type:"],
        ["--data-binary", "@cat.jpg", "-H", "Transfer-Encoding: chunked"],
        ["-T", "cat.jpg", "-H", "Expect: 100-continue"],
    ],
)
def test_a_cat_is_a_cat(server: Served, folder: Path, words: list[str]) -> None:
    status, reply = curl(folder, *words, f"{server.url}/predict")
    assert status == 200, reply
    assert reply["predictions"][0]["label"] in CATS  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["-F", "file=@large.jpg"], 413, "body-too-large"),
        (["-T", "large.jpg"], 413, "image-too-large"),
        (["--data-binary", "@huge.jpg"], 413, "image-too-large"),
        (["--data-binary", "@huge.jpg", "-H", "Expect:"], 413, "image-too-large"),
        (["-T", "huge.jpg", "-H", "Transfer-Encoding: chunked"], 413, "image-too-large"),
        (["-F", "file=@huge.jpg", "-H", "Expect:"], 413, "body-too-large"),
        (["-F", "file=@text.jpg"], 415, "unsupported-format"),
        (["-F", "file=cat.jpg"], 400, "no-image"),
        (["-d", "image=cat.jpg"], 415, "unsupported-body"),
        (["-d", "@cat.jpg"], 422, "broken-image"),
        (["-d", "@cat.png"], 422, "broken-image"),
        (["-X", "POST"], 400, "no-image"),
        (["-X", "DELETE"], 405, "method-not-allowed"),
    ],
)
def test_a_refusal_reaches_curl(server: Served, folder: Path, words: list[str], status: int, code: str) -> None:
    answered, problem = curl(folder, *words, f"{server.url}/predict")
    assert (answered, problem["code"]) == (status, code)
    assert code != "broken-image" or "use -T" in str(problem["detail"])
