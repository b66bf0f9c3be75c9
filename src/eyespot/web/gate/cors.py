"""The origins whose pages may call the API."""

import re
from functools import partial
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from eyespot.errors import Forbidden, InvalidSetting
from eyespot.values import shown
from eyespot.web.gate import problems

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


class Cors(CORSMiddleware):
    """CORSMiddleware whose refused preflights are problems."""

    def preflight_response(self, request_headers: Headers) -> Any:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        methods, headers = (self.preflight_headers[f"Access-Control-Allow-{kind}"] for kind in ("Methods", "Headers"))
        detail = f"Cross-origin requests may use the methods {methods} and the headers {headers}."
        if not self.is_allowed_origin(origin := request_headers["origin"]):
            detail = f"The origin {shown(origin)} may not call this server; add it to EYESPOT_CORS_ORIGINS."
        return partial(_refuse, detail)


async def _refuse(detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    response = problems.response(Request(scope), Forbidden(detail))
    await response(scope, receive, send)
