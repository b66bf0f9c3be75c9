import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from eyespot.errors import (
    BrokenImage,
    Refusal,
    TooManyPixels,
    TooManyScans,
    TooMuchMemory,
    TooSmall,
    UnsupportedFormat,
)
from eyespot.types import Recipe
from eyespot.vision import crop
from eyespot.vision import preprocess as module
from tests import makers
from tests.serving import RECIPE, ROOT

BICUBIC = Recipe(256, 224, "bicubic", RECIPE.mean, RECIPE.std)


def preprocess(data: bytes, recipe: Recipe = RECIPE, **options: object) -> module.ModelInput:
    return module.preprocess(data, recipe, **{"max_pixels": 25_000_000, **options})


def by_torchvision(image: Image.Image, interpolation: str = "bilinear") -> np.ndarray:
    mode = transforms.InterpolationMode(interpolation)
    view = transforms.Compose([transforms.Resize(256, interpolation=mode, antialias=True), transforms.CenterCrop(224)])
    return np.asarray(view(image.convert("RGB")))


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut", "camera"])
@pytest.mark.parametrize("recipe", [RECIPE, BICUBIC], ids=["bilinear", "bicubic"])
def test_photographs_match_torchvision(name: str, recipe: Recipe) -> None:
    image = makers.photograph(name)
    result = preprocess(makers.encode(image, "PNG"), recipe)
    assert result.pixels.shape == (224, 224, 3)
    assert result.pixels.dtype == np.uint8
    assert difference(result.pixels, by_torchvision(image, recipe.interpolation)) <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 700), st.integers(4, 700), st.sampled_from([RECIPE, BICUBIC]))
def test_every_size_matches_torchvision(width: int, height: int, recipe: Recipe) -> None:
    image = makers.photograph().resize((width, height))
    result = preprocess(makers.encode(image, "PNG"), recipe)
    # Upscaling from a few pixels rounds differently at the edges of the crop; everywhere else it is one or two levels.
    apart = np.abs(result.pixels.astype(int) - by_torchvision(image, recipe.interpolation).astype(int))
    assert apart.mean() < 0.6
    assert np.quantile(apart, 0.99) <= 3


@pytest.mark.parametrize("orientation", makers.ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    image = makers.photograph()
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    result = preprocess(makers.turned(image, orientation, kind, **options))
    assert (result.width, result.height) == image.size
    if kind == "JPEG":
        assert np.abs(result.pixels.astype(int) - by_torchvision(image).astype(int)).mean() < 2
    else:
        assert difference(result.pixels, by_torchvision(image)) <= 2


@pytest.mark.parametrize("orientation", makers.ORIENTATIONS)
def test_a_large_turned_jpeg_matches_the_upright_one(orientation: int) -> None:
    large = enlarged()
    result = preprocess(makers.turned(large, orientation, quality=95))
    assert (result.width, result.height) == large.size
    assert np.abs(result.pixels.astype(int) - enlarged_by_torchvision().astype(int)).mean() < 0.5


@cache
def enlarged() -> Image.Image:
    return makers.photograph().resize((4510, 3001), Image.Resampling.BICUBIC)


@cache
def enlarged_by_torchvision() -> np.ndarray:
    return by_torchvision(enlarged())


def test_a_broken_exif_block_is_ignored() -> None:
    data = makers.encode(makers.photograph(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert preprocess(data).width == 451


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lambda: makers.encode(makers.photograph().convert("L")), "JPEG"),
        (lambda: makers.encode(makers.photograph().convert("CMYK")), "JPEG"),
        (lambda: makers.encode(makers.photograph().quantize(64), "PNG"), "PNG"),
        (lambda: makers.encode(makers.photograph().convert("LA"), "PNG"), "PNG"),
        (makers.sixteen_bit, "PNG"),
        (makers.animated, "WEBP"),
        (lambda: makers.animated("PNG"), "PNG"),
        (makers.mpo, "JPEG"),
        (lambda: makers.jpeg(progressive=True), "JPEG"),
    ],
    ids=["grey", "cmyk", "palette", "grey-alpha", "16-bit", "animated-webp", "animated-png", "mpo", "progressive"],
)
def test_unusual_images_look_like_the_photograph(data, kind: str) -> None:  # type: ignore[no-untyped-def]
    result = preprocess(data())
    assert result.format == kind
    grey = by_torchvision(makers.photograph()).mean(2)
    apart = np.abs(result.pixels.mean(2) - grey)
    assert np.corrcoef(result.pixels.mean(2).ravel(), grey.ravel())[0, 1] > 0.93
    assert apart.mean() < 12


