"""The HTTP edge: requests in, problems and answers out."""

from pathlib import Path

from starlette.types import Scope

STATIC = Path(__file__).parent / "static"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is in lower case. Starlette's `Headers` takes ten times as long."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
