"""`/` and `/docs`: the page, and Swagger UI."""

from pathlib import Path

from fastapi.responses import FileResponse

STATIC = Path(__file__).parents[1] / "static"
# Pages load everything from this server.
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
# Swagger UI sets styles, and draws icons from data: URIs.
_DOCS_POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'"


def _headers(policy: str) -> dict[str, str]:
    common = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": f"{policy}; {common}", "Referrer-Policy": "no-referrer"}


async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=_headers(_PAGE_POLICY))


async def docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=_headers(_DOCS_POLICY))
