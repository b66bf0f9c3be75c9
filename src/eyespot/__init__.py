"""eyespot: what is in this image? Offline, on a CPU.

Read in this order, each file needing only the ones before it:

1. `types`, `errors`, `settings`, `telemetry`: the words
2. `vision.imaging`, `vision.engines`, `vision.labels`, `vision.weights`, then `vision.export` and `vision.classifier`
   which join them: bytes in, confidences out
3. `memory`: what is remembered; `pool`: how many at once
4. `recognizer`: the journey of one image; `assembly` builds it and takes it apart
5. `web` and `cli`: the edges

Beside that road: `vision.fetch` downloads weights, `vision.quantize` makes int8, `bench` measures.
"""

from importlib.metadata import version

__version__ = version("eyespot")
