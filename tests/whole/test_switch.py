"""Ten switches between two real models under load: no request is lost, and no memory either."""

import itertools
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests import makers
from tests.serving import ROOT, Served, serve_process, until
from tests.whole.test_docs import same
from tests.whole.test_memory import memory

pytestmark = pytest.mark.needs("make test-all")

ADMIN = {"X-API-Key": "open-sesame"}
Answered = tuple[int, str, set[str]]
LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
OWN = ["daisy", "rose", "tulip"]
ENTRY = """
[own]
architecture = "resnet18"
file = "own.pth"
sha256 = "{digest}"
bytes = {size}
labels = "own"
license = "none"
recipe = {{ resize = 256, crop = 224, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""


def write_own(folder: Path, seed: int) -> str:
    """A ResNet-18 of random weights and three classes, before the packaged model in a manifest; its digest."""
    import torch
    import torchvision

    torch.manual_seed(seed)
    torch.save(torchvision.models.resnet18(num_classes=len(OWN)).state_dict(), folder / "own.pth")
    digest = sha256((folder / "own.pth").read_bytes()).hexdigest()
    packaged = (ROOT / "weights" / "manifest.toml").read_text()
    entry = ENTRY.format(digest=digest, size=(folder / "own.pth").stat().st_size)
    (folder / "manifest.toml").write_text(entry + packaged)
    (folder / "own.json").write_text(
        json.dumps([{"class_id": number, "wnid": "", "label": name} for number, name in enumerate(OWN)])
    )
    return digest


@pytest.fixture(scope="module")
def folder(packaged: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a manifest, and the packaged model's export."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "exports").symlink_to(Path(packaged["EYESPOT_DATA_DIR"]) / "exports")
    write_own(folder, 0)
    return folder


@pytest.fixture
def served(packaged: dict[str, str], folder: Path) -> Iterator[Served]:
    with serve_process(**{**packaged, **settings(folder)}) as served:
        yield served


def settings(folder: Path) -> dict[str, str]:
    where = {"EYESPOT_MANIFEST": str(folder / "manifest.toml"), "EYESPOT_DATA_DIR": str(folder / "data")}
    where["EYESPOT_ENGINE"] = "openvino"  # one export fewer to make, for ncnn
    return {**where, "EYESPOT_API_KEYS": "me:open-sesame:admin", "EYESPOT_QUEUE": "100"}


def events(served: Served) -> list[str]:
    return [event["event"] for event in served.events]


def switch(client: httpx.Client, name: str) -> httpx.Response:
    return client.post("/admin/model", json={"name": name}, timeout=300)


def ask(served: Served, thread: int, stop: threading.Event, answers: list[Answered]) -> None:
    """Status, digest and labels of one answer after another; each image comes twice, to be computed and remembered."""
    with served.client(headers=ADMIN) as client:
        for number in itertools.count():
            if stop.is_set():
                return
            reply = client.post("/predict", content=makers.jpeg() + f"{thread}, {number // 2}".encode())
            answer = reply.json()
            labels = {row["label"] for row in answer.get("predictions", ())}
            answers.append((reply.status_code, answer.get("model", {}).get("digest"), labels))


def wait_for(digest: str, answers: list[Answered]) -> None:
    seen = len(answers)
    until(lambda: [found for _, found, _ in answers[seen:]].count(digest) >= 10)


def test_ten_switches_under_load_lose_no_request_and_no_memory(served: Served) -> None:
    stop, resident = threading.Event(), []
    answers: list[Answered] = []
    with ThreadPoolExecutor(4) as callers, served.client(headers=ADMIN) as client:
        imagenet = {row["label"] for row in client.get("/labels").json()}
        assert switch(client, "own").status_code == 200  # which exports it
        clients = [callers.submit(ask, served, thread, stop, answers) for thread in range(4)]
        try:
            for name in ("efficientnet-lite0", "own") * 5:
                wait_for(switch(client, name).json()["digest"], answers)
                resident.append(memory(served, "VmRSS"))
        finally:
            stop.set()
        for each in clients:
            each.result()
    assert {status for status, _, _ in answers} == {200}
    assert all(labels <= (imagenet if digest == LITE0 else set(OWN)) for _, digest, labels in answers)
    assert resident[9] - resident[1] < 100  # MB; each model takes 40 to 60
    assert events(served).count("model_switched") == 11


def test_a_hangup_takes_what_is_in_the_manifest_now_and_keeps_the_model_if_that_is_broken(
    served: Served, folder: Path
) -> None:
    def hang_up(event: str) -> None:
        before = events(served).count(event)
        assert served.process
        served.process.send_signal(signal.SIGHUP)
        until(lambda: events(served).count(event) > before)

    with served.client(headers=ADMIN) as client:
        before = switch(client, "own").json()["digest"]
        after = write_own(folder, 1)
        hang_up("model_switched")
        assert client.get("/model").json()["digest"] == after != before
        (folder / "own.json").write_text("[]")
        hang_up("model_switch_failed")
        refused = switch(client, "own")
        assert (refused.status_code, refused.json()["code"]) == (409, "model-unavailable")
        assert "own.json" in refused.json()["detail"]
        assert client.post("/predict", content=makers.jpeg()).json()["model"]["digest"] == after
        write_own(folder, 0)


def test_a_model_that_fails_its_proof_does_not_serve(served: Served, folder: Path) -> None:
    """Torch found another class in the golden image than its export does now."""
    with served.client(headers=ADMIN) as client:
        digest = switch(client, "own").json()["digest"]
        assert switch(client, "efficientnet-lite0").status_code == 200
        (path,) = [path for path in folder.glob("data/exports/*/*.json") if digest in path.read_text()]
        record = json.loads(path.read_text())
        record["golden"] = [[(record["golden"][0][0] + 1) % 3, 1]]
        path.write_text(json.dumps(record))
        refused = switch(client, "own")
        assert refused.status_code == 409
        assert "the golden image shows" in refused.json()["detail"]
        assert client.get("/model").json()["digest"] == LITE0


def test_a_stop_does_not_wait_for_the_export_of_another_model(packaged: dict[str, str], tmp_path: Path) -> None:
    """It is `auto`'s first choice, whose weights come while the packaged one stands in."""
    (tmp_path / "exports").symlink_to(Path(packaged["EYESPOT_DATA_DIR"]) / "exports")
    write_own(tmp_path, 2)
    weights = (tmp_path / "own.pth").rename(tmp_path / "away")
    auto = {"EYESPOT_MODEL": "auto", "EYESPOT_DRAIN_SECONDS": "0"}
    with serve_process(**{**packaged, **settings(tmp_path), **auto}) as served:
        assert served.process
        assert "stand_in_used" in events(served)
        weights.rename(tmp_path / "own.pth")
        served.process.send_signal(signal.SIGHUP)
        until(lambda: "export_started" in events(served))
        served.process.terminate()
        assert served.process.wait(60) == 0
    assert events(served)[-1] == "server_stopped"
    assert "export_made" not in events(served)


@pytest.mark.needs("curl")
def test_the_example_of_the_manual_is_true(served: Served) -> None:
    _, _, section = (ROOT / "openapi.md").read_text().partition("\n## Switch the model\n")
    command, _, reply = section.partition("```console\n$ ")[2].partition("\n```")[0].partition("\n")
    script = command.replace("localhost:8000", served.url.removeprefix("http://"))
    done = subprocess.run(["sh", "-c", f"{script} --silent"], capture_output=True, text=True, timeout=60)
    same(f"{reply}\n", done.stdout)
