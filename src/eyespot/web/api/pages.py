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

from eyespot.types import Lang
from eyespot.web.api import language

_TAGS: dict[Lang, str] = {"en": "en", "zh": "zh-Hans"}  # for HTML
_LABELS_OF_SAMPLES = "imagenet1k"  # as in model.js
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
    lang = language.preferred(request.scope)
    labels = request.app.state.recognizer.model.classifier.card.labels
    return HTMLResponse(
        _filled(lang, own=labels != _LABELS_OF_SAMPLES), headers={**_headers(_PAGE_POLICY), **language.headers(lang)}
    )


@cache
def _filled(lang: Lang, own: bool) -> str:
    """The HTML with its texts, which are then there before the script is; without samples if the model is one's own."""
    texts = json.loads((STATIC / "texts" / f"{lang}.json").read_text("utf-8"))
    html = (STATIC / "index.html").read_text("utf-8").replace('lang="en"', f'lang="{_TAGS[lang]}"')
    html = html.replace("<body>", '<body class="own">' if own else "<body>")
    return re.sub(r'data-text="(\w+)"[^>]*>', lambda tag: tag[0] + escape(texts[tag[1]]), html)


async def docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=_headers(_DOCS_POLICY))
