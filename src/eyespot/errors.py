"""Everything that eyespot says no with.

EyespotError
├── StartError                    the process cannot begin; one line and exit code 2
│   ├── InvalidSetting
│   ├── BadManifest
│   ├── UnknownModel
│   ├── WeightsMissing
│   ├── WeightsCorrupt
│   ├── FetchFailed
│   ├── EngineUnavailable
│   ├── ExportRefused
│   ├── TooFewImages
│   ├── GoldenImageFailed
│   ├── DataDirUnwritable
│   ├── AuditUnusable
│   ├── PortTaken
│   └── OutputUnusable
├── SidecarUnreadable             an XMP file of somebody else's cannot be added to
├── NoAnswer                      a server that was asked did not say what eyespot says
│   ├── ServerUnavailable
│   ├── ServerSilent
│   └── NotEyespot
└── Refusal                       a request is refused; a status, a code and a sentence
    ├── 400  BadRequest  NoImage  SeveralImages  BadJson  BadBase64  BadForm
    ├── 401  Unauthorized         403  Forbidden
    ├── 404  NotFound             405  MethodNotAllowed     408  UploadStalled
    ├── 413  ImageTooLarge  BodyTooLarge  TooManyImages
    ├── 415  UnsupportedBody  UnsupportedFormat
    ├── 422  BrokenImage  TooManyPixels  TooSmall  TooManyScans  TooMuchMemory  InvalidParameter
    ├── 429  RateLimited          431  HeadTooLarge
    ├── 500  Internal
    ├── 503  Overloaded  Draining  AuditUnavailable  CacheUnavailable  StorageUnavailable  StorageFull
    └── 504  TooLate

A class is a status, a code, a title, and a docstring: the sentence a user gets when there is nothing more exact to say.
"""

import inspect
from typing import ClassVar


class EyespotError(Exception):
    """Something went wrong in eyespot."""

    def __init__(self, detail: str = "") -> None:
        self.detail = detail or inspect.cleandoc(type(self).__doc__ or "")
        super().__init__(self.detail)


class StartError(EyespotError):
    """eyespot cannot start."""


class InvalidSetting(StartError):
    """A setting has a value that it cannot have."""


class BadManifest(StartError):
    """The manifest of networks cannot be read."""


class UnknownModel(StartError):
    """The manifest has no network of that name."""


class WeightsMissing(StartError):
    """The weight file is not on this machine."""


class WeightsCorrupt(StartError):
    """The weight file is not the one that the manifest names."""


class FetchFailed(StartError):
    """The weights could not be downloaded."""


class EngineUnavailable(StartError):
    """The engine is not installed, or cannot do what was asked."""


class ExportRefused(StartError):
    """The exported network does not answer as the original does."""


class TooFewImages(StartError):
    """There are not enough images to calibrate or to measure with."""


class GoldenImageFailed(StartError):
    """The network does not recognise the image that every start is checked with."""


class DataDirUnwritable(StartError):
    """The data directory cannot be written."""


class AuditUnusable(StartError):
    """The audit log cannot be used."""


class PortTaken(StartError):
    """The address cannot be listened on."""


class OutputUnusable(StartError):
    """The file of results cannot be written, or gone on with."""


class SidecarUnreadable(EyespotError):
    """The XMP file beside the image is none that keywords can be added to."""


class NoAnswer(EyespotError):
    """A server that was asked gave no answer of eyespot's."""


class ServerUnavailable(NoAnswer):
    """There is no server at that address, it is not ready, or the connection broke."""


class ServerSilent(NoAnswer):
    """The server did not answer in time."""


class NotEyespot(NoAnswer):
    """Whatever answered at that address is no eyespot."""


