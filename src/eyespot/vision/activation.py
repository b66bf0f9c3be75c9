"""Class-activation maps: where in an image the evidence for a class lies (Zhou et al., CVPR 2016, arXiv:1512.04150)."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyespot.vision.engines import Features, Pixels, Weights

ActivationMap = npt.NDArray[np.float32]

# Matplotlib's inferno at 0, 0.25 to 1. Its lightness rises steadily, so it reads without colour vision.
_INFERNO = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
_OPACITY = 0.75  # of the heat map where it is strongest


def _colors(count: int) -> npt.NDArray[np.float64]:
    """`count` colours of the heat map, weak to strong, of shape (count, 3)."""
    places = np.linspace(0, len(_INFERNO) - 1, count)
    return np.stack([np.interp(places, range(len(_INFERNO)), channel) for channel in _INFERNO.T], axis=1)


def _palette(strengths: int, greys: int) -> Image.Image:
    """An image whose palette holds every blend of `strengths` levels of the heat map with `greys` levels of grey."""
    opacity = _OPACITY * np.linspace(0, 1, strengths)[:, None, None]
    colors = opacity * _colors(strengths)[:, None] + (1 - opacity) * np.linspace(0, 255, greys)[:, None]
    image = Image.new("P", (1, 1))
    image.putpalette(colors.round().astype(np.uint8).tobytes())
    return image


_HEAT = _colors(256).astype(np.uint8).tobytes()
_BLENDS = _palette(12, 21)


@dataclass(frozen=True, slots=True)
class Activation:
    """What each part of the model's input contributes to one class; `png` is the `overlay`, if it was asked for."""

    class_id: int
    map: ActivationMap
    png: bytes | None


def activation_map(features: Features, weights: Weights) -> ActivationMap:
    """The contribution of each cell to a class's logit, float32 (height, width): mean(map) + bias is the logit.

    `features` is the last feature map, (channels, height, width), and `weights` the class's row of the final layer.
    """
    return np.tensordot(weights, features, axes=1)


def overlay(pixels: Pixels, cells: ActivationMap) -> bytes:
    """A PNG of the pixels in grey under a heat map: opaque where the evidence is strong, clear without any.

    `pixels` is the model's input, uint8 RGB of shape (crop, crop, 3).
    """
    grey = Image.fromarray(pixels).convert("L")
    positive = Image.fromarray(np.maximum(cells, 0))
    smooth = np.asarray(positive.resize(grey.size, Image.Resampling.BICUBIC))  # overshoots, hence the clip
    levels = 255 * np.clip(smooth / max(float(smooth.max()), 1e-6), 0, 1)
    heat = Image.fromarray(levels.astype(np.uint8))
    opacity = heat.point([round(_OPACITY * level) for level in range(256)])
    heat.putpalette(_HEAT)
    blended = Image.composite(heat.convert("RGB"), grey.convert("RGB"), opacity)
    png = BytesIO()
    # 252 dithered colours look the same, at a third of the time and the size.
    blended.quantize(palette=_BLENDS).save(png, "PNG", compress_level=1)
    return png.getvalue()
