"""What every request passes before the API sees it; none of it knows about images."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header with this lower-case name. Starlette's `Headers` takes ten times as long."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
