"""All errors that eyespot raises.

EyespotError
├── StartError                    the process cannot start: one line, exit code 2
│   ├── InvalidSetting  DataDirUnwritable  AuditUnusable  PortTaken  OutputUnusable
│   ├── BadManifest  UnknownModel  WeightsMissing  WeightsCorrupt  FetchFailed
│   ├── EngineUnavailable  ExportRefused  GoldenImageFailed
│   └── TooFewImages  UnlabelledImages  BadDataset  CalibrationRefused
├── SidecarUnreadable             keywords cannot be added to an XMP file
├── NoAnswer                      a server gave no usable answer
│   └── ServerUnavailable  ServerSilent  NotEyespot
└── Refusal                       a request is refused with a status, a code and a sentence
    ├── 400  BadRequest  NoImage  SeveralImages  BadJson  BadBase64  BadForm  BadTensor
    ├── 401  Unauthorized         403  Forbidden
    ├── 404  NotFound             405  MethodNotAllowed     408  UploadStalled    409  ModelUnavailable
    ├── 413  ImageTooLarge  BodyTooLarge  TooManyImages
    ├── 415  UnsupportedBody  UnsupportedFormat
    ├── 422  BrokenImage  TooManyPixels  TooSmall  TooManyScans  TooMuchMemory  InvalidParameter
    ├── 429  RateLimited          431  HeadTooLarge
    ├── 500  Internal
    ├── 503  Overloaded  Draining  AuditUnavailable  CacheUnavailable  StorageUnavailable  StorageFull
    └── 504  DeadlineExceeded

A refusal's docstring is the sentence that users get when there is nothing more exact to say.
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
    """A setting has an invalid value."""


class BadManifest(StartError):
    """The manifest cannot be read."""


class UnknownModel(StartError):
    """The manifest has no model of that name."""


class WeightsMissing(StartError):
    """The weight file is not on this machine."""


class WeightsCorrupt(StartError):
    """The weight file does not match the manifest."""


class FetchFailed(StartError):
    """The weights could not be downloaded."""


class EngineUnavailable(StartError):
    """The engine is not installed, or does not support what was asked."""


class ExportRefused(StartError):
    """The exported model does not give the answers of the original."""


class TooFewImages(StartError):
    """There are too few images to calibrate and measure with."""


class UnlabelledImages(StartError):
    """Images belong to no class of the model."""


class BadDataset(StartError):
    """The training images cannot be used."""


class CalibrationRefused(StartError):
    """No threshold makes enough answers right."""


class GoldenImageFailed(StartError):
    """The model does not recognise the golden image, which every start checks."""


class DataDirUnwritable(StartError):
    """The data folder is not writable."""


class AuditUnusable(StartError):
    """The audit log cannot be used."""


class PortTaken(StartError):
    """The server cannot listen on this address."""


class OutputUnusable(StartError):
    """The results file cannot be written or resumed."""


class SidecarUnreadable(EyespotError):
    """Keywords cannot be added to the XMP file beside the image."""


class NoAnswer(EyespotError):
    """A server gave no usable answer."""

    def __init__(self, detail: str = "", *, status: int | None = None) -> None:
        """`status` is that of the answer, if there was one."""
        super().__init__(detail)
        self.status = status


class ServerUnavailable(NoAnswer):
    """No server answers at this address, it is not ready, or the connection broke."""


class ServerSilent(NoAnswer):
    """The server did not answer in time."""


class NotEyespot(NoAnswer):
    """The server at this address is not eyespot."""


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
        request_id: str | None = None,
    ) -> None:
        """`value` broke `limit`; `retry_after` is in seconds; `request_id` is set on the client only."""
        super().__init__(detail)
        self.limit, self.value, self.retry_after, self.request_id = limit, value, retry_after, request_id

    @property
    def per_image(self) -> bool:
        """Whether it concerns one image only, so that the next may well be answered."""
        return self.status in (400, 413, 415, 422, 500, 504) and not isinstance(self, InvalidParameter)


class BadRequest(Refusal, status=400, code="bad-request", title="Bad request"):
    """This is not a valid HTTP/1.1 request."""


class NoImage(Refusal, status=400, code="no-image", title="No image"):
    """No image was sent: send one as multipart field `file`, as base64 in JSON field `image`, or as the body."""


class SeveralImages(Refusal, status=400, code="several-images", title="Several images"):
    """The form has several files; send one."""


class BadJson(Refusal, status=400, code="bad-json", title="Broken JSON"):
    """The body is not valid JSON."""


class BadBase64(Refusal, status=400, code="bad-base64", title="Broken base64"):
    """The field `image` is not valid base64."""


class BadForm(Refusal, status=400, code="bad-form", title="Broken form"):
    """The form cannot be read."""


class BadTensor(Refusal, status=400, code="bad-tensor", title="Invalid tensor"):
    """The request's tensors do not match the model's; see /v2/models/NAME."""


class Unauthorized(Refusal, status=401, code="unauthorized", title="Unauthorized"):
    """A valid API key is required: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""


