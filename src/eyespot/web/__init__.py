"""The HTTP edge: requests in, problems and answers out."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
