"""The origins whose pages may call the API."""

import re

from eyespot.errors import InvalidSetting
from eyespot.values import shown

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def read_origins(text: str | None) -> list[str]:
    """The comma-separated origins of EYESPOT_CORS_ORIGINS in lower case, or `["*"]`. Raises `InvalidSetting`."""
    origins = [part.strip().lower() for part in text.split(",")] if text else []
    for origin in origins:
        if origins != ["*"] and not _ORIGIN.fullmatch(origin):
            raise InvalidSetting(
                f"EYESPOT_CORS_ORIGINS: {shown(origin)} is not an origin such as https://example.org (no path); "
                "`*` alone allows every origin"
            )
    return origins
