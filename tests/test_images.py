"""Every kind of image source is recognised as its file is."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyespot.errors import ImageTooLarge, NoImage, TooSmall
from eyespot.images import ImageSource, fit, to_bytes
from eyespot.vision.engines import Features, Logits, Pixels
from eyespot.vision.scores import Scores
from tests import makers
from tests.serving import FakeEngine, fake_classifier


class Mosaic(FakeEngine):
    """Its logits are the weighted means of ten patches, each of one channel, so that any change is seen."""

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        _, map_ = super().infer(pixels, features=features, exclusive=exclusive)
        ten = [(row, column, (row + column) % 3) for row in (0, 1) for column in range(5)]
        size = [side // count for side, count in zip(pixels.shape[1:3], (2, 5), strict=True)]
        patches = [
            pixels[:, row * size[0] : (row + 1) * size[0], column * size[1] : (column + 1) * size[1], channel]
            for row, column, channel in ten
        ]
        means = np.stack([patch.mean((1, 2)) for patch in patches], 1)
        return (means * np.linspace(0.02, 0.04, 10)).astype(np.float32), map_


CLASSIFIER = fake_classifier(Mosaic())
PHOTOGRAPH = makers.jpeg()


def scores(source: ImageSource) -> Scores:
    data = to_bytes(source)
    assert len(data) <= 5 * 1024 * 1024  # more is refused by servers
    return CLASSIFIER.scores(data)


def assert_same(one: Scores, other: Scores) -> None:
    """The same size and confidences, but for the last levels of a pixel."""
    assert (one.width, one.height) == (other.width, other.height)
    assert_alike(one, other, within=0.01)


def assert_alike(one: Scores, other: Scores, within: float) -> None:
    by_class = [dict(zip(each.class_ids.tolist(), each.confidences.tolist(), strict=True)) for each in (one, other)]
    assert by_class[0] == pytest.approx(by_class[1], abs=within)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_encoded_bytes_stay_as_they_are(kind: Callable[[bytes], ImageSource]) -> None:
    assert to_bytes(kind(PHOTOGRAPH)) == PHOTOGRAPH


def test_a_file_is_read_by_its_path_or_open(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(PHOTOGRAPH)
    with path.open("rb") as file:
        assert {to_bytes(source) for source in (path, str(path), file)} == {PHOTOGRAPH}


def _palette() -> Image.Image:
    return makers.photograph().quantize(64)


def _see_through(mode: str) -> Image.Image:
    image = makers.photograph().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


OPENED: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: makers.encode(makers.photograph(), "PNG"),
    "RGBA": lambda: makers.encode(_see_through("RGBA"), "PNG"),
    "LA": lambda: makers.encode(_see_through("LA"), "PNG"),
    "L": lambda: makers.encode(makers.photograph().convert("L"), "PNG"),
    "1": lambda: makers.encode(makers.photograph().convert("1"), "PNG"),
    "P": lambda: makers.encode(_palette(), "PNG"),
    "P with a transparent colour": lambda: makers.encode(_palette(), "PNG", transparency=3),
    "CMYK": lambda: makers.encode(makers.photograph().convert("CMYK"), "JPEG", quality=95),
    "16 bits": makers.sixteen_bit,
    "YCbCr": lambda: makers.encode(makers.photograph(), "JPEG", quality=95),
    "WebP": lambda: makers.encode(makers.photograph(), "WEBP"),
    **{f"orientation {turn}": lambda turn=turn: makers.turned(makers.photograph(), turn) for turn in range(1, 9)},
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_pil_image_is_recognised_as_its_file_is(kind: str) -> None:
    data = OPENED[kind]()
    with Image.open(io.BytesIO(data)) as opened:
        assert_same(scores(opened), scores(data))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_array_is_recognised_as_its_file_is(mode: str) -> None:
    image = _see_through("RGBA") if mode == "RGBA" else makers.photograph().convert(mode)
    assert_same(scores(np.asarray(image)), scores(makers.encode(image, "PNG")))


def test_an_array_with_negative_strides_is_the_same_image() -> None:
    blue_green_red = np.asarray(makers.photograph())[..., ::-1].copy()
    assert_same(scores(blue_green_red[..., ::-1]), scores(makers.photograph()))


@cache
def _noisy(width: int, height: int) -> tuple[Image.Image, bytes]:
    """Colours that differ from place to place, under noise that no PNG makes smaller; and their file."""
    x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    noise = np.random.default_rng(1).integers(0, 100, (height, width, 3), np.uint8)
    image = Image.fromarray((np.stack([x, y, 1 - x], 2) * 155).astype(np.uint8) + noise)
    return image, makers.encode(image, "JPEG", quality=30)


@pytest.mark.parametrize("size", [(4000, 3000), (2200, 1479)])
def test_a_large_pil_image_is_scaled_down_and_keeps_its_label(size: tuple[int, int]) -> None:
    noisy, data = _noisy(*size)
    with_all_pixels, scaled = CLASSIFIER.scores(data), scores(noisy)
    assert scaled.class_ids[0] == with_all_pixels.class_ids[0]
    assert_alike(scaled, with_all_pixels, within=0.03)
    assert scaled.width / scaled.height == pytest.approx(size[0] / size[1], abs=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_large_pil_image_of_any_mode_is_scaled_down(mode: str) -> None:
    size = (2600, 2500)
    white = Image.new(mode, size, 65535) if mode == "I;16" else makers.flat(size, "white").convert(mode)
    small = makers.flat((64, 64), "white")
    assert_alike(scores(white), scores(small), within=0.001)


@pytest.mark.parametrize("side", [1290, 1328])  # the last that is sent whole, and one that would be too much
def test_noise_is_not_too_large(side: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    assert (scores(noise).width == side) == (side == 1290)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_fine_stripes_stay_grey_when_they_are_scaled_down(mode: str) -> None:
    stripes = np.zeros((4000, 5000), np.uint8)  # of which every second column is all white
    stripes[:, ::2] = 255
    grey = makers.flat((64, 64), (127, 127, 127))
    assert_alike(scores(Image.fromarray(stripes).convert(mode)), scores(grey), within=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_that_is_too_large_is_scaled_down_upright_and_keeps_its_answer(orientation: int) -> None:
    data = makers.turned(_noisy(4000, 3000)[0], orientation, quality=95)
    smaller = fit(data, 5 * 1024 * 1024)
    assert len(smaller) <= 5 * 1024 * 1024 < len(data)
    whole, scaled = CLASSIFIER.scores(data), CLASSIFIER.scores(smaller)
    assert_alike(scaled, whole, within=0.03)
    assert scaled.width / scaled.height == pytest.approx(whole.width / whole.height, abs=0.01)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("max_bytes", [10_000, 100_000])
def test_a_file_of_any_format_is_scaled_down_to_the_limit(kind: str, max_bytes: int) -> None:
    data = makers.encode(_noisy(1000, 700)[0], kind)
    smaller = fit(data, max_bytes)
    assert max_bytes / 3 < len(smaller) <= max_bytes
    assert CLASSIFIER.scores(smaller).format == "PNG"


@pytest.mark.parametrize("data", [PHOTOGRAPH[:-1000], b"GIF89a", b"", makers.encode(makers.flat(), "BMP")])
def test_what_cannot_be_decoded_is_not_scaled_down(data: bytes) -> None:
    assert fit(data, 5) is data


def test_what_fits_is_not_scaled_down() -> None:
    assert fit(PHOTOGRAPH, len(PHOTOGRAPH)) is PHOTOGRAPH


def test_a_profile_of_megabytes_is_not_sent() -> None:
    image = makers.flat((64, 48)).convert("CMYK")
    image.info["icc_profile"] = np.random.default_rng(1).bytes(2_000_000)
    assert len(to_bytes(image)) < 10_000
    data = makers.encode(image, "JPEG", icc_profile=image.info["icc_profile"])
    assert len(fit(data, 1_000_000)) < 10_000


UNUSABLE: dict[str, tuple[Any, str]] = {
    "None": (None, "an image is a path, bytes, a binary file, a PIL image or a numpy array, not NoneType"),
    "a list of rows": ([[1, 2], [3, 4]], "or a numpy array, not list"),
    "what is like a tensor": (SimpleNamespace(__array__=lambda: np.zeros((4, 4, 3), np.uint8)), "or a numpy array"),
    "a file of text": (io.StringIO("text"), r"open\(path, 'rb'\)"),
    "floats": (np.zeros((8, 8, 3)), r"must be uint8 \(0 to 255\), .* this is <f8"),
    "truths": (np.zeros((8, 8), bool), "must be uint8"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), r"of shape \(h, w\), .* this is .* of shape \(3, 8, 8\)"),
    "one channel": (np.zeros((8, 8, 1), np.uint8), r"\(h, w\)"),
    "several images": (np.zeros((2, 8, 8, 3), np.uint8), "of shape"),
    "one number": (np.uint8(3), "of shape"),
    "a PIL image of floats": (Image.new("F", (8, 8)), "convert it to RGB"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_the_error_names_the_valid_image_sources(what: str) -> None:
    image, told = UNUSABLE[what]
    with pytest.raises(TypeError, match=told):
        to_bytes(image)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        to_bytes(tmp_path / "none.jpg")


def test_a_file_of_more_than_256_mib_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(256 * 1024 * 1024 + 1)
    with pytest.raises(ImageTooLarge, match="more than 268,435,456 bytes"):
        to_bytes(path)


@pytest.mark.parametrize("source", [b"", io.BytesIO(), "/dev/null"], ids=["bytes", "file", "path"])
def test_no_bytes_are_no_image(source: ImageSource) -> None:
    with pytest.raises(NoImage, match="0 bytes"):
        to_bytes(source)


@pytest.mark.parametrize("empty", [Image.new("RGB", (0, 9)), np.zeros((0, 9, 3), np.uint8)], ids=["PIL", "array"])
def test_an_image_without_pixels_is_too_small(empty: Any) -> None:
    with pytest.raises(TooSmall, match="no pixels"):
        to_bytes(empty)
