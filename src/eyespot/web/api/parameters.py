"""The parameters of a recognition, from the query or the body."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from eyespot.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Parameters:
    """What may be asked besides the image."""

    top_k: Annotated[int, Field(ge=1, description="Number of classes in the answer.")] = 3
    min_confidence: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="Leave out classes below this confidence.")
    ] = 0
    lang: Annotated[
        Literal["en", "zh"], Field(description="Language of the labels; `zh` answers with the English names so far.")
    ] = "en"


_PARAMETERS = TypeAdapter(Parameters)
SCHEMA: dict[str, Any] = _PARAMETERS.json_schema()["properties"]
_DEFAULT = Parameters()


def parse(query: Mapping[str, Any], body: Mapping[str, Any], classes: int) -> Parameters:
    """Parameters from raw values, those of the body before those of the query; `top_k` is at most `classes`.

    An empty string, as forms send it, or null counts as absent. Raises `InvalidParameter`.
    """
    given = {**_given(query), **_given(body)}
    if not given:
        return _DEFAULT
    for name, value in given.items():
        if isinstance(value, bool):  # Python would take it for 0 or 1
            raise InvalidParameter(f"{name}: a boolean is not allowed.", value=str(value).lower())
    try:
        parameters = _PARAMETERS.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        bounds = first.get("ctx", {})
        limit, value = bounds.get("ge", bounds.get("le")), str(first["input"])[:100]
        raise InvalidParameter(f"{first['loc'][0]}: {first['msg']}.", limit=limit, value=value) from error
    if parameters.top_k > classes:
        raise InvalidParameter(f"top_k: the model has {classes} classes.", limit=classes, value=parameters.top_k)
    return parameters


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in SCHEMA if fields.get(name) not in (None, "")} if fields else {}
