"""The image, built, run and stopped for real by deploy/rehearse.sh, with the network cut off; and what is not built."""

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.serving import ROOT, serve_files

TOOLS = ("debootstrap", "buildah", "podman", "runc", "podman-compose", "curl")
pytestmark = [pytest.mark.needs(tool) for tool in ("make test-all", *TOOLS)]


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """Where the script keeps its base image, for all tests of this file."""
    folder = Path(tempfile.mkdtemp(prefix="eyespot-rehearsal-", dir="/var/tmp"))
    yield folder
    rehearse(folder, "clean")


def rehearse(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["deploy/rehearse.sh", *words],
        cwd=ROOT,
        env={**os.environ, "WORK": str(work)},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def test_it_is_built_run_and_stopped_with_no_network(work: Path) -> None:
    done = rehearse(work)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    assert done.stdout.count('"class_id": 967') == 3  # without a network, by `classify`, through compose
    assert ", 0 lost" in done.stdout


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A weight file of a ResNet-18 that has learnt nothing."""
    path = tmp_path_factory.mktemp("network") / "net.pth"
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, network: bytes) -> Iterator[str]:
    """`/right.pth` is the file of the manifest, `/wrong.pth` one of the same size; there is nothing else."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "right.pth").write_bytes(network)
    (folder / "wrong.pth").write_bytes(network[:-1] + b"?")
    with serve_files(partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))) as url:
        yield url


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, network: bytes) -> Path:
    """The project as somebody with a strict umask has it, with that network under the name of the official one."""
    folder = tmp_path_factory.mktemp("checkout") / "eyespot"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "exports", "data", "*.pth")
    shutil.copytree(ROOT, folder, ignore=left_out)
    shutil.copy(ROOT / ".dockerignore", folder)
    manifest = folder / "weights" / "manifest.toml"
    text = manifest.read_text()
    text = re.sub('sha256 = "f37072fd.*"', f'sha256 = "{hashlib.sha256(network).hexdigest()}"', text)
    manifest.write_text(text.replace("bytes = 46830571", f"bytes = {len(network)}"))
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def fetch_in_build(work: Path, checkout: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Only the stage that obtains the weights."""
    options = ("--layers", "--target", "weights", "--build-arg", f"WEIGHTS_URL={url}")
    return rehearse(work, "build", str(checkout), *options)


@pytest.mark.parametrize(
    ("path", "told"), [("/wrong.pth", "has sha256"), ("/gone.pth", "answered 404"), (None, "refused")]
)
def test_without_the_right_weights_there_is_no_image(
    work: Path, checkout: Path, mirror: str, path: str | None, told: str
) -> None:
    done = fetch_in_build(work, checkout, f"{mirror}{path}" if path else "http://127.0.0.1:9/none.pth")
    assert done.returncode != 0
    assert re.search(f"^eyespot: .*{told}", done.stderr, re.MULTILINE), done.stderr


def test_weights_that_are_there_are_taken_and_checked(work: Path, checkout: Path, network: bytes) -> None:
    file = checkout / "weights" / "resnet18-f37072fd.pth"
    nowhere = "http://127.0.0.1:9/none.pth"
    try:
        file.write_bytes(network)
        assert fetch_in_build(work, checkout, nowhere).returncode == 0
        file.write_bytes(network[:-1] + b"?")
        done = fetch_in_build(work, checkout, nowhere)
        assert done.returncode != 0
        assert "has sha256" in done.stderr
    finally:
        file.unlink()


def test_the_right_weights_make_an_image_that_holds_them_and_their_export(
    work: Path, checkout: Path, mirror: str
) -> None:
    """The strict build from beginning to end, under 600 MB with a ResNet-18 inside."""
    tag = "localhost/eyespot:strict"
    built = rehearse(work, "build", str(checkout), "--tag", tag, "--build-arg", f"WEIGHTS_URL={mirror}/right.pth")
    assert built.returncode == 0, built.stdout + built.stderr
    ran = rehearse(work, "run", tag)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(ran.stdout)
    assert '"name": "resnet18"' in ran.stdout
