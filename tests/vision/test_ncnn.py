"""The engine ncnn, on a network small enough to write by hand; tests of all engines run real ones on it."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eyespot.errors import EngineUnavailable, ExportRefused
from eyespot.vision import engines, exporter, weights
from eyespot.vision.engines import Engine, Threads
from tests.serving import ROOT

HEAD, BIAS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32), np.float32([0, 1, 2, 3])
NETWORK = """\
7767517
4 5
Input         input  0 1 in0
Split         split  1 2 in0 out1 planes
Pooling       pool   1 1 planes pooled 0=1 4=1
InnerProduct  head   1 1 pooled out0 0=4 1=1 2=12
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The export of a network whose features are the pixels, and whose head is HEAD and BIAS."""
    (tmp_path / "model.param").write_text(NETWORK)
    (tmp_path / "model.bin").write_bytes(bytes(4) + HEAD.tobytes() + BIAS.tobytes())
    return tmp_path


def load(folder: Path, latency_threads: int = 2) -> Engine:
    return engines.load("ncnn", folder, Threads(2, 1, latency_threads))


@pytest.mark.parametrize("latency_threads", [1, 2])
def test_several_threads_get_the_answers_of_their_own_images(folder: Path, latency_threads: int) -> None:
    engine = load(folder, latency_threads)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8, 3), dtype=np.uint8)

    def check(number: int) -> None:
        batch = images[number]
        logits, maps = engine.infer(batch, features=number % 3 == 0, exclusive=number % 2 == 0)
        np.testing.assert_allclose(logits, batch.mean((1, 2)) @ HEAD.T + BIAS, rtol=1e-5)
        assert (maps is None) == (number % 3 != 0)
        if maps is not None:
            np.testing.assert_array_equal(maps, batch.transpose(0, 3, 1, 2))

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(check, range(len(images))))


def test_pixels_need_not_be_contiguous(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 3), dtype=np.uint8)[:, :, ::2]
    np.testing.assert_allclose(load(folder).infer(image)[0], image.mean((1, 2)) @ HEAD.T + BIAS, rtol=1e-5)


@pytest.mark.parametrize("param", [NETWORK.replace("Pooling", "Guessing"), NETWORK[:20], ""])
def test_a_network_that_ncnn_cannot_load_is_an_error_with_a_remedy(folder: Path, param: str) -> None:
    (folder / "model.param").write_text(param)
    with pytest.raises(EngineUnavailable, match=r"^ncnn cannot load this model; set EYESPOT_ENGINE=openvino$"):
        load(folder)


def test_weights_that_end_too_early_are_an_error(folder: Path) -> None:
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:40])
    with pytest.raises(EngineUnavailable, match="ncnn cannot load"):
        load(folder)


def test_an_output_that_cannot_be_computed_is_an_error(folder: Path) -> None:
    (folder / "model.param").write_text(NETWORK.replace("out1", "other"))
    engine = load(folder)
    engine.infer(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(RuntimeError, match="out1"):
        engine.infer(np.zeros((1, 8, 8, 3), np.uint8), features=True)


def test_without_its_library_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    monkeypatch.delitem(sys.modules, "eyespot.vision.engines.ncnn", raising=False)
    with pytest.raises(EngineUnavailable, match=r"^the engine ncnn needs `pip install eyespot`: import of ncnn"):
        load(folder)


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", r"could not be exported: pnnx cannot convert this model: exit status 3$"),
        ("echo 7767517 > model.param; : > model.bin", "could not be exported: ncnn cannot load this model"),
    ],
)
def test_a_failed_conversion_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    """By another pnnx, which is found first."""
    (tmp_path / "pnnx.py").write_text(f"EXEC_PATH = {str(tmp_path / 'program')!r}")
    (tmp_path / "program").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    entry = weights.read_manifest(ROOT / "weights" / "manifest.toml")["efficientnet-lite0"]
    with pytest.raises(ExportRefused, match=told):
        exporter.make(entry, 1000, tmp_path / "exports", "ncnn")
    assert list((tmp_path / "exports").iterdir()) == []
