"""Why a value is invalid, in sentences made from the JSON schema of what is allowed."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

Schema = dict[str, Any]

SHA256 = "^[0-9a-f]{64}$"
SHA256_PREFIX = "^[0-9a-f]{8,64}$"
LABEL = r"^[^\x00]{1,200}$"
_KINDS = {
    SHA256: "64 hexadecimal digits in lower case",
    SHA256_PREFIX: "8 to 64 hexadecimal digits in lower case",
    LABEL: "text of 1 to 200 characters without NUL",
    "date-time": "a time such as 2026-01-31T12:00:00Z",
    "path": "a path",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a table",
}
_BOUNDS = {
    ("minimum", "maximum"): " from {} to {}",
    ("exclusiveMinimum", "maximum"): " above {} and up to {}",
    ("minimum",): " of at least {}",
    ("exclusiveMinimum",): " above {}",
    (): "",
}
_SHOWN = 40  # characters of a value


def allowed(schema: Schema) -> str:
    """The values that a schema allows: "a whole number from 1 to 1024", "one of en, zh"."""
    schema = schema.get("anyOf", [schema])[0]  # the other is null
    if choices := schema.get("enum"):
        return f"one of {', '.join(choices)}"
    if examples := schema.get("examples"):
        return f"such as {_either(examples)}"
    if schema.get("type") == "array":
        kinds = ["whole numbers" if schema["items"].get("type") == "integer" else "objects"]
        return f"a list of {schema.get('minItems') or ', '.join(schema['items'].get('enum', kinds))}"
    names = (schema.get("pattern"), schema.get("format"), schema.get("type"), "object")
    kind = next(_KINDS[name] for name in names if name in _KINDS)
    bounds = next(names for names in _BOUNDS if schema.keys() >= set(names))
    return kind + _BOUNDS[bounds].format(*map(schema.get, bounds))


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def complaint(name: str, value: str, schema: Schema) -> str:
    """One sentence: the named value is not what the schema allows."""
    if examples := schema.get("examples"):
        return f"{name}: {value} must look like {_either(examples)}"
    return f"{name}: {value} is not {allowed(schema)}"


def shown(value: object) -> str:
    """A value as a message quotes it: as JSON, text in single quotes, and shortened."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")
    text = to_json(value, fallback=str, inf_nan_mode="constants").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def complaints(error: ValidationError, schema: Schema) -> list[str]:
    """One sentence per error, each naming the value's path in the document: `resnet18.recipe.crop`."""
    return [_complaint(one["type"], one["loc"], one["input"], schema) for one in error.errors()]


def _complaint(kind: str, path: Iterable[int | str], value: object, schema: Schema) -> str:
    name = ".".join(map(str, path))
    if kind == "missing":
        return f"{name} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):  # the second is a dataclass's
        return f"{name} is unknown"
    if kind == "json_invalid":
        return "it is not JSON"
    return complaint(name, shown(value), part(schema, path)).removeprefix(": ")


def part(schema: Schema, path: Iterable[int | str]) -> Schema:
    """The schema of one value in a document."""
    root = schema
    for step in path:
        parts = schema.get("properties") or {step: schema.get("additionalProperties") or schema.get("items")}
        schema = parts[step] or schema["prefixItems"][0]
        schema = schema.get("anyOf", [schema])[0]
        if reference := schema.get("$ref"):
            schema = root["$defs"][reference.rpartition("/")[2]]
    return schema