def test_alpha_is_laid_over_white() -> None:
    clear = makers.flat((300, 300), (0, 0, 0, 0), "RGBA")
    assert (preprocess(makers.encode(clear, "PNG")).pixels == 255).all()
    palette = makers.flat((300, 300), 0, "P")
    assert (preprocess(makers.encode(palette, "PNG", transparency=0)).pixels == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    clear = Image.fromarray(np.full((300, 300), 7, np.uint16))
    assert (preprocess(makers.encode(clear, "PNG", transparency=7)).pixels == 255).all()
    half = Image.fromarray(np.full((300, 300), 0x8000, np.uint16))
    assert (preprocess(makers.encode(half, "PNG")).pixels == 128).all()


def test_a_large_jpeg_is_decoded_at_a_reduced_scale_and_looks_the_same() -> None:
    large = makers.photograph().resize((4510, 3000), Image.Resampling.BICUBIC)
    data = makers.encode(large, "JPEG", quality=92)
    result = preprocess(data)
    assert (result.width, result.height) == (4510, 3000)
    assert np.abs(result.pixels.astype(int) - by_torchvision(Image.open(io.BytesIO(data))).astype(int)).mean() < 0.5


def test_the_reduced_scale_keeps_740_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, whole = [], module.upright_crop
    monkeypatch.setattr(module, "upright_crop", lambda image, *rest: decoded.append(image.size) or whole(image, *rest))
    for side in (1480, 1500, 3000, 6000):
        preprocess(makers.encode(makers.flat((side, side)), "JPEG"), max_pixels=40_000_000)
    assert all(min(size) >= 740 for size in decoded)
    assert max(min(size) for size in decoded[1:]) <= 752


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_truncation_is_a_refusal(kind: str) -> None:
    data = makers.encode(makers.photograph().resize((60, 40)), kind)
    cuts = {*range(400), *range(400, len(data) - 20, 37)}
    for cut in sorted(cut for cut in cuts if cut < len(data) - 20):
        with pytest.raises(Refusal) as caught:
            preprocess(data[:cut])
        assert caught.value.status in (415, 422), cut


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "progressive"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_are_an_image_or_a_refusal(kind: str, changes: list[tuple[float, int]]) -> None:
    options = {"progressive": True} if kind == "progressive" else {}
    data = bytearray(
        makers.encode(makers.photograph().resize((60, 40)), kind.replace("progressive", "JPEG"), **options)
    )
    for place, value in changes:
        data[int(place * len(data))] = value
    with contextlib.suppress(UnsupportedFormat, BrokenImage, TooManyPixels, TooSmall, TooManyScans):
        assert preprocess(bytes(data)).pixels.shape == (224, 224, 3)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        preprocess(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (makers.encode(makers.flat(), "GIF"), "^This is a GIF; JPEG, PNG and WebP are accepted.$"),
        (b"BMI: 23", r"^This is not a JPEG, PNG or WebP image\.$"),
        (b"hello", r"^This is not a JPEG, PNG or WebP image\.$"),
        (b"", "empty"),
    ],
)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name):
        preprocess(data)


def test_a_format_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match=r"^This is a PNG; JPEG is accepted\.$"):
        preprocess(makers.encode(makers.flat(), "PNG"), formats=("jpeg",))


