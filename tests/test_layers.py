"""Imports run downwards only, and a server pays only for what it runs (DESIGN section 2)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT

PACKAGE = ROOT / "src" / "eyespot"
WORDS = {"types", "errors", "settings", "telemetry"}

# What each module may import of ours, besides `types`, `errors` and `telemetry`, which everything may.
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "settings": set(),
    "telemetry": set(),
    "vision": set(),
    "vision.structure": set(),
    "vision.orientation": set(),
    "vision.preprocess": {"vision.structure", "vision.orientation"},
    "vision.labels": set(),
    "vision.weights": set(),
    "vision.fetch": {"vision.weights"},
    "vision.engines": set(),
    "vision.engines.torch": {"vision.engines"},
    "vision.engines.openvino": {"vision.engines"},
    "vision.engines.onnx": {"vision.engines"},
    "vision.engines.torchscript": {"vision.engines.torch"},
    "vision.export": {
        *("vision", "vision.preprocess", "vision.engines", "vision.weights"),
        *(f"vision.engines.{name}" for name in ("torch", "openvino", "onnx", "torchscript")),
    },
    "vision.precision": {"vision", "vision.engines", "vision.export", "vision.engines.openvino"},
    "vision.quantize": {
        *("vision", "vision.preprocess", "vision.engines", "vision.weights", "vision.export"),
        "vision.engines.openvino",
    },
    "vision.classifier": {
        *("vision", "vision.preprocess", "vision.engines", "vision.weights", "vision.labels", "vision.export"),
        *("vision.engines.torch", "vision.precision"),
    },
    "memory": set(),
    "memory.clock": set(),
    "memory.breaker": set(),
    "memory.cache": {"memory.breaker"},
    "memory.deletions": set(),
    "memory.upload_folder": {"memory.clock"},
    "memory.uploads": {"memory.upload_folder"},
    "memory.audit": {"memory.clock", "memory.audit_table"},
    "memory.audit_table": {"memory.audit_postgres", "memory.audit_sqlite"},
    "memory.audit_address": set(),
    "memory.audit_postgres": set(),
    "memory.audit_sqlite": set(),
    "memory.audit_export": set(),
    "pool": set(),
    "recognizer": {
        *("", "pool", "memory.cache", "memory.audit", "memory.deletions", "memory.uploads"),
        *("vision.classifier", "vision.engines"),
    },
    "assembly": {
        *("", "settings", "pool", "recognizer", "vision.classifier"),
        *("memory.cache", "memory.upload_folder", "memory.uploads"),
        *("memory.audit", "memory.audit_address", "memory.audit_table"),
    },
    "web": set(),
    "web.problems": {""},
    "web.middleware": {"pool", "recognizer", "web", "web.bodies", "web.problems", "web.protocol"},
    "web.bodies": set(),
    "web.images": {"recognizer", "vision.preprocess", "web", "web.bodies"},
    "web.batches": {
        *("", "pool", "recognizer", "web"),
        *("web.bodies", "web.images", "web.openapi", "web.problems", "web.middleware"),
    },
    "web.openapi": {"web.bodies"},
    "web.addresses": set(),
    "web.limiter": {"memory.breaker", "web.addresses"},
    "web.access": {"web", "web.problems", "web.addresses", "web.limiter"},
    "web.admin": {"", "recognizer", "vision.preprocess", "web", "web.access", "web.problems"},
    "web.routes": {
        *("", "pool", "recognizer", "vision.classifier", "web"),
        *("web.bodies", "web.images", "web.openapi", "web.problems", "web.middleware"),
    },
    "web.app": {
        *("", "settings", "assembly", "recognizer", "web", "web.batches", "web.bodies", "web.problems"),
        *("web.middleware", "web.routes", "web.access", "web.addresses", "web.admin", "web.limiter"),
    },
    "web.protocol": {"web", "web.problems"},
    "web.server": {"web.protocol"},
    "bench": set(),
    "bench.host": {"", "pool"},
    "bench.samples": {"vision", "vision.export", "vision.preprocess"},
    "bench.decoding": {"bench", "bench.samples", "vision", "vision.preprocess"},
    "bench.figures": {"pool"},
    "bench.engine": {
        *("bench", "bench.samples", "bench.host", "bench.figures", "pool"),
        *("vision", "vision.preprocess", "vision.classifier", "vision.engines"),
    },
    "bench.machine": {
        *("bench", "bench.host", "bench.samples", "bench.decoding", "bench.figures"),
        *("pool", "vision", "vision.weights"),
    },
    "bench.target": set(),
    "bench.load": set(),
    "bench.server": {
        *("bench", "bench.host", "bench.samples", "bench.figures", "bench.machine"),
        *("bench.target", "bench.load"),
    },
    "bench.report": {"bench.host", "bench.decoding", "bench.figures", "bench.machine", "bench.server"},
    "bench.plot": {"bench.machine", "bench.server", "bench.report"},
    "ordered": set(),
    "encoding": set(),
    "client": {"", "encoding", "ordered"},
    "cli": set(),
    "cli.terminal": {"", "settings"},
    "cli.files": set(),
    "cli.findings": set(),
    "cli.results": {"cli", "cli.findings"},
    "cli.xmp": {""},
    "cli.looking": {"", "pool", "assembly", "client", "encoding", "cli", "cli.findings", "cli.terminal", "cli.xmp"},
    "cli.run": {"cli", "cli.files", "cli.findings", "cli.looking", "cli.terminal", "ordered"},
    "cli.asking": {"", "pool", "assembly", "client", "vision", "vision.weights", "vision.classifier", "cli.terminal"},
    "cli.classify": {"cli", "cli.asking", "cli.findings", "cli.looking", "cli.results", "cli.run", "cli.terminal"},
    "cli.serve": {"", "cli.terminal", "vision.export", "web.app", "web.server"},
    "cli.quantize": {"", "pool", "vision", "vision.weights", "vision.quantize", "vision.classifier", "cli.terminal"},
    "cli.bench": {
        *("", "pool", "cli.terminal"),
        *("bench", "bench.figures", "bench.machine", "bench.server", "bench.report", "bench.plot"),
    },
    "cli.weights": {"vision", "vision.weights", "vision.fetch", "cli.terminal"},
    "cli.audit": {"memory", "memory.audit_table", "memory.audit_export", "cli.terminal"},
    "cli.main": {
        *("", "settings", "cli", "cli.asking", "cli.audit", "cli.weights", "cli.bench", "cli.classify"),
        *("cli.quantize", "cli.serve", "cli.terminal"),
    },
    "": {"client"},
    "__main__": {"cli.main"},
}
INSIDE_FUNCTIONS = {
    "web.limiter": {"limits", "redis.asyncio", "redis.asyncio.retry", "redis.backoff"},
    "assembly": {"eyespot.memory.audit_table"},
    "memory.cache": {"redis", "redis.asyncio.retry", "redis.backoff", "redis.exceptions"},
    "vision.export": {
        "torch",
        *(f"eyespot.vision.engines.{name}" for name in ("torch", "openvino", "onnx", "torchscript")),
    },
    "vision.quantize": {"nncf", "eyespot.vision.engines.openvino"},
    "vision.precision": {"eyespot.vision.engines.openvino"},
    "vision.classifier": {"eyespot.vision.engines.torch"},
    "vision.fetch": {"torchvision.models"},
    "vision.engines.torch": {"efficientnet_lite_pytorch", "torchvision"},
    "vision.engines.onnx": {"torch"},
    "bench.plot": {"matplotlib.figure"},
    "": {"eyespot.client"},
    "encoding": {"PIL"},
    # A command pays only for what it runs, and so does the completion of a word.
    "cli.asking": {"eyespot.assembly", "eyespot.client", "eyespot.vision.classifier"},
    "cli.looking": {"eyespot.assembly", "eyespot.client", "eyespot.cli.xmp"},
    "cli.serve": {"eyespot.vision.export", "eyespot.web.app", "eyespot.web.server"},
    "cli.quantize": {"eyespot.vision.quantize", "eyespot.vision.classifier"},
    "cli.bench": {f"eyespot.bench.{name}" for name in ("figures", "machine", "plot", "report", "server")},
    "cli.weights": {"eyespot.vision.fetch"},
    "cli.audit": {"eyespot.memory.audit_table"},
}
CHOICES = {
    "torch",
    "torchvision",
    "openvino",
    "onnxruntime",
    "redis",
    "sqlalchemy",
    "limits",
    "nncf",
    "ray",
    "matplotlib",
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Full names of what a file imports (at the top, inside functions)."""
    tree = ast.parse(path.read_text())
    nested = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    found: tuple[set[str], set[str]] = (set(), set())
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [name for alias in node.names if (name := f"{node.module}.{alias.name}")]
            names = [name if is_ours(name) else node.module or "" for name in names]
        found[node in nested].update(names)
    return found


