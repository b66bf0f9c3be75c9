"""Write the reference parts of openapi.md from the code: python tools/manual.py [--check].

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; all else in the file is written by hand.
"""

import re
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from eyespot import settings
from eyespot.cli.main import app
from eyespot.errors import REFUSALS
from eyespot.settings import Settings
from eyespot.telemetry import Metrics
from eyespot.web.app import create_app

MANUAL = Path(__file__).parents[1] / "openapi.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *escaped])


def routes() -> str:
    document = create_app(Settings()).openapi()
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            also = " (also `PUT`)" if path == "/predict" else ""
            parts.append(f"**`{method.upper()} {path}`**{also}: {operation['description']}")
            if parameters := operation.get("parameters"):
                rows = [[f"`{p['name']}`", span(p["schema"]), p["description"]] for p in parameters]
                parts.append(table(["parameter", "value", "meaning"], rows))
            answers = [
                f"{status} {codes(response)}".strip() for status, response in sorted(operation["responses"].items())
            ]
            parts.append(f"Answers: {', '.join(answers)}.")
    return "\n\n".join(parts)


def codes(response: dict[str, Any]) -> str:
    return " ".join(
        f"`{code}`" for code in response.get("content", {}).get("application/problem+json", {}).get("examples", {})
    )


def span(schema: dict[str, Any]) -> str:
    """What a value may be, and what it is when it is not given."""
    schema = {**schema, **next((one for one in schema.get("anyOf", []) if one["type"] != "null"), {})}
    if "enum" in schema:
        said = ", ".join(f"`{value}`" for value in schema["enum"])
    elif "minimum" in schema and "maximum" in schema:
        said = f"from {schema['minimum']}" + (f" to {schema['maximum']}" if schema["maximum"] < 2**63 - 1 else "")
    elif "minimum" in schema:
        said = f"from {schema['minimum']} to the number of classes"
    elif schema.get("pattern") == "^[0-9a-f]{64}$":
        said = "64 hexadecimal digits"
    elif schema.get("format") == "date-time":
        said = "a time"
    else:
        said = "a text" if "pattern" in schema else "none needed"
    return f"{said}; default `{schema['default']}`" if "default" in schema else said


def problems() -> str:
    kinds = sorted(REFUSALS.values(), key=lambda kind: kind.status)
    return table(["status", "code", "meaning"], [[str(kind.status), f"`{kind.code}`", kind().detail] for kind in kinds])


def metrics() -> str:
    rows = []
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            kind = metric._type
            name = metric._name + ("_total" if kind == "counter" else "")
            rows.append(
                [f"`{name}`", kind, ", ".join(f"`{label}`" for label in metric._labelnames), metric._documentation]
            )
    return table(["metric", "type", "labels", "meaning"], rows)


def variables() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else field.default
        default = (
            ",".join(default) if isinstance(default, tuple) else str(default).lower() if default is False else default
        )
        bounds = {
            key: getattr(bound, key) for bound in field.metadata for key in ("ge", "gt", "le") if hasattr(bound, key)
        }
        said = field.description or ""
        if "ge" in bounds or "gt" in bounds:
            least = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
            said += f" Range: {least}{' to ' + str(bounds['le']) if 'le' in bounds else ''}."
        choices = re.findall(r"'(\w+)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
        if choices:
            said += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        rows.append([f"`{settings.variable(name)}`", f"`{default}`" if default != "" else "", said])
    return table(["variable", "default", "meaning"], rows)


def commands() -> str:
    return "\n\n".join(command(typer.main.get_command(app), "eyespot"))


def command(this: Any, name: str) -> list[str]:
    if hasattr(this, "commands"):
        return [part for sub in this.commands for part in command(this.commands[sub], f"{name} {sub}")]
    arguments = [
        f"[{p.name.upper()}]" if not p.required else f"{p.name.upper()}…"
        for p in this.params
        if p.param_type_name != "option"
    ]
    parts = [f"**`{' '.join([name, *arguments])}`**: {this.help}"]
    options = [p for p in this.params if p.param_type_name == "option" and p.name != "help"]
    if options:
        parts.append(table(["option", "meaning"], [[f"`{p.opts[0]}`", p.help] for p in options]))
    return parts


PARTS = {"routes": routes, "problems": problems, "metrics": metrics, "settings": variables, "commands": commands}


def written(text: str) -> str:
    """The manual with its reference parts written anew."""
    for name, part in PARTS.items():
        pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        assert pattern.search(text), f"openapi.md has no part {name}"
        text = pattern.sub(lambda found, part=part: f"{found[1]}\n{part()}\n\n{found[2]}", text)
    return text


if __name__ == "__main__":
    text = MANUAL.read_text()
    new = written(text)
    if "--check" in sys.argv:
        sys.exit("openapi.md is stale: run `make manual`" if new != text else 0)
    MANUAL.write_text(new)
