"""`/` and `/docs`: the page, and Swagger UI, with their files."""

import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from eyespot.web.gate import header

_LANGUAGES = {"en": "en", "zh": "zh-Hans"}  # of static/texts, and what `lang` is for each
STATIC = Path(__file__).parents[1] / "static"
# Pages load everything from this server.
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
# Swagger UI sets styles, and draws icons from data: URIs.
_DOCS_POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'"


class Static(StaticFiles):
    """Files that a browser asks about each time, since an upgrade may have changed them together."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _headers(policy: str) -> dict[str, str]:
    common = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": f"{policy}; {common}", "Referrer-Policy": "no-referrer"}


async def page(request: Request) -> HTMLResponse:
    """The page, in the language that the browser prefers."""
    preferred = (part.strip()[:2].lower() for part in (header(request.scope, b"accept-language") or "").split(","))
    language = next((code for code in preferred if code in _LANGUAGES), "en")
    return HTMLResponse(_filled(language), headers={**_headers(_PAGE_POLICY), "Vary": "Accept-Language"})


@cache
def _filled(language: str) -> str:
    """The HTML with its texts, which are then there before the script is."""
    texts = json.loads((STATIC / "texts" / f"{language}.json").read_text("utf-8"))
    html = (STATIC / "index.html").read_text("utf-8").replace('lang="en"', f'lang="{_LANGUAGES[language]}"')
    return re.sub(r'data-text="(\w+)"[^>]*>', lambda tag: tag[0] + escape(texts[tag[1]]), html)


async def docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=_headers(_DOCS_POLICY))
