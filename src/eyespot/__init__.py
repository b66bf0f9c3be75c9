"""eyespot: what is in this image? Offline, on a CPU.

Read in this order; each part imports only parts above it:

1. `types`, `errors`, `settings`, `choices`, `telemetry`: shared types, errors, settings, tables, log and metrics
2. `vision`: encoded bytes in, confidences out. `preprocess` makes pixels, `engines` run a model, `labels` and `groups`
   name what it finds, `classifier` joins them.
3. `memory`: cache, audit log, uploads, rate limits
4. `cpus`, `job`, `pool`: who gets a worker thread, and when
5. `model`: the one that serves, until it is switched. `recognizer`: the pipeline of one image, in eight steps.
   `assembly` builds both from the settings.
6. `web.app`: every route, and the layers in front. `web.gate` is what each request passes, `web.api` what can be asked.
7. `client` for programs, `cli` for people, `bench` to measure speed

Another program needs `from eyespot import Client`, or `AsyncClient`; what they return and raise is here as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eyespot._version import __version__

if TYPE_CHECKING:  # __all__ chooses from them
    from eyespot.client import AsyncClient, Client
    from eyespot.errors import *  # noqa: F403
    from eyespot.images import ImageSource
    from eyespot.types import *  # noqa: F403

__all__ = [  # noqa: F405
    "Accuracy", "AsyncClient", "AuditUnavailable", "BadBase64", "BadForm", "BadJson", "BadRequest", "BadTensor",
    "BodyTooLarge", "BrokenImage", "CacheUnavailable", "Calibration", "Check", "Client", "Crop", "DeadlineExceeded",
    "Draining", "Explanation", "EyespotError", "Forbidden", "Group", "GroupScore", "HeadTooLarge", "ImageInfo",
    "ImageSource", "ImageTooLarge", "Internal", "InvalidParameter", "Label", "LabelEntry", "Limits",
    "MethodNotAllowed", "ModelCard", "ModelInfo", "ModelUnavailable", "NoAnswer", "NoImage", "NotEyespot",
    "NotFound", "Overloaded", "Prediction", "Quantization", "RateLimited", "Readiness", "Recipe", "Recognition",
    "Refusal", "Says", "ServerSilent", "ServerUnavailable", "SeveralImages", "StorageFull", "StorageUnavailable",
    "TooManyImages", "TooManyPixels", "TooManyScans", "TooMuchMemory", "TooSmall", "Unauthorized",
    "UnsupportedBody", "UnsupportedFormat", "UploadStalled", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("errors", "types", "images", "client"):  # the slow one last: 0.2 s
            found = getattr(import_module(f"eyespot.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'eyespot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
