"""The sample images of the page: few bytes, nothing hidden in them, and each answered as their sources file says."""

import re

import pytest
from PIL import Image

from eyespot.vision import export
from eyespot.web.api import pages
from tests.serving import Served

SAMPLES = pages.STATIC / "samples"
LABELS = dict(re.findall(r"^\| (\w+\.jpg) \| ([^|]+) \|", (SAMPLES / "SOURCES.md").read_text(), re.MULTILINE))


def test_the_six_that_the_sources_file_names() -> None:
    assert len(LABELS) == 6
    assert {path.name for path in SAMPLES.iterdir()} == {*LABELS, "SOURCES.md"}
    assert sum((SAMPLES / name).stat().st_size for name in LABELS) < 300_000


@pytest.mark.parametrize("name", LABELS)
def test_even_thumbnails_without_metadata(name: str) -> None:
    with Image.open(SAMPLES / name) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (480, 320))
        assert [segment for segment, _ in image.applist] == ["APP0"]  # JFIF: no EXIF, XMP, profile or comment


@pytest.mark.parametrize("name", LABELS)
def test_the_network_in_the_package_answers_as_told(name: str, server: Served) -> None:
    with server.client() as client:
        served = client.get(f"/static/samples/{name}")
        assert served.headers["content-type"] == "image/jpeg"
        answer = client.put("/predict", content=served.content).json()
    assert answer["predictions"][0]["label"] == LABELS[name]


def test_the_coffee_is_the_one_of_the_documents() -> None:
    assert (SAMPLES / "coffee.jpg").read_bytes() == export.SAMPLE.read_bytes()
