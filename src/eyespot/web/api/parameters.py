"""The parameters of a recognition or an explanation, from the query or the body."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, PydanticKnownError

from eyespot.errors import InvalidParameter
from eyespot.types import Lang
from eyespot.values import complaint, shown
from eyespot.web.api import language


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):  # Python would take it for 0 or 1
        raise PydanticCustomError("boolean", "a boolean")
    return value


def maxima(classes: int) -> dict[str, int]:
    """The maxima that depend on the model's number of classes."""
    return {"top_k": classes, "class_id": classes - 1}


def _at_most(value: int, info: ValidationInfo[dict[str, int]]) -> int:
    most = info.context[str(info.field_name)]
    if value > most:
        raise PydanticKnownError("less_than_equal", {"le": most})
    return value


@dataclass(frozen=True, slots=True)
class Parameters:
    """What may be asked besides the image."""

    top_k: Annotated[
        int,
        Field(ge=1, description="Number of classes in the answer."),
        BeforeValidator(_no_boolean),
        AfterValidator(_at_most),
    ] = 3
    min_confidence: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="Leave out classes below this confidence."),
        BeforeValidator(_no_boolean),
    ] = 0
    lang: Annotated[  # None if not given
        Lang, Field(description="Language of the labels; by default from Accept-Language, else English.")
    ] = None  # type: ignore[assignment]
    class_id: Annotated[  # None if not given; `int | None` would report one bad value twice
        int,
        Field(ge=0, title="Explained class", description="Class to explain; the top-1 by default."),
        BeforeValidator(_no_boolean),
        AfterValidator(_at_most),
    ] = None  # type: ignore[assignment]


_PARAMETERS = TypeAdapter(Parameters)
_SCHEMA: dict[str, Any] = _PARAMETERS.json_schema()["properties"]
SCHEMA = {name: _SCHEMA[name] for name in ("top_k", "min_confidence", "lang")}
EXPLAIN_SCHEMA = {name: _SCHEMA[name] for name in ("class_id", "lang")}
_DEFAULTS = {lang: Parameters(lang=lang) for lang in language.LANGUAGES}


def parse(request: Request, body: Mapping[str, Any], classes: int, schema: Mapping[str, Any] = SCHEMA) -> Parameters:
    """The parameters in `schema`, those of the body before those of the query.

    `classes` is the number of the model's classes. An empty string, as forms send it, or null counts as absent. Raises
    `InvalidParameter` for all that are invalid.
    """
    query = request.query_params if request.scope["query_string"] else {}
    given = {**_given(query, schema), **_given(body, schema)}
    lang = language.preferred(request.scope)
    if not given:
        return _DEFAULTS[lang]
    try:
        return _PARAMETERS.validate_python({"lang": lang, **given}, context=maxima(classes))
    except ValidationError as error:
        raise _invalid(error, classes) from error


def _invalid(error: ValidationError, classes: int) -> InvalidParameter:
    schema = _SCHEMA | {name: {**_SCHEMA[name], "maximum": most} for name, most in maxima(classes).items()}
    errors = error.errors()
    reasons = [complaint(name := str(one["loc"][0]), shown(one["input"]), schema[name]) for one in errors]
    first, bounds = errors[0]["input"], errors[0].get("ctx", {})
    value = first[:100] if isinstance(first, str) else shown(first)
    return InvalidParameter(f"{'; '.join(reasons)}.", limit=bounds.get("ge", bounds.get("le")), value=value)


def _given(fields: Mapping[str, Any], schema: Iterable[str]) -> dict[str, Any]:
    return {name: fields[name] for name in schema if fields.get(name) not in (None, "")} if fields else {}
