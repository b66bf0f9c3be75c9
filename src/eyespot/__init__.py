"""eyespot: what is in this image? Offline, on a CPU.

Read in this order; each part imports only parts above it:

1. `types`, `errors`, `settings`, `choices`, `telemetry`: shared types, errors, settings, tables, log and metrics
2. `vision`: encoded bytes in, confidences out. `preprocess` makes pixels, `engines` run a model, `classifier` joins
   them.
3. `memory`: cache, audit log, uploads, rate limits
4. `cpus`, `job`, `pool`: who gets a worker thread, and when
5. `recognizer`: the pipeline of one image, in eight steps. `assembly` builds it from the settings.
6. `web.app`: every route, and the layers in front. `web.gate` is what each request passes, `web.api` what can be asked.
7. `client` for programs, `cli` for people, `bench` to measure speed

Another program needs `from eyespot import Client`, or `AsyncClient`.
"""

from typing import TYPE_CHECKING, Any

from eyespot._version import __version__

if TYPE_CHECKING:
    from eyespot.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from eyespot import client  # slow import (0.2 s); the server and most commands don't need it

        return getattr(client, name)
    raise AttributeError(f"module 'eyespot' has no attribute {name!r}")
