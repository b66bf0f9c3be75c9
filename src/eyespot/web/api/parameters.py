"""The parameters of a recognition, from the query or the body."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, PydanticKnownError

from eyespot.errors import InvalidParameter
from eyespot.values import complaint, shown


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):  # Python would take it for 0 or 1
        raise PydanticCustomError("boolean", "a boolean")
    return value


def _at_most_classes(top_k: int, info: ValidationInfo[int]) -> int:
    if top_k > info.context:
        raise PydanticKnownError("less_than_equal", {"le": info.context})
    return top_k


@dataclass(frozen=True, slots=True)
class Parameters:
    """What may be asked besides the image."""

    top_k: Annotated[
        int,
        Field(ge=1, description="Number of classes in the answer."),
        BeforeValidator(_no_boolean),
        AfterValidator(_at_most_classes),
    ] = 3
    min_confidence: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="Leave out classes below this confidence."),
        BeforeValidator(_no_boolean),
    ] = 0
    lang: Annotated[
        Literal["en", "zh"], Field(description="Language of the labels; `zh` answers with the English names so far.")
    ] = "en"


_PARAMETERS = TypeAdapter(Parameters)
SCHEMA: dict[str, Any] = _PARAMETERS.json_schema()["properties"]
_DEFAULT = Parameters()


def parse(query: Mapping[str, Any], body: Mapping[str, Any], classes: int) -> Parameters:
    """Parameters from raw values, those of the body before those of the query; `top_k` is at most `classes`.

    An empty string, as forms send it, or null counts as absent. Raises `InvalidParameter` for all that are invalid.
    """
    given = {**_given(query), **_given(body)}
    if not given:
        return _DEFAULT
    try:
        return _PARAMETERS.validate_python(given, context=classes)
    except ValidationError as error:
        raise _invalid(error, classes) from error


def _invalid(error: ValidationError, classes: int) -> InvalidParameter:
    schema = {**SCHEMA, "top_k": {**SCHEMA["top_k"], "maximum": classes}}
    errors = error.errors()
    reasons = [complaint(name := str(one["loc"][0]), shown(one["input"]), schema[name]) for one in errors]
    first, bounds = errors[0]["input"], errors[0].get("ctx", {})
    value = first[:100] if isinstance(first, str) else shown(first)
    return InvalidParameter(f"{'; '.join(reasons)}.", limit=bounds.get("ge", bounds.get("le")), value=value)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in SCHEMA if fields.get(name) not in (None, "")} if fields else {}
