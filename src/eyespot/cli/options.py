"""The options --url and --lang, and typer's messages about options, replaced where typer has no hook."""

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from typer.core import TyperOption

from eyespot import values
from eyespot.types import Lang

Url = Annotated[
    str | None, typer.Option(metavar="URL", envvar="EYESPOT_URL", help="Ask this server.", show_default=False)
]

Language = Annotated[Lang, typer.Option("--lang", help="Language of the labels: English or Chinese.")]

_type_in_help, _process = TyperOption.display_type_rich, TyperOption.process_value


def _type_without_flags(option: TyperOption, ctx: Any) -> str | None:
    return None if option.is_flag else _type_in_help(option, ctx)  # it would be `--resume <bool>`


def _with_plain_errors(option: TyperOption, ctx: Any, value: Any) -> Any:
    try:
        return _process(option, ctx, value)
    except typer.BadParameter as error:
        if isinstance(error.__cause__, ValidationError):  # its message is pydantic's
            (problem, *_) = error.__cause__.errors()
            error.message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] != "value_error":
                error.message = f"{problem['input']!r} is not {values.allowed(_schema(option))}."
        raise


def _schema(option: TyperOption) -> values.Schema:
    schema: values.Schema = TypeAdapter(option.type_descriptor.annotation).json_schema()
    bounds = {"minimum": option.min, "maximum": option.max}
    return values.part(schema, ()) | {name: bound for name, bound in bounds.items() if bound is not None}


TyperOption.display_type_rich = _type_without_flags  # type: ignore[assignment,method-assign]
TyperOption.process_value = _with_plain_errors  # type: ignore[assignment,method-assign]