class Refusal(EyespotError):
    """The request is refused."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str = "",
        *,
        limit: float | None = None,
        value: float | str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """`limit` and `value` are the limit that was broken and what broke it; `retry_after` is in seconds."""
        super().__init__(detail)
        self.limit = limit
        self.value = value
        self.retry_after = retry_after

    @property
    def is_of_the_image(self) -> bool:
        """Whether it says something of one image alone, so that the next may well be answered."""
        return self.status in (400, 413, 415, 422, 500, 504) and not isinstance(self, InvalidParameter)


class BadRequest(Refusal):
    """This is no HTTP/1.1 request that can be answered here."""

    status, code, title = 400, "bad-request", "Bad request"


class NoImage(Refusal):
    """No image was sent: send one as multipart field `file`, as base64 in JSON field `image`, or as the body."""

    status, code, title = 400, "no-image", "No image"


class SeveralImages(Refusal):
    """The form holds several files where one image belongs."""

    status, code, title = 400, "several-images", "Several images"


class BadJson(Refusal):
    """The body is not valid JSON."""

    status, code, title = 400, "bad-json", "Broken JSON"


class BadBase64(Refusal):
    """The field `image` is not valid base64."""

    status, code, title = 400, "bad-base64", "Broken base64"


class BadForm(Refusal):
    """The form cannot be read."""

    status, code, title = 400, "bad-form", "Broken form"


class Unauthorized(Refusal):
    """A valid API key is needed."""

    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(Refusal):
    """This API key does not allow that."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(Refusal):
    """There is nothing at this path; /docs lists what there is."""

    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(Refusal):
    """This path does not answer that method."""

    status, code, title = 405, "method-not-allowed", "Method not allowed"


class UploadStalled(Refusal):
    """Nothing more of the body has arrived for too long."""

    status, code, title = 408, "upload-stalled", "Upload stalled"


class ImageTooLarge(Refusal):
    """The encoded image has too many bytes."""

    status, code, title = 413, "image-too-large", "Image too large"


class BodyTooLarge(Refusal):
    """The body has too many bytes."""

    status, code, title = 413, "body-too-large", "Body too large"


class TooManyImages(Refusal):
    """The batch holds too many images."""

    status, code, title = 413, "too-many-images", "Too many images"


class UnsupportedBody(Refusal):
    """The content type is none that is read here: send multipart/form-data, application/json, or an image."""

    status, code, title = 415, "unsupported-body", "Unsupported body"


class UnsupportedFormat(Refusal):
    """The bytes are no image of a supported format."""

    status, code, title = 415, "unsupported-format", "Unsupported image format"


class BrokenImage(Refusal):
    """The image cannot be decoded: it is damaged or incomplete."""

    status, code, title = 422, "broken-image", "Broken image"


class TooManyPixels(Refusal):
    """The image has too many pixels."""

    status, code, title = 422, "too-many-pixels", "Too many pixels"


class TooSmall(Refusal):
    """The image is too small to recognise anything in it."""

    status, code, title = 422, "too-small", "Image too small"


class TooManyScans(Refusal):
    """The progressive JPEG has more scans than any camera or editor makes."""

    status, code, title = 422, "too-many-scans", "Too many scans"


class TooMuchMemory(Refusal):
    """Decoding the progressive JPEG would take too much memory: save it as a baseline JPEG, or make it smaller."""

    status, code, title = 422, "too-much-memory", "Too much memory"


class InvalidParameter(Refusal):
    """A parameter has a value that it cannot have."""

    status, code, title = 422, "invalid-parameter", "Invalid parameter"


class RateLimited(Refusal):
    """Too many requests from this client."""

    status, code, title = 429, "rate-limited", "Rate limited"


class HeadTooLarge(Refusal):
    """The head of the request, its URL and headers, or its trailers have too many bytes."""

    status, code, title = 431, "head-too-large", "Head too large"


class Internal(Refusal):
    """Something went wrong here, not in the request. The log has it under the request id."""

    status, code, title = 500, "internal", "Internal error"


class Overloaded(Refusal):
    """Too many images are waiting; try again later."""

    status, code, title = 503, "overloaded", "Overloaded"


class Draining(Refusal):
    """This server is stopping; try again, and another will answer."""

    status, code, title = 503, "draining", "Draining"


class AuditUnavailable(Refusal):
    """The answer could not be written to the audit log, which is required here."""

    status, code, title = 503, "audit-unavailable", "Audit log unavailable"


class CacheUnavailable(Refusal):
    """The cache, which holds what is to be forgotten, cannot be reached; try again later."""

    status, code, title = 503, "cache-unavailable", "Cache unavailable"


class StorageUnavailable(Refusal):
    """The disk with the kept images does not answer; try again later."""

    status, code, title = 503, "storage-unavailable", "Storage unavailable"


class StorageFull(Refusal):
    """There is no room left to keep the image."""

    status, code, title = 503, "storage-full", "Storage full"


class TooLate(Refusal):
    """The image could not be recognised within the deadline."""

    status, code, title = 504, "too-late", "Too late"


REFUSALS: dict[str, type[Refusal]] = {kind.code: kind for kind in Refusal.__subclasses__()}
"""Every kind of refusal by its code; how a client finds the class of a problem it was sent."""
