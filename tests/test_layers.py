"""Imports run downwards only, and a process loads only what it runs (DESIGN section 2)."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT

PACKAGE = ROOT / "src" / "eyespot"

# Each part may import the parts below it that are named here, and its own.
WORDS = "types errors settings telemetry choices values _version"
BELOW = {
    **dict.fromkeys(WORDS.split(), "types errors choices values _version"),
    "cpus": "",
    "ordered": "",
    "files": WORDS,
    "vision": f"{WORDS} ordered files",
    "memory": WORDS,
    "job": WORDS,
    "pool": f"{WORDS} job cpus",
    "model": f"{WORDS} vision",
    "recognizer": f"{WORDS} vision memory pool job model",
    "assembly": f"{WORDS} vision memory pool cpus model recognizer",
    "web.gate": f"{WORDS} job memory",
    "web.api": f"{WORDS} vision pool job recognizer web.gate",
    "web": f"{WORDS} memory assembly recognizer web.gate web.api",
    "images": WORDS,
    "client": f"{WORDS} ordered images",
    "bench": f"{WORDS} cpus vision assembly client",
    "cli": f"{WORDS} vision memory cpus assembly web client images ordered files bench",
    "": "client images errors types _version",
    "__main__": "cli",
}
# Inside vision, these do not know each other; the rest of vision joins them.
STRANGERS = ["vision.preprocess", "vision.engines", "vision.labels", "vision.weights"]
# A library that serves one choice among several is imported where that choice is made.
CHOICES = {
    "torch",
    "torchvision",
    "openvino",
    "ncnn",
    "pnnx",
    "onnxruntime",
    "redis",
    "sqlalchemy",
    "nncf",
    "jinja2",
    "matplotlib",
    "lxml",
    "pyarrow",
    "safetensors",
    "tomlkit",
    "opentelemetry",
}
CHOSEN = (
    "vision.engines.",
    "vision.finetune.",
    "memory.audit_table",
    "memory.audit_postgres",
    "memory.audit_sqlite",
    "memory.audit_schema",
    "cli.charts",
    "cli.parquet",
    "cli.report",
    "cli.xmp",
    "web.gate.spans",
)

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


def part(module: str) -> str:
    """The part of the table that a module belongs to: the longest that is its name or a package of it."""
    names = [name for name in BELOW if module == name or (name and module.startswith(f"{name}."))]
    return max(names, key=len)


def imports(path: Path) -> tuple[set[str], set[str]]:
    """What a file imports (at the top, inside functions): modules of ours without `eyespot.`, else full names."""
    found: tuple[set[str], set[str]] = (set(), set())
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nested = {inner for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("eyespot.") in MODULES else str(node.module) for name in whole]
        else:
            continue
        found[node in nested].update(name.removeprefix("eyespot").removeprefix(".") for name in names)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    top, inside = imports(MODULES[module])
    ours = {name for name in top | inside if name in MODULES}
    allowed = {part(module), "", *BELOW[part(module)].split()}
    assert {name for name in ours if part(name) not in allowed} == set()
    for stranger in STRANGERS:
        if module == stranger or module.startswith(f"{stranger}."):
            assert not {name for name in ours if name.startswith(tuple(set(STRANGERS) - {stranger}))}


@pytest.mark.parametrize("module", MODULES)
def test_only_a_choice_is_imported_inside_a_function(module: str) -> None:
    top, inside = imports(MODULES[module])
    if not module.startswith(CHOSEN):
        assert not {name.split(".")[0] for name in top} & CHOICES
    if part(module) in ("cli", ""):  # a command loads only what it runs
        return
    heavy = {name for name in inside if name.split(".")[0] in CHOICES or name.startswith(CHOSEN)}
    assert inside - heavy <= {"PIL", "efficientnet_lite_pytorch"}


def test_there_are_no_circles() -> None:
    graph = {module: imports(path)[0] & MODULES.keys() - {module, ""} for module, path in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text("from eyespot.web import app\nfrom eyespot import cli\ndef f():\n    import torch\n")
    assert imports(probe) == ({"web.app", "cli"}, {"torch"})


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import eyespot", "numpy fastapi openvino PIL httpx pydantic"),
        ("from eyespot import Refusal", "pydantic httpx"),
        ("from eyespot import Client, AsyncClient", "numpy PIL fastapi starlette uvicorn openvino"),
        ("import eyespot.vision.classifier", "torch openvino ncnn fastapi uvicorn eyespot.web eyespot.pool"),
        ("import eyespot.vision.preprocess", "torch openvino httpx"),
        (
            "import eyespot.web.app",
            "torch torchvision openvino redis sqlalchemy opentelemetry.sdk opentelemetry.exporter",
        ),
        (
            "import eyespot.cli.main",
            "numpy PIL fastapi lxml pyarrow torch torchvision openvino httpx sqlalchemy eyespot.bench",
        ),
        ("import eyespot.vision.engines.torchscript", "torchvision openvino"),
    ],
)
def test_a_process_loads_only_what_it_runs(statement: str, forbidden: str) -> None:
    script = f"{statement}\nimport sys\nassert not set({forbidden!r}.split()) & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
