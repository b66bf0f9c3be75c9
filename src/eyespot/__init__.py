"""eyespot: what is in this image? Offline, on a CPU.

Read in this order; each part imports only parts above it:

1. `types`, `errors`, `settings`, `choices`, `telemetry`: the words
2. `vision`: bytes in, confidences out. `preprocess` makes pixels, `engines` run a model, `classifier` joins them.
3. `memory`: cache, audit log, uploads, rate limits. `cpus`, `job`, `pool`: who gets a thread, and when.
4. `recognizer`: the pipeline of one image. `assembly` builds it from the settings.
5. `web.app`: every route, and the layers in front. `web.gate` is what each request passes, `web.api` what can be asked.
6. `client` for programs, `cli` for people, `bench` for figures

`from eyespot import Client` is all that another program needs.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyespot.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = version("eyespot")


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from eyespot import client  # takes 0.2 s, which the server and most commands need not spend

        return getattr(client, name)
    raise AttributeError(f"module 'eyespot' has no attribute {name!r}")