def is_ours(name: str) -> bool:
    return name.removeprefix("eyespot.") in MODULES and name.startswith("eyespot")


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    top, inside = imports(MODULES[module])
    ours = {name.removeprefix("eyespot").lstrip(".") for name in top | inside if name.split(".")[0] == "eyespot"}
    assert ours - MAY_IMPORT[module] <= {"types", "errors", "telemetry"}


@pytest.mark.parametrize("module", MODULES)
def test_only_a_choice_is_imported_inside_a_function(module: str) -> None:
    top, inside = imports(MODULES[module])
    assert inside == INSIDE_FUNCTIONS.get(module, set())
    if not module.startswith(("vision.engines.", "memory.audit_table", "memory.audit_postgres", "memory.audit_sqlite")):
        assert not {name.split(".")[0] for name in top} & CHOICES


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text("from eyespot.web import app\nfrom eyespot import cli\ndef f():\n    import torch\n")
    assert imports(probe) == ({"eyespot.web.app", "eyespot.cli"}, {"torch"})


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import eyespot", ["numpy", "fastapi", "openvino", "PIL", "httpx"]),
        ("from eyespot import Client, AsyncClient", ["numpy", "PIL", "fastapi", "starlette", "uvicorn", "openvino"]),
        (
            "import eyespot.vision.classifier",
            ["torch", "openvino", "fastapi", "uvicorn", "eyespot.web", "eyespot.pool"],
        ),
        ("import eyespot.vision.preprocess", ["torch", "openvino", "httpx"]),
        ("import eyespot.web.app", ["torch", "torchvision", "openvino", "redis", "sqlalchemy", "limits"]),
        (
            "import eyespot.cli.main",
            [
                "numpy",
                "PIL",
                "fastapi",
                "lxml",
                "torch",
                "torchvision",
                "openvino",
                "httpx",
                "sqlalchemy",
                "eyespot.bench",
            ],
        ),
        ("import eyespot.vision.engines.torchscript", ["torchvision", "openvino"]),
        ("import eyespot.bench.plot", ["torch", "torchvision", "openvino", "matplotlib"]),
    ],
)
def test_a_process_loads_only_what_it_runs(statement: str, forbidden: list[str]) -> None:
    script = f"{statement}\nimport sys\nassert not {forbidden!r} & sys.modules.keys()".replace("[", "{").replace(
        "]", "}"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
