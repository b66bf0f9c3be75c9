"""deploy/ray on a real cluster of two nodes. `make test-all` installs Ray into `.venv/ray`."""

import base64
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.dataset
import pytest
from pyarrow import parquet

from eyespot.vision.export import SAMPLE
from tests import makers
from tests.services import free_port
from tests.serving import ROOT, environment, run, until

pytestmark = pytest.mark.needs("make test-all")
PYTHON = ROOT / ".venv" / "ray" / "bin" / "python"
JOB = ROOT / "deploy" / "ray" / "classify.py"
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

# Does what it is told on standard input, and answers with a line.
CLUSTER = """
import sys
import ray
from ray import serve
from ray.cluster_utils import Cluster
from app import app

node = {"num_cpus": 1, "object_store_memory": 100_000_000}
head = {**node, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
second = cluster.add_node(**node)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "kill\\n":
        cluster.remove_node(second, allow_graceful=False)
    else:
        serve.start(http_options={"port": int(line)})
        serve.run(app({}))
    print("done", flush=True)
serve.shutdown()
ray.shutdown()
cluster.shutdown()
"""

OTHER_MODEL = """
from classify import Job, Options, Partition, load_settings
job = Job(None, None, load_settings(), Options(top_k=3, min_confidence=0, lang="en"), "another")
print(Partition(job)({"partition": 0})["error"])
"""
REFUSED = "no-image", "unsupported-format", "image-too-large"
MODEL = "model", "digest", "engine", "precision"  # `eyespot classify` leaves them out for an image that it refused


@dataclass
class Cluster:
    process: subprocess.Popen[str]
    settings: dict[str, str]

    def tell(self, line: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        while self.process.stdout.readline() != "done\n":
            assert self.process.poll() is None

    @contextmanager
    def job(self, cwd: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
        command = [PYTHON, JOB, "images", "found", "--partition-size", "10", *words]
        with subprocess.Popen(
            command, cwd=cwd, env=self.settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()  # if the block has failed


@pytest.fixture(scope="module")
def settings(packaged: dict[str, str]) -> dict[str, str]:
    return environment(**packaged, **ALONE, EYESPOT_AUDIT_URL="off", PYTHONPATH=str(JOB.parent))


@pytest.fixture(scope="module")
def cluster(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    with subprocess.Popen(
        [PYTHON, "-c", CLUSTER], cwd=folder, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        yield Cluster(process, settings | {"RAY_ADDRESS": address})
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        process.kill()  # Ray's shutdown may hang


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """403 images, of which three are refused, and files that are not searched for."""
    folder = makers.textures(tmp_path / "images", 20, range(20))
    for name, data in {"empty.jpg": b"", "other.PNG": b"GIF89a", ".hidden.png": b"", "notes.txt": b""}.items():
        (folder / name).write_bytes(data)
    with (folder / "huge.jpg").open("wb") as huge:
        huge.truncate(300 * 2**20)
    return folder


def parts(folder: Path) -> dict[str, int]:
    """The files of complete partitions, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def alone(folder: Path, packaged: dict[str, str]) -> dict[str, dict[str, object]]:
    """The rows of `eyespot classify`, one process without Ray."""
    run("classify", "images", "-o", "one.parquet", cwd=folder, **packaged)
    rows = parquet.read_table(folder / "one.parquet").to_pylist()
    return {row["path"].removeprefix("images/"): row for row in rows}


def test_a_job_that_is_stopped_and_loses_a_node_has_every_answer_once(
    cluster: Cluster, packaged: dict[str, str], images: Path, tmp_path: Path
) -> None:
    found = tmp_path / "found"
    with cluster.job(tmp_path) as first:
        until(lambda: len(parts(found)) > 1, seconds=120)  # 10 on an idle machine
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=60)
    before = parts(found)
    assert first.returncode == 130
    assert re.search(r"^stopped after \d+ of 403 images; the same command continues$", said, re.MULTILINE)

    with cluster.job(tmp_path) as second:
        until(lambda: len(parts(found)) > len(before) + 1, seconds=120)
        cluster.tell("kill")
        at_kill = parts(found)
        said, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert f"{len(before) * 10} of 403 images were done before" in said.splitlines()
    assert len(before) < len(at_kill) < len(parts(found)) == 41
    assert before.items() <= parts(found).items()  # they were not computed again

    expected = alone(tmp_path, packaged)
    rows = pyarrow.dataset.dataset(found).to_table().to_pylist()
    assert len(rows) == len(expected) == 403
    (model,) = {tuple(row[name] for name in MODEL) for row in rows}
    for row in rows:
        assert row == expected[row["path"]] | {"path": row["path"], **dict(zip(MODEL, model, strict=True))}
    assert Counter(row["code"] for row in rows) == dict.fromkeys(REFUSED, 1) | {None: 400}

    for words, reply in {
        (): "403 of 403 images were done before\n",
        ("--top-k", "4"): "classify.py: found was begun with --top-k 3, not 4; choose another OUTPUT\n",
    }.items():
        with cluster.job(tmp_path, *words) as more:
            assert more.communicate(timeout=60)[0] == reply


def test_an_input_that_does_not_exist_is_told_and_no_output_is_made(settings: dict[str, str], tmp_path: Path) -> None:
    command = [PYTHON, JOB, "nowhere", "found"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "classify.py: there is no folder or bucket nowhere\n")
    assert [*tmp_path.iterdir()] == []


def test_a_node_with_another_model_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    command = [PYTHON, "-c", OTHER_MODEL]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"on \S+, efficientnet-lite0 differs; give all nodes the same files .*\n", done.stdout)


def test_the_api_on_ray_answers_as_the_server_does(cluster: Cluster) -> None:
    port = free_port()
    cluster.tell(str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, verify=False) as client:
        found = client.post("/predict", content=SAMPLE.read_bytes(), headers={"X-Request-ID": "mine"})
        assert (found.status_code, found.json()["request_id"], found.headers["X-Cache"]) == (200, "mine", "miss")
        assert found.json()["says"]["label"] == "espresso"
        encoded = {"image": base64.b64encode(SAMPLE.read_bytes()).decode()}
        assert client.post("/predict", json=encoded).json()["cached"]
        refused = client.post("/predict", content=b"GIF89a")
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported-format")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert "1 workers" in client.get("/readyz?verbose").text
