"""`/` and `/docs`: the page, and Swagger UI."""

from pathlib import Path

from fastapi.responses import FileResponse

STATIC = Path(__file__).parents[1] / "static"
# Pages load everything from this server; Swagger UI sets styles and draws icons from data: URIs.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=_HEADERS)


async def docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=_HEADERS)
