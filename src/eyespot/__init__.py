"""eyespot: what is in this image? Offline, on a CPU.

Read in this order, each file needing only the ones before it:

1. `types`, `errors`, `settings`, `telemetry`: the words
2. `vision.preprocess`, `vision.engines`, `vision.labels`, `vision.weights`, then `vision.export` and
   `vision.classifier` which join them: bytes in, confidences out
3. `memory`: what is remembered; `pool`: how many at once
4. `recognizer`: the trace of one image; `assembly` builds it and takes it apart
5. `web`, `client` and `cli`: the edges

Beside that road: `vision.fetch` downloads weights, `vision.quantize` makes int8, `bench` measures, `ordered` maps over
many items, `images` encodes what a program holds.

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
        from eyespot import client  # 0.2 s that nothing else here needs

        return getattr(client, name)
    raise AttributeError(f"module 'eyespot' has no attribute {name!r}")
