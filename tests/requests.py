"""An image that differs with every number, and what is asked about it."""

import httpx

from tests import makers
from tests.serving import Served

IMAGE = makers.encode(makers.flat((300, 200)), "PNG")


def image(number: int) -> bytes:
    """Another image for every number; what follows the end of a PNG is not decoded."""
    return IMAGE + number.to_bytes(4)


def predict(served: Served, data: bytes = IMAGE, **query: object) -> httpx.Response:
    with served.client() as client:
        return client.post("/predict", content=data, params=query)  # type: ignore[arg-type]


def answered(served: Served, route: str, status: int, method: str = "POST") -> float:
    """How many requests of that kind the server has answered."""
    labels = f'method="{method}",route="{route}",status="{status}"'
    return metric(served, f"eyespot_request_duration_seconds_count{{{labels}}}")


def metric(served: Served, line: str) -> float:
    with served.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return next((float(found.split()[-1]) for found in lines if found.startswith(f"{line} ")), 0)
