"""What a server, or the model on this machine, says of itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Served, run, serve_fake


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake() as served:
        yield served


def test_health(served: Served, tmp_path: Path) -> None:
    ready = run("health", "--url", served.url, cwd=tmp_path)
    assert ready.returncode == 0
    assert f"{served.url} is ready" in ready.stdout
    assert "golden image" in ready.stdout
    assert json.loads(run("health", "--json", cwd=tmp_path, EYESPOT_URL=served.url).stdout)["ready"] is True
    named = run("health", "--url", served.url.replace("://", "://me:secret@"), cwd=tmp_path)
    assert named.stdout == ready.stdout
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
    assert labels[281] == " 281 n02123045 tabby (cat, mammal, animal)"
    (chinese,) = run("labels", "浓缩", "--lang", "zh", cwd=tmp_path, **settings).stdout.splitlines()
    assert chinese == " 967 n07920052 浓缩咖啡 (饮料, 食物或饮料)"


def test_model_and_labels_as_json(tmp_path: Path, served: Served) -> None:
    settings = {"EYESPOT_URL": served.url}
    assert json.loads(run("model", "--json", cwd=tmp_path, **settings).stdout)["classes"] == 10
    assert [
        row["class_id"] for row in json.loads(run("labels", "--json", "class 7", cwd=tmp_path, **settings).stdout)
    ] == [7]
    none = run("labels", "zzzz", cwd=tmp_path, **settings)
    assert (none.returncode, none.stdout, none.stderr) == (
        1,
        "",
        "no class matches 'zzzz'\n",
    )
