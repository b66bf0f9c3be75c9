"""What a wheel holds: installed elsewhere, in an empty folder, it serves and classifies."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests import makers
from tests.serving import ROOT, environment, serve_process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True)
    return next(folder.glob("eyespot-*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a virtual environment with the wheel in it; what the wheel needs is borrowed from this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    # A path in a .pth file does not have its own .pth files read, so the editable install there is not seen.
    (borrowed,) = (folder / "venv").glob("lib/python*/site-packages")
    (borrowed / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin" / "eyespot"


def test_it_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    content = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[2] for name in content if "/licenses/" in name} == {"LICENSE", "LICENSE-WordNet"}
    names = {name for name in content if ".dist-info/" not in name}
    package = {f"eyespot/{path.relative_to(ROOT / 'src/eyespot')}" for path in (ROOT / "src/eyespot").rglob("*.*")}
    package = {name for name in package if "__pycache__" not in name}
    assert names == package | {"eyespot/weights/manifest.toml", "eyespot/labels/imagenet1k.json"}


def test_it_is_the_wheel_that_runs(elsewhere: Path, tmp_path: Path) -> None:
    python = elsewhere.with_name("python")
    script = "import eyespot; print(eyespot.__file__)"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(done.stdout).is_relative_to(elsewhere.parents[1])


def test_it_lists_the_weights(elsewhere: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [elsewhere, "weights", "list"], env=environment(), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "resnet18" in done.stdout
    assert "efficientnet-lite0" in done.stdout


def test_it_classifies(elsewhere: Path, packaged: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").write_bytes(makers.jpeg("coffee"))
    done = subprocess.run(
        [elsewhere, "classify", "coffee.jpg"],
        env=environment(**packaged),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "espresso" in done.stdout


def test_it_serves(elsewhere: Path, packaged: dict[str, str]) -> None:
    with serve_process(elsewhere, EYESPOT_MANIFEST="", **packaged) as served, served.client() as client:
        answer = client.put("/predict", content=makers.jpeg("coffee")).json()
        assert answer["predictions"][0]["label"] == "espresso"
        assert "<title" in client.get("/").text
        assert client.get("/docs").status_code == 200
        assert client.get("/static/samples/coffee.jpg").status_code == 200
        assert client.get("/static/swagger/swagger-ui.css").status_code == 200
        assert len(client.get("/labels").json()) == 1000


PROGRAM = """\
from eyespot import AsyncClient, Client, ImageSource, Overloaded, Recognition, Refusal, ServerUnavailable


def label(client: Client, image: ImageSource) -> str:
    try:
        return client.predict(image, top_k=1, shrink=False).predictions[0].label
    except Overloaded as error:
        after: int | None = error.retry_after
        return f"{after} {error.status + 1} {error.code.upper()} {error.request_id}"
    except ServerUnavailable as error:
        return str(error.status)


async def widths(images: list[str]) -> list[int]:
    async with AsyncClient("http://localhost:8000", headers={"X-Tenant": "a"}, verify="ca.pem") as client:
        batch = await client.predict_batch(images, lang="zh")
        many = [outcome async for outcome in client.predict_many(images, concurrency=2, top_k=1)]
    return [outcome.image.width for outcome in batch + many if isinstance(outcome, Recognition)]


def codes(client: Client, images: list[str]) -> list[str]:
    return [outcome.code for outcome in client.predict_batch(images) if isinstance(outcome, Refusal)]
"""
MISTAKES = [
    "Client().predict(3)",
    "Client().predict('cat.jpg', topk=3)",
    "Client().predict('cat.jpg').confidence",
    "Client().predict_batch(['cat.jpg'], top_k='3')",
    "Client(http_client=3)",
]


@pytest.mark.needs("make test-all")
def test_a_foreign_project_has_its_types(elsewhere: Path, tmp_path: Path) -> None:
    lines = [*PROGRAM.splitlines(), "", "", *MISTAKES]
    (tmp_path / "program.py").write_text("\n".join(lines) + "\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", elsewhere.with_name("python")]
    done = subprocess.run([*mypy, "program.py"], capture_output=True, text=True, cwd=tmp_path)
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}
    assert wrong == {number for number, line in enumerate(lines, 1) if line in MISTAKES}, done.stdout
