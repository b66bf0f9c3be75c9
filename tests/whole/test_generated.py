"""What other people's tools make of /openapi.json: clients that work, and requests that are answered as it says.

`make test-all` installs the tools into `.venv/openapi`.
"""

import os
import subprocess
from pathlib import Path

import pytest

from eyespot.vision.export import SAMPLE
from tests.serving import ROOT, Served, serve_fake

pytestmark = pytest.mark.needs("make test-all")
TOOLS = ROOT / ".venv" / "openapi"
TYPESCRIPT = TOOLS / "node_modules" / ".bin"

PYTHON = """
import base64, pathlib, sys
from io import BytesIO
from client import Client
from client.api.operation import get_readiness
from client.api.recognition import explain, get_model, get_result, list_labels, predict, predict_batch
from client.models import PredictBatchFilesBody, PredictFilesBody, PredictJsonBody, Problem
from client.types import File

url, sample = sys.argv[1:]
data = pathlib.Path(sample).read_bytes()
with Client(url, raise_on_unexpected_status=True) as client:
    for body in (
        PredictFilesBody(File(BytesIO(data), "sample.jpg")),
        PredictJsonBody(base64.b64encode(data).decode(), top_k=2),
        File(BytesIO(data)),
    ):
        found = predict.sync(client=client, body=body, top_k=1)
        print(len(found.predictions), found.predictions[0].label, found.image.width)
    print(found.says.kind.value, found.says.label, found.groups[-1].label)
    numbers = client.with_headers({"Accept": "application/json"})
    found_in = explain.sync(client=numbers, body=File(BytesIO(data)), class_id=967)
    print(found_in.prediction.label, len(found_in.map_), found_in.crop.width)
    print(get_result.sync(found.image.sha256, client=client).cached)
    files = PredictBatchFilesBody([File(BytesIO(data), "a.jpg"), File(BytesIO(b"b"), "b.jpg")])
    batch = predict_batch.sync(client=client, body=files)
    print(batch.results[0].predictions[0].label, batch.results[1].problem.code)
    refusal = predict.sync(client=client, body=File(BytesIO(b"GIF89a")))
    print(isinstance(refusal, Problem), refusal.detail)
    print([entry.zh for entry in list_labels.sync(client=client, q="tabby")])
    print(len(list_labels.sync(client=client)), get_model.sync(client=client).limits.max_top_k)
    print(get_readiness.sync(client=client).ready)
"""
PRINTED = """1 espresso 480
2 espresso 480
1 espresso 480
class espresso food or drink
espresso 7 280.0
True
espresso unsupported-format
True This is a GIF; JPEG, PNG and WebP are accepted.
['虎斑猫']
1000 1000
True
"""

TYPED = """
import type { components, operations, paths } from "./api";

type Json<Reply extends { content: { "application/json": unknown } }> = Reply["content"]["application/json"];
declare const found: Json<operations["predict"]["responses"]["200"]>;
declare const batch: Json<operations["predictBatch"]["responses"]["200"]>;
declare const problem: components["schemas"]["Problem"];

const confidence: number = found.predictions[0].confidence;
const said: "class" | "group" | "unsure" = found.says.kind;
const codes: (string | undefined)[] = batch.results.map((result) => result.problem?.code);
const body: operations["predict"]["requestBody"]["content"]["application/json"] = { image: "AAAA", top_k: 2 };
const query: operations["getResult"]["parameters"] = { query: { top_k: 1, lang: "zh" }, path: { sha256: "0" } };
const alive: boolean = ({} as Json<paths["/livez"]["get"]["responses"]["200"]>).alive;
// @ts-expect-error
const label: number = found.predictions[0].label;
// @ts-expect-error
found.prediction;
"""


def run(folder: Path, *command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{TOOLS / 'bin'}{os.pathsep}{os.environ['PATH']}"}  # the generator runs ruff
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(server: Served, tmp_path: Path) -> Path:
    """With the server's document in it."""
    with server.client() as client:
        (tmp_path / "openapi.json").write_bytes(client.get("/openapi.json").content)
    return tmp_path


def test_a_generated_python_client_recognises_an_image(server: Served, folder: Path) -> None:
    generate = (TOOLS / "bin" / "openapi-python-client", "generate", "--path", "openapi.json")
    run(folder, *generate, "--meta", "none", "--output-path", "client")
    assert run(folder, TOOLS / "bin" / "python", "-c", PYTHON, server.url, SAMPLE) == PRINTED


def test_generated_typescript_compiles(folder: Path) -> None:
    run(folder, TYPESCRIPT / "openapi-typescript", "openapi.json", "--output", "api.ts")
    (folder / "use.ts").write_text(TYPED)
    run(folder, TYPESCRIPT / "tsc", "--noEmit", "--strict", "--target", "es2022", "use.ts")


def test_requests_made_up_from_the_document_are_answered_as_it_says(tmp_path: Path) -> None:
    kept = {"audit_url": "sqlite", "uploads": "on", "cache_url": "memory://", "data_dir": tmp_path}
    words = ["--max-examples", "50", "--seed", "1", "--generation-database", "none", "--continue-on-failure"]
    config = ROOT / "tests" / "whole" / "schemathesis.toml"
    with serve_fake(queue=64, api_keys="root:battery-staple:admin", **kept) as served:
        command = (TOOLS / "bin" / "schemathesis", "--config-file", config, "run", f"{served.url}/openapi.json")
        shown = run(tmp_path, *command, "--header", "Authorization: Bearer battery-staple", "--no-color", *words)
    assert "Operations:       19 selected / 19 total" in shown
