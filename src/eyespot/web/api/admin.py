"""`/audit`, `/uploads` and `/admin/model`: for API keys with the admin role."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError

from eyespot.choices import FORMATS
from eyespot.errors import BadJson, InvalidParameter, NotFound
from eyespot.recognizer import Recognizer
from eyespot.types import AuditPage, ModelCard
from eyespot.values import LABEL, SHA256, shown
from eyespot.vision.preprocess import announced_format

Sha256 = Annotated[str, Path(pattern=SHA256, description="SHA-256 of the encoded image.")]


def _begins_with_a_year(value: str) -> str:
    """pydantic takes a number for seconds since 1970, so that `since=2026` would ask for everything."""
    if value[4:5] != "-":
        raise PydanticKnownError("datetime_parsing", {"error": "no date"})
    return value


Time = Annotated[datetime, BeforeValidator(_begins_with_a_year)]


async def audit(
    request: Request,
    response: Response,
    since: Annotated[
        Time | None, Query(description="Rows from this time on (ISO 8601; UTC if it has no offset).")
    ] = None,
    until: Annotated[Time | None, Query(description="Rows before this time.")] = None,
    sha256: Annotated[str | None, Query(pattern=SHA256, description="Rows of this image.")] = None,
    label: Annotated[str | None, Query(pattern=LABEL, description="Rows whose most likely class this is.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of rows.")] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The `cursor` of the previous page.")] = None,
) -> AuditPage:
    """Recognitions, newest first. The reply's `cursor` asks for the next page."""
    recognizer: Recognizer = request.app.state.recognizer
    if not recognizer.audit:
        raise NotFound("There is no audit log: EYESPOT_AUDIT_URL is off.")
    times = {"since": _utc("since", since), "until": _utc("until", until)}
    rows = await recognizer.audit.rows(**times, sha256=sha256, label=label, before=cursor, limit=limit)
    response.headers["Cache-Control"] = "no-store"
    return AuditPage(rows, cursor=rows[-1].id if len(rows) == limit else None)


def _utc(name: str, time: datetime | None) -> datetime | None:
    if time is None:
        return None
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        detail = f"{name}: {shown(str(time))} is not within the years 1 to 9999 in UTC."
        raise InvalidParameter(detail, value=str(time)) from error


async def upload(request: Request, sha256: Sha256) -> Response:
    """The encoded bytes as they were sent."""
    uploads = request.app.state.recognizer.uploads
    data = await uploads.get(sha256) if uploads else None
    if data is None:
        raise NotFound("This image is not kept." if uploads else "No images are kept: EYESPOT_UPLOADS is off.")
    name = announced_format(data)
    media_type = FORMATS[name].media_type if name else "application/octet-stream"
    # A client's image is shown; nothing in it runs.
    headers = {"Cache-Control": "private, no-store", "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=media_type, headers=headers)


async def forget(request: Request, sha256: Sha256) -> Response:
    """Delete an image and the cached answers for it. Its audit rows stay.

    Requests that began before this reply, whether 204 or 404, keep nothing of the image.
    """
    if not await request.app.state.recognizer.forget(sha256):
        raise NotFound("This image is not kept, and no answer is cached for it.")
    return Response(status_code=204)


@dataclass(frozen=True, slots=True)
class Choice:
    """The body of `/admin/model`."""

    name: Annotated[str, Field(min_length=1, max_length=200)]


_CHOICE = TypeAdapter(Choice)


async def switch(request: Request) -> ModelCard:
    """Switch to another model of the manifest, or reload the current one. The reply comes once it serves.

    It is opened beside the current one, which finishes the requests that it began, and keeps serving if the other
    cannot be opened. A restart serves EYESPOT_MODEL again.
    """
    try:
        name = _CHOICE.validate_json(await request.body()).name
    except ValidationError as error:
        broken = error.errors()[0]["type"] == "json_invalid"
        detail = 'The body must name a model: {"name": "flowers"}.'
        raise BadJson(detail) if broken else InvalidParameter(detail) from error
    recognizer: Recognizer = request.app.state.recognizer
    return await recognizer.model.switch(name)