class Forbidden(Refusal, status=403, code="forbidden", title="Forbidden"):
    """Forbidden: admin routes need an admin key; cross-origin calls need EYESPOT_CORS_ORIGINS."""


class NotFound(Refusal, status=404, code="not-found", title="Not found"):
    """There is nothing at this path; see /docs."""


class MethodNotAllowed(Refusal, status=405, code="method-not-allowed", title="Method not allowed"):
    """This path does not support that method; see the Allow header."""


class UploadStalled(Refusal, status=408, code="upload-stalled", title="Upload stalled"):
    """The body stopped arriving; send it again."""


class ModelUnavailable(Refusal, status=409, code="model-unavailable", title="Model unavailable"):
    """The model cannot be opened; the present one keeps serving."""


class ImageTooLarge(Refusal, status=413, code="image-too-large", title="Image too large"):
    """The encoded image has too many bytes: scale it down, or compress it more."""


class BodyTooLarge(Refusal, status=413, code="body-too-large", title="Body too large"):
    """The body has too many bytes: send a smaller image, or fewer."""


class TooManyImages(Refusal, status=413, code="too-many-images", title="Too many images"):
    """The batch has too many images; split it."""


class UnsupportedBody(Refusal, status=415, code="unsupported-body", title="Unsupported body"):
    """This content type is not supported: send multipart/form-data, application/json or an image."""


class UnsupportedFormat(Refusal, status=415, code="unsupported-format", title="Unsupported image format"):
    """This is not an image in a supported format; convert it to JPEG, PNG or WebP."""


class BrokenImage(Refusal, status=422, code="broken-image", title="Broken image"):
    """The image is damaged or incomplete; send it again, or re-save it."""


class TooManyPixels(Refusal, status=422, code="too-many-pixels", title="Too many pixels"):
    """The image has too many pixels; scale it down."""


class TooSmall(Refusal, status=422, code="too-small", title="Image too small"):
    """The image is too small to recognise anything in it."""


class TooManyScans(Refusal, status=422, code="too-many-scans", title="Too many scans"):
    """The progressive JPEG has more scans than any camera or editor makes; save it as a baseline JPEG."""


class TooMuchMemory(Refusal, status=422, code="too-much-memory", title="Too much memory"):
    """Decoding the progressive JPEG would need too much memory: save it as a baseline JPEG, or make it smaller."""


class InvalidParameter(Refusal, status=422, code="invalid-parameter", title="Invalid parameter"):
    """A parameter has an invalid value."""


class RateLimited(Refusal, status=429, code="rate-limited", title="Rate limited"):
    """This client sends too many requests; try again after Retry-After."""


class HeadTooLarge(Refusal, status=431, code="head-too-large", title="Head too large"):
    """The URL, headers or trailers of the request have too many bytes."""


class Internal(Refusal, status=500, code="internal", title="Internal error"):
    """The server failed; its log has the details under the request id."""


class Overloaded(Refusal, status=503, code="overloaded", title="Overloaded"):
    """Too many images are waiting; try again after Retry-After."""


class Draining(Refusal, status=503, code="draining", title="Draining"):
    """This server is stopping; try again after Retry-After."""


class AuditUnavailable(Refusal, status=503, code="audit-unavailable", title="Audit log unavailable"):
    """The answer could not be written to the audit log, which this server requires; try again later."""


class CacheUnavailable(Refusal, status=503, code="cache-unavailable", title="Cache unavailable"):
    """The cache cannot be reached, so cached answers cannot be deleted; try again later."""


class StorageUnavailable(Refusal, status=503, code="storage-unavailable", title="Storage unavailable"):
    """The disk with the uploads does not respond; try again later."""


class StorageFull(Refusal, status=503, code="storage-full", title="Storage full"):
    """The server could not store the image; its disk may be full."""


class DeadlineExceeded(Refusal, status=504, code="deadline-exceeded", title="Deadline exceeded"):
    """The image was not recognised within the deadline; try again when the server is less busy."""


REFUSALS: dict[str, type[Refusal]] = {kind.code: kind for kind in Refusal.__subclasses__()}
"""Every refusal by its code, so that a client can raise what the server raised."""
