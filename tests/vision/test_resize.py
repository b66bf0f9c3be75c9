"""The fast resize beside Pillow's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyespot.vision import resize
from tests import makers

simd = pytest.mark.skipif(resize.Resizer is None, reason="cykooz.resizer has no wheel for this platform")

SHARES = st.floats(0, 1)


def differences(image: Image.Image, box: resize.Box, side: int, interpolation: str) -> np.ndarray:
    ours = resize._with_simd(image, box, (side, side), interpolation)
    pillow = resize._with_pillow(image, box, (side, side), interpolation)
    return np.abs(np.asarray(ours).astype(int) - np.asarray(pillow))


@simd
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", ["coffee", "rocket", "astronaut", "chelsea"])
@pytest.mark.parametrize("tall", [False, True])
def test_photographs_get_the_pixels_that_pillow_gives_them(name: str, tall: bool, interpolation: str) -> None:
    image = makers.photograph(name).convert("RGB")
    if tall:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    width, height = image.size
    found = differences(image, (30.4, 20.7, width - 25.3, height - 21.9), 224, interpolation)
    assert found.max() <= 2
    assert (found > 0).mean() < 0.02  # 0.15 in the other order of width and height


@simd
@settings(max_examples=200, deadline=None)
@given(st.integers(4, 400), SHARES, SHARES, SHARES, st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 9))
def test_any_square_of_any_square_image(
    size: int, share: float, across: float, down: float, interpolation: str, seed: int
) -> None:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))
    side = max(1.0, share * size)
    left, top = across * (size - side), down * (size - side)
    assert differences(image, (left, top, left + side, top + side), 32, interpolation).max() <= 3


def test_without_the_library_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    image, box = makers.photograph("chelsea").convert("RGB"), (1.5, 2.5, 300.2, 250.1)
    monkeypatch.setattr(resize, "Resizer", None)  # as where it has no wheel
    ours = resize.resize(image, box, (64, 64), "bilinear")
    assert ours.tobytes() == image.resize((64, 64), Image.Resampling.BILINEAR, box=box).tobytes()
