"""The routes of whoever runs the service: what was asked, and the images that were kept."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath
from pydantic import TypeAdapter

from eyespot import errors
from eyespot.errors import InvalidParameter, NotFound
from eyespot.recognizer import Recognizer
from eyespot.types import AuditPage
from eyespot.vision.preprocess import announced_format
from eyespot.web import problems
from eyespot.web.gate.auth import require_admin

router = APIRouter(tags=["administration"], dependencies=[Depends(require_admin)])
_PAGE = TypeAdapter(AuditPage)
_REFUSALS = (errors.Unauthorized, errors.Forbidden, errors.RateLimited)
_MAX_ROWS = 1000
_LARGEST_ID = 2**63 - 1

_Sha256 = Annotated[str, InPath(pattern="^[0-9a-f]{64}$", description="Of the encoded bytes.")]
# An image of a client's is shown, and nothing in it is run.
_KEPT = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@router.get(
    "/audit",
    response_model=AuditPage,
    summary="What was asked and answered",
    responses=problems.documented(*_REFUSALS, errors.NotFound, errors.InvalidParameter, errors.AuditUnavailable),
)
async def audit(
    request: Request,
    since: Annotated[datetime | None, Query(description="From this time on (ISO 8601; UTC unless it says).")] = None,
    until: Annotated[datetime | None, Query(description="Before this time.")] = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="Of this image.")] = None,
    label: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]+$", description="With this likeliest class.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_ROWS, description="How many rows at most.")] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=_LARGEST_ID, description="As the page before gave it.")] = None,
) -> Response:
    """Recognitions, newest first. The reply's `cursor` asks for the page that follows it."""
    recognizer: Recognizer = request.app.state.recognizer
    if not recognizer.audit:
        raise NotFound("There is no audit log: EYESPOT_AUDIT_URL is off.")
    rows = await recognizer.audit.rows(
        since=_utc("since", since),
        until=_utc("until", until),
        sha256=sha256,
        label=label,
        before=cursor,
        limit=limit,
    )
    page = AuditPage(rows, cursor=rows[-1].id if len(rows) == limit else None)
    return Response(_PAGE.dump_json(page), media_type="application/json", headers={"Cache-Control": "no-store"})


def _utc(name: str, time: datetime | None) -> datetime | None:
    if time is None:
        return None
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise InvalidParameter(f"{name}: that is not within the years 1 to 9999.", value=str(time)) from error


@router.get(
    "/uploads/{sha256}",
    summary="An image that was kept",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        **problems.documented(
            *_REFUSALS, errors.NotFound, errors.InvalidParameter, errors.StorageUnavailable, errors.StorageFull
        ),
    },
)
async def upload(request: Request, sha256: _Sha256) -> Response:
    """The encoded bytes, as they were sent."""
    recognizer: Recognizer = request.app.state.recognizer
    uploads = recognizer.uploads
    data = await uploads.get(sha256) if uploads else None
    if data is None:
        raise NotFound("This image is not kept." if uploads else "No images are kept: EYESPOT_UPLOADS is off.")
    kind = (announced_format(data) or "").lower()
    return Response(data, media_type=f"image/{kind}" if kind else "application/octet-stream", headers=_KEPT)


@router.delete(
    "/uploads/{sha256}",
    status_code=204,
    summary="Forget an image",
    response_class=Response,
    responses=problems.documented(
        *(*_REFUSALS, errors.NotFound, errors.InvalidParameter),
        *(errors.CacheUnavailable, errors.StorageUnavailable, errors.StorageFull),
    ),
)
async def forget(request: Request, sha256: _Sha256) -> Response:
    """Delete the image, and the answers that are remembered for it. Its rows in the audit log stay.

    Nothing comes back from requests that began before the reply, be it 204 or 404.
    """
    recognizer: Recognizer = request.app.state.recognizer
    if not await recognizer.forget(sha256):
        raise NotFound("This image is not kept, and no answer is remembered for it.")
    return Response(status_code=204)
