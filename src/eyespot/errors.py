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
    └── 504  DeadlineExceeded

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

    def __init_subclass__(cls, *, status: int, code: str, title: str) -> None:
        cls.status, cls.code, cls.title = status, code, title

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
    def per_image(self) -> bool:
        """Whether it says something of one image alone, so that the next may well be answered."""
        return self.status in (400, 413, 415, 422, 500, 504) and not isinstance(self, InvalidParameter)


class BadRequest(Refusal, status=400, code="bad-request", title="Bad request"):
    """This is no HTTP/1.1 request that can be answered here."""


class NoImage(Refusal, status=400, code="no-image", title="No image"):
    """No image was sent: send one as multipart field `file`, as base64 in JSON field `image`, or as the body."""


class SeveralImages(Refusal, status=400, code="several-images", title="Several images"):
    """The form holds several files where one image belongs."""


class BadJson(Refusal, status=400, code="bad-json", title="Broken JSON"):
    """The body is not valid JSON."""


class BadBase64(Refusal, status=400, code="bad-base64", title="Broken base64"):
    """The field `image` is not valid base64."""


class BadForm(Refusal, status=400, code="bad-form", title="Broken form"):
    """The form cannot be read."""


class Unauthorized(Refusal, status=401, code="unauthorized", title="Unauthorized"):
    """A valid API key is needed."""


class Forbidden(Refusal, status=403, code="forbidden", title="Forbidden"):
    """This API key does not allow that."""


class NotFound(Refusal, status=404, code="not-found", title="Not found"):
    """There is nothing at this path; /docs lists what there is."""


class MethodNotAllowed(Refusal, status=405, code="method-not-allowed", title="Method not allowed"):
    """This path does not answer that method."""


class UploadStalled(Refusal, status=408, code="upload-stalled", title="Upload stalled"):
    """Nothing more of the body has arrived for too long."""


class ImageTooLarge(Refusal, status=413, code="image-too-large", title="Image too large"):
    """The encoded image has too many bytes."""


class BodyTooLarge(Refusal, status=413, code="body-too-large", title="Body too large"):
    """The body has too many bytes."""


class TooManyImages(Refusal, status=413, code="too-many-images", title="Too many images"):
    """The batch holds too many images."""


class UnsupportedBody(Refusal, status=415, code="unsupported-body", title="Unsupported body"):
    """The content type is none that is read here: send multipart/form-data, application/json, or an image."""


class UnsupportedFormat(Refusal, status=415, code="unsupported-format", title="Unsupported image format"):
    """The bytes are no image of a supported format."""


class BrokenImage(Refusal, status=422, code="broken-image", title="Broken image"):
    """The image cannot be decoded: it is damaged or incomplete."""


class TooManyPixels(Refusal, status=422, code="too-many-pixels", title="Too many pixels"):
    """The image has too many pixels."""


class TooSmall(Refusal, status=422, code="too-small", title="Image too small"):
    """The image is too small to recognise anything in it."""


class TooManyScans(Refusal, status=422, code="too-many-scans", title="Too many scans"):
    """The progressive JPEG has more scans than any camera or editor makes."""


class TooMuchMemory(Refusal, status=422, code="too-much-memory", title="Too much memory"):
    """Decoding the progressive JPEG would take too much memory: save it as a baseline JPEG, or make it smaller."""


class InvalidParameter(Refusal, status=422, code="invalid-parameter", title="Invalid parameter"):
    """A parameter has a value that it cannot have."""


class RateLimited(Refusal, status=429, code="rate-limited", title="Rate limited"):
    """Too many requests from this client."""


class HeadTooLarge(Refusal, status=431, code="head-too-large", title="Head too large"):
    """The head of the request, its URL and headers, or its trailers have too many bytes."""


class Internal(Refusal, status=500, code="internal", title="Internal error"):
    """Something went wrong here, not in the request. The log has it under the request id."""


class Overloaded(Refusal, status=503, code="overloaded", title="Overloaded"):
    """Too many images are waiting; try again later."""


class Draining(Refusal, status=503, code="draining", title="Draining"):
    """This server is stopping; try again, and another will answer."""


class AuditUnavailable(Refusal, status=503, code="audit-unavailable", title="Audit log unavailable"):
    """The answer could not be written to the audit log, which is required here."""


class CacheUnavailable(Refusal, status=503, code="cache-unavailable", title="Cache unavailable"):
    """The cache, which holds what is to be forgotten, cannot be reached; try again later."""


class StorageUnavailable(Refusal, status=503, code="storage-unavailable", title="Storage unavailable"):
    """The disk with the kept images does not answer; try again later."""


class StorageFull(Refusal, status=503, code="storage-full", title="Storage full"):
    """There is no room left to keep the image."""


class DeadlineExceeded(Refusal, status=504, code="deadline-exceeded", title="Deadline exceeded"):
    """The image could not be recognised within the deadline."""


REFUSALS: dict[str, type[Refusal]] = {kind.code: kind for kind in Refusal.__subclasses__()}
"""Every kind of refusal by its code; how a client finds the class of a problem it was sent."""
