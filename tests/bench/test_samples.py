import io
from pathlib import Path

import pytest
from PIL import Image

from eyespot.bench import samples
from eyespot.errors import TooFewImages
from eyespot.vision import preprocess
from tests import makers
from tests.serving import RECIPE


def test_at_most_a_hundred_images_spread_over_the_folder(tmp_path: Path) -> None:
    for number in range(250):
        (tmp_path / f"{number:03}.jpg").write_bytes(makers.encode(makers.flat((8, 8), (number, 0, 0))))
    (tmp_path / "000.txt").write_text("no image")
    (tmp_path / "003.jpg").write_text("no image either")
    images = samples.load(tmp_path, 5_000_000)
    assert 80 < len(images) <= 100
    reds = [Image.open(io.BytesIO(data)).getpixel((0, 0))[0] for data in images]  # type: ignore[index]
    assert max(reds) > 240


def test_the_sample_image_without_a_folder() -> None:
    assert len(set(samples.load(None, 5_000_000))) == 8


def test_images_that_a_server_refuses_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(makers.jpeg())
    assert len(samples.load(tmp_path, len(makers.jpeg()))) == 1
    with pytest.raises(TooFewImages, match="has no valid JPEG"):
        samples.load(tmp_path, len(makers.jpeg()) - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_makes_an_image_unique_does_not_change_its_pixels(kind: str) -> None:
    data = makers.encode(makers.photograph(), kind)
    unique = samples.unique(data)
    assert len({data, unique, samples.unique(data)}) == 3
    assert (preprocess.preprocess(unique, RECIPE).pixels == preprocess.preprocess(data, RECIPE).pixels).all()
