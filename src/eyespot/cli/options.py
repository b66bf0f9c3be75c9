"""The option --url, and how typer tells of options: what it has no setting for is replaced here."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperOption

Url = Annotated[
    str | None, typer.Option(metavar="URL", envvar="EYESPOT_URL", help="Ask this server.", show_default=False)
]

_KINDS = {"int": "a whole number", "float": "a number", "datetime": "a time, such as 2026-11-24T09:00:00"}
_type_in_help, _process = TyperOption.display_type_rich, TyperOption.process_value


def _type_without_flags(option: TyperOption, ctx: Any) -> str | None:
    return None if option.is_flag else _type_in_help(option, ctx)  # it would be `--resume <bool>`


def _process_in_our_words(option: TyperOption, ctx: Any, value: Any) -> Any:
    try:
        return _process(option, ctx, value)
    except typer.BadParameter as error:
        if isinstance(error.__cause__, ValidationError):  # its message is pydantic's
            (problem, *_) = error.__cause__.errors()
            error.message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] != "value_error":
                error.message = f"{problem['input']!r} is not {_allowed(option)}."
        raise


def _allowed(option: TyperOption) -> str:
    annotation = str(option.type_descriptor.annotation)
    kind = next((words for name, words in _KINDS.items() if name in annotation), "valid")
    if option.min is None:
        return kind
    return (
        f"{kind} of at least {option.min:g}" if option.max is None else f"{kind} from {option.min:g} to {option.max:g}"
    )


TyperOption.display_type_rich = _type_without_flags  # type: ignore[assignment,method-assign]
TyperOption.process_value = _process_in_our_words  # type: ignore[assignment,method-assign]
