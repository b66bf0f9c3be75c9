"""Write the reference parts of openapi.md from the code: python tools/manual.py [--check].

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the file is written by hand.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from eyespot import settings
from eyespot.cli.main import app
from eyespot.settings import Settings
from eyespot.telemetry import Metrics
from eyespot.values import allowed
from eyespot.web.app import create_app

MANUAL = Path(__file__).parents[1] / "openapi.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *escaped])


def routes() -> str:
    parts = []
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, operation in methods.items():
            parts.append(f"**`{method.upper()} {path}`**: {operation['description']}")
            if parameters := operation.get("parameters"):
                rows = [[f"`{p['name']}`", values(p["schema"]), p["description"]] for p in parameters]
                parts.append(table(["parameter", "value", "meaning"], rows))
            answers = []
            for status, answer in sorted(operation["responses"].items()):
                examples = [kind.get("examples", {}) for kind in answer.get("content", {}).values()]
                answers.append(" ".join([status, *(f"`{code}`" for codes in examples for code in codes)]))
            parts.append(f"Answers: {', '.join(answers)}.")
    return "\n\n".join(parts)


def values(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, and the default."""
    default = re.sub(r'[\[\]" ]', "", json.dumps(schema.get("default")))
    return allowed(schema) + (f"; default `{default}`" if default != "null" else "")


def metrics() -> str:
    rows = []
    for metric in filter(lambda value: hasattr(value, "_labelnames"), vars(Metrics()).values()):
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append([f"`{name}`", metric._type, labels, metric._documentation])
    return table(["metric", "type", "labels", "meaning"], rows)


def variables() -> str:
    fields = Settings.model_json_schema()["properties"]
    rows = [[f"`{settings.variable(name)}`", values(field), field["description"]] for name, field in fields.items()]
    return table(["variable", "value", "meaning"], rows)


def commands(command: Any = None, name: str = "eyespot") -> str:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        return "\n\n".join(commands(part, f"{name} {word}") for word, part in command.commands.items())
    usage = re.sub("[{}]", "", " ".join([name, *command.collect_usage_pieces(typer.Context(command))[1:]]))
    text = f"**`{usage}`**: {command.help}"
    options = [[f"`{p.opts[0]}`", p.help] for p in command.params if p.opts[0].startswith("--") and p.name != "help"]
    return f"{text}\n\n{table(['option', 'meaning'], options)}" if options else text


PARTS = {"routes": routes, "metrics": metrics, "settings": variables, "commands": commands}


def written(text: str) -> str:
    """The manual with its reference parts written anew."""
    for name, part in PARTS.items():
        before, begin, rest = text.partition(f"<!-- begin {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        assert end, f"openapi.md has no part {name}"
        text = f"{before}{begin}\n{part()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    new = written(MANUAL.read_text())
    if "--check" in sys.argv and new != MANUAL.read_text():
        sys.exit("openapi.md is stale: run `make manual`")
    MANUAL.write_text(new)
