"""What several test files need: images, servers, and the reasons why a test may be skipped."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from eyespot.vision import export, exporter, weights
from tests.services import which
from tests.serving import EVAL, ROOT, Served, serve_fake, serve_process

# No test watches the clock, nor how long it takes to make up an example.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine lacks, with the reason; under `make test-all` a missing tool is a failure instead.

    What needs nothing but the photographs, which nobody can install, is marked `photographs`: `make test` has run it.
    """
    all_of_it = os.environ.get("REQUIRE_TOOLS") == "1"
    for item in items:
        if {marker.args[0] for marker in item.iter_markers("needs")} == {"eval"}:
            item.add_marker("photographs")
        for marker in item.iter_markers("needs"):
            (what,) = marker.args
            if what == "eval":
                reason = "" if EVAL.exists() else "../shared/eval is not here"
            elif what == "make test-all":
                reason = "" if all_of_it else "make test-all runs it"
            else:
                reason = "" if all_of_it or which(what) or Path(what).is_file() else f"{what} is not installed"
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("EYESPOT_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs in this process configures logging, and later tests would find its level and its stream."""
    loggers = [logging.getLogger(name) for name in (None, "eyespot", "python_multipart")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.fixture(scope="session")
def data_dir(pytestconfig: pytest.Config) -> Path:
    """A data folder with the export of the packaged network; it outlives the run, until the exporting code changes."""
    vision = ROOT / "src" / "eyespot" / "vision"
    names = ("export.py", "exporter.py", "preprocess.py", "crop.py", "resize.py")
    sources = [*(vision / name for name in names), *sorted((vision / "engines").glob("*.py")), export.SAMPLE]
    code = b"".join(path.read_bytes() for path in sources)
    folder = pytestconfig.cache.mkdir(f"data-{hashlib.sha256(code).hexdigest()[:12]}")
    entry = weights.read_manifest(ROOT / "weights" / "manifest.toml")["efficientnet-lite0"]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes makes it, the others wait
        if not export.find(entry, 1000, "openvino", [folder / "exports"]):
            exporter.make(entry, 1000, folder / "exports")
    return folder


@pytest.fixture(scope="session")
def packaged(data_dir: Path) -> dict[str, str]:
    """The settings that choose the network whose weights come in a package, exported already.

    In float32, whatever this processor has, since the tests and the documents know its answers.
    """
    return {"EYESPOT_MODEL": "efficientnet-lite0", "EYESPOT_DATA_DIR": str(data_dir), "EYESPOT_PRECISION": "f32"}


@pytest.fixture(scope="session")
def server(packaged: dict[str, str]) -> Iterator[Served]:
    """`eyespot serve` with the network whose weights come in a package."""
    with serve_process(**packaged) as served:
        yield served


@pytest.fixture(scope="module")
def fake() -> Iterator[Served]:
    """The app around a fake engine."""
    with serve_fake() as served:
        yield served


@pytest.fixture(scope="session")
def eval_server(data_dir: Path) -> Iterator[Served]:
    """`eyespot serve` with the real ResNet-18 of ../shared/eval, in OpenVINO even where ncnn is faster."""
    environment = {"EYESPOT_MANIFEST": str(EVAL / "manifest.toml"), "EYESPOT_MODEL": "resnet18-eval"}
    environment |= {"EYESPOT_ENGINE": "openvino", "EYESPOT_PRECISION": "f32"}
    with serve_process(**environment, EYESPOT_DATA_DIR=str(data_dir)) as served:
        yield served
