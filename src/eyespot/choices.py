"""The tables of image formats and engines; everything that lists either reads it here.

Paths such as `package.module:name` are resolved with `pkgutil.resolve_name` when one is chosen.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An image format that can be decoded."""

    name: str
    title: str
    signature: bytes  # regular expression for the first bytes
    suffixes: tuple[str, ...]
    media_type: str
    decoder: str  # path of a subclass of `PIL.ImageFile.ImageFile`
    pixel_factor: int = 2  # what a pixel counts; 1 if the format decodes at a reduced scale


_FORMATS = (
    ImageFormat(
        "jpeg",
        "JPEG",
        rb"\xff\xd8\xff",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # an MPO begins with a JPEG, which is what is read
        "image/jpeg",
        "PIL.JpegImagePlugin:JpegImageFile",
        pixel_factor=1,
    ),
    ImageFormat("png", "PNG", rb"\x89PNG\r\n\x1a\n", (".png",), "image/png", "PIL.PngImagePlugin:PngImageFile"),
    ImageFormat("webp", "WebP", rb"RIFF.{4}WEBP", (".webp",), "image/webp", "eyespot.vision.webp:WebPImageFile"),
)
FORMATS = {choice.name: choice for choice in _FORMATS}
SUFFIXES = tuple(suffix for choice in _FORMATS for suffix in choice.suffixes)

OTHER_FORMATS = (
    (rb"GIF8", "a GIF"),
    (rb"BM.{4}\0{4}", "a BMP"),
    (rb"II\*\0|MM\0\*", "a TIFF"),
    (rb".{4}ftyp(hei[cmsx]|hev[cx]|mif1|msf1)", "a HEIC image"),
    (rb".{4}ftypavi[fs]", "an AVIF image"),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\x0a|\0{3}\x0cJXL ", "a JPEG XL image"),
    (rb"%PDF", "a PDF"),
    (rb"\x89PNG", "a damaged PNG"),
    (rb"(?i)\s*(<(\?xml|!doctype svg|!--).{1,400})?<svg", "an SVG"),
    (rb"(?i)\s*<(!doctype html|html)", "an HTML page"),
)
"""What else is sent as an image: a regular expression for the first bytes, and what they are."""


def titles(formats: Iterable[str] = FORMATS, word: str = "or") -> str:
    """The formats as a sentence lists them: "JPEG, PNG or WebP"."""
    *others, last = (FORMATS[name].title for name in formats)
    return f"{', '.join(others)} {word} {last}" if others else last


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """A library that runs models."""

    name: str
    extra: str | None  # `pip install eyespot[extra]`; None if eyespot always installs it
    precisions: tuple[str, ...]
    engine: str  # path of what `vision.engines.load` calls
    exporter: str | None = None  # path of a function that writes an export; None if the engine loads torch weights
    files: frozenset[str] = frozenset()  # of an export


_OURS = "eyespot.vision.engines"
_ENGINES = (
    EngineChoice(
        "openvino",
        None,
        ("f32", "bf16", "int8"),
        f"{_OURS}.openvino:OpenVinoEngine",
        f"{_OURS}.openvino:convert",
        frozenset({"model.xml", "model.bin"}),
    ),
    EngineChoice(
        "ncnn",
        None,
        ("f32",),
        f"{_OURS}.ncnn:NcnnEngine",
        f"{_OURS}.ncnn:convert",
        frozenset({"model.param", "model.bin"}),
    ),
    EngineChoice("torch", "models", ("f32",), f"{_OURS}.torch:load"),
    EngineChoice(
        "onnxruntime",
        "onnxruntime",
        ("f32",),
        f"{_OURS}.onnx:OnnxEngine",
        f"{_OURS}.onnx:convert",
        frozenset({"model.onnx"}),
    ),
    EngineChoice(
        "torchscript",
        "torchscript",
        ("f32",),
        f"{_OURS}.torchscript:TorchScriptEngine",
        f"{_OURS}.torchscript:convert",
        frozenset({"model.pt"}),
    ),
)
ENGINES = {choice.name: choice for choice in _ENGINES}