def test_eps_and_other_plugins_cannot_be_reached() -> None:
    with pytest.raises(UnsupportedFormat):
        preprocess(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


@pytest.mark.parametrize(
    ("size", "kind", "refused"),
    [
        ((5000, 5000), "JPEG", False),
        ((5001, 5000), "JPEG", True),
        ((5000, 2500), "PNG", False),
        ((5001, 2500), "PNG", True),
        ((5001, 2500), "WEBP", True),
    ],
)
def test_pixels_are_counted_from_the_header(size: tuple[int, int], kind: str, refused: bool) -> None:
    data = makers.encode(makers.flat(size), kind)
    if refused:
        with pytest.raises(TooManyPixels) as caught:
            preprocess(data)
        assert caught.value.value == size[0] * size[1]
        assert caught.value.limit == (25_000_000 if kind == "JPEG" else 12_500_000)
    else:
        assert (preprocess(data).width, preprocess(data).height) == size


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (12_501, 1000)])
def test_a_png_that_claims_too_much_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(TooManyPixels):
        preprocess(makers.png_claiming(*size))


def test_a_webp_that_claims_too_much_is_refused() -> None:
    data = bytearray(makers.encode(makers.flat((300, 300)), "WEBP", exif=makers.Image.Exif().tobytes() or b"Exif\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (16383 - 1).to_bytes(3, "little") * 2
    with pytest.raises(TooManyPixels):
        preprocess(bytes(data))


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (300, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_tiny_images_are_refused(size: tuple[int, int], kind: str) -> None:
    with pytest.raises(TooSmall) as caught:
        preprocess(makers.encode(makers.flat(size), kind))
    assert (caught.value.limit, caught.value.value) == (4, min(size))


def test_four_pixels_are_enough() -> None:
    assert preprocess(makers.encode(makers.flat((4, 4)), "PNG")).pixels.shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("L", "JPEG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG")]
)
@pytest.mark.parametrize("size", [(900, 700), (301, 2000)])
@pytest.mark.parametrize("recipe", [RECIPE, BICUBIC], ids=["bilinear", "bicubic"])
def test_converting_only_the_crop_gives_the_same_pixels(
    mode: str, kind: str, size: tuple[int, int], recipe: Recipe
) -> None:
    photograph = makers.photograph().resize(size)
    photograph.putalpha(Image.linear_gradient("L").resize(size))
    stored = makers.encode(photograph.quantize(64) if mode == "P" else photograph.convert(mode), kind)
    whole = crop.to_rgb(Image.open(io.BytesIO(stored)))
    box = crop.crop_box(size, recipe)
    assert (preprocess(stored, recipe).pixels == np.asarray(crop.crop(whole, box, 1.0, recipe))).all()


PEAK = """
import os, re, sys
from eyespot.errors import Refusal
from eyespot.types import Recipe
from eyespot.vision import crop, preprocess

def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

def show(path):
    data = open(path, "rb").read()
    before = memory("VmRSS")
    try:
        preprocess.preprocess(data, Recipe(256, 224, "bilinear", (0, 0, 0), (1, 1, 1)))
        said = "decoded"
    except Refusal as refusal:
        said = refusal.code
    print(said, (memory("VmHWM") - before) * 1024, flush=True)

for path in sys.argv[1:]:
    if not os.fork():  # so that each begins with the same memory
        show(path)
        os._exit(0)
    os.wait()
"""

STRIP, SQUARE = (65500, 381), (3535, 3535)
PEAKS: dict[str, tuple[Callable[[], bytes], str, int]] = {  # image, what becomes of it, most MB
    "progressive": (lambda: makers.encode(makers.flat((5000, 5000)), progressive=True), "decoded", 90),
    "progressive 4:2:2": (
        lambda: makers.encode(makers.flat((5000, 5000)), progressive=True, subsampling="4:2:2"),
        *("decoded", 115),
    ),
    "progressive 4:4:4": (
        lambda: makers.encode(makers.flat((5000, 5000)), progressive=True, subsampling="4:4:4"),
        *("decoded", 170),
    ),
    "progressive CMYK": (
        lambda: makers.encode(makers.flat((5000, 5000), 0, "CMYK"), progressive=True),
        *("too-much-memory", 15),
    ),
    "progressive strip": (
        lambda: makers.encode(makers.flat(STRIP), progressive=True, subsampling="4:4:4"),
        *("too-much-memory", 15),
    ),
    "not interleaved strip": (lambda: makers.not_interleaved(STRIP), "too-much-memory", 15),
    "not interleaved": (lambda: makers.not_interleaved((5000, 4000)), "decoded", 140),
    "CMYK strip": (lambda: makers.encode(makers.flat(STRIP, 0, "CMYK")), "decoded", 115),
    "RGBA": (lambda: makers.encode(makers.flat(SQUARE, 0, "RGBA"), "PNG", compress_level=1), "decoded", 110),
    "grey and alpha": (lambda: makers.encode(makers.flat(SQUARE, 0, "LA"), "PNG", compress_level=1), "decoded", 110),
    "16 bit": (lambda: makers.encode(makers.flat(SQUARE, 0, "I;16"), "PNG", compress_level=1), "decoded", 110),
    "RGB and a transparent colour": (
        lambda: makers.encode(makers.flat(SQUARE), "PNG", transparency=(0, 0, 0), compress_level=1),
        *("decoded", 110),
    ),
    "lossless WebP": (
        lambda: makers.encode(makers.flat(SQUARE, 0, "RGBA"), "WEBP", lossless=True, method=0),
        *("decoded", 170),
    ),
    "WebP": (lambda: makers.encode(makers.flat(SQUARE, (9, 9, 9, 9), "RGBA"), "WEBP", method=0), "decoded", 170),
}


@pytest.mark.needs("make test-all")  # ten seconds
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process took")
def test_no_image_takes_more_memory_than_the_manual_says(tmp_path: Path) -> None:
    """The manual says 170 MB for each worker."""
    for name, (make, *_) in PEAKS.items():
        (tmp_path / name).write_bytes(make())
    command = [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in PEAKS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    peaks = dict(zip(PEAKS, (line.split() for line in done.stdout.splitlines()), strict=True))
    assert {name: said for name, (said, _) in peaks.items()} == {name: said for name, (_, said, _) in PEAKS.items()}
    megabytes = {name: int(grown) / 1e6 for name, (_, grown) in peaks.items()}
    assert {name: grown for name, grown in megabytes.items() if grown >= PEAKS[name][2]} == {}


def test_too_much_memory_is_refused_with_the_limit() -> None:
    data = makers.encode(makers.flat((1600, 1200)), progressive=True, subsampling="4:4:4")
    coefficients, bitmap = 2 * 3 * 1600 * 1200, 4 * 1600 * 1200
    assert preprocess(data, max_pixels=3_000_000).width == 1600
    with pytest.raises(TooMuchMemory, match="baseline") as caught:
        preprocess(data, max_pixels=1_920_000)
    assert (caught.value.limit, caught.value.value) == (6.5 * 1_920_000, coefficients + bitmap)


def test_a_thin_strip_costs_what_a_photograph_does() -> None:
    """Resizing before cropping would make a bitmap of 1,920,000 x 256: 2 GB; this may take 100 MB."""
    script = (
        "import resource; from eyespot.vision.preprocess import preprocess; from tests import makers;"
        "data = makers.strip();"
        "from eyespot.types import Recipe; recipe = Recipe(256, 224, 'bilinear', (0, 0, 0), (1, 1, 1));"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "result = preprocess(data, recipe, max_pixels=25_000_000);"
        "assert (result.width, result.height) == (60000, 8);"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before; assert grown < 100_000, grown"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
